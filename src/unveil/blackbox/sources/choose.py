"""as_oracle: finds the way of asking that fits a model, looks at its first answers, and wraps what they need."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unveil.blackbox.domain import Within, box, require_grid
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.source import Source
from unveil.blackbox.source_oracle import SourceOracle
from unveil.blackbox.sources.callable import CallableSource
from unveil.blackbox.sources.first_look import first_look, require_answers
from unveil.blackbox.sources.held_inputs import refuse_inputs
from unveil.blackbox.wrappers import LabelsOnly, LogRatios, Restricted
from unveil.keras_graph import ENDINGS
from unveil.outcome import BadInput, UnveilError

# What objects answer with that are no models of a known kind.
ASKED_METHODS = ("predict_proba", "decision_function", "predict", "transform", "forward")
# Files of weights without the computation, and how each becomes something that can be asked.
WEIGHTS_ALONE = dict.fromkeys(
    (".safetensors", ".ckpt"),
    "it holds weights without a model: pass the torch module they belong to, or its class, as module=Net (--module "
    "file.py:Net)",
)


def as_oracle(  # noqa: PLR0913 - options of a public verb
    source: Callable[[np.ndarray], np.ndarray] | Oracle | Source | str | Path | Any,
    shape: int | Sequence[int] | None = None,
    within: Within | None = None,
    grid: float | None = None,
    budget: int | None = None,
    store: str | Path | None = None,
    answers: str = "auto",
    noisy: bool = False,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    trusted: bool = True,
    module: Any = None,
) -> Oracle:
    """Make an oracle of anything that can be asked, and look at its first answers.

    Args:
        source: A function from (N, *shape) to (N, m), a `torch.nn.Module`, the path of an `.onnx` file (or
            a TorchScript `.pt` file), a scikit-learn estimator, the URL of a served model, a `Source`, or an oracle.
        shape: Shape of one input, e.g. 784 or (1, 28, 28). Needed where the source does not tell, as a bare function.
        within: The legal box `(low, high)`: nothing outside is ever asked. Two numbers, or arrays with one bound per
            input.
        grid: The legal step, counted from `low`, e.g. 1/255 for 8-bit images in (0, 1).
        budget: The largest number of queries; a batch that would cross it is refused before it is asked.
        store: A file that keeps every answer, so that no query is paid for twice.
        answers: "auto" looks and chooses. "values": numbers as they are. "probabilities": asked through log-ratios (the
            logit for a single one, and for each of several whose rows do not sum to 1), which undoes a softmax.
            "labels": integers, booleans or class names as they are; of values the class of the largest, or for one
            output whether it reaches 0 (0.5 if the first answers all lie in [0, 1], and then it is an error if a later
            one does not; for another threshold use `LabelsOnly`).
        noisy: Whether the same question may get different answers; `resolution` then tells their spread.
        output: Which output of several: of an ONNX file (by default probabilities before other numbers before labels),
            or of what a module or a function returns (a dictionary, a dataclass, a tuple; by default `logits`).
        inputs: Values of a model's other inputs, by name, which are held constant: `{"rate": 16000}`. `...` marks the
            one that is asked, where that is not the only one left. Of an ONNX file, a torch module or a function.
        trusted: Whether a file may take what time and memory it likes. If not, one that does not tell beforehand how
            much it computes (and any TorchScript) runs in a process of its own, within 60 s a batch and 4 GB.
        module: The torch module (or its class, called without arguments) that a file of weights belongs to.

    Returns:
        The oracle. Its ledger has been charged for the first look.

    Raises:
        BadInput: Nothing that can be asked, or an option that does not fit; nothing was asked.
        BudgetExceeded: The budget is less than the first look costs.
        SourceError: The model cannot be loaded or does not answer in a usable way.
        UnsteadyAnswers: The same question got two different answers, by chance or because others were asked with it.

    Queries: `8`: four points, together and then in other company; 2 more for each that gets NaN, 60 or 252
        where answers look sorted, 16 where they look like counts, 16 where a server writes whole numbers. None for an
        oracle.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: np.maximum(x, 0).sum(axis=1), shape=3, within=(-1, 1), budget=100)
        >>> oracle(np.array([[1.0, -1.0, 0.5]])).item()
        1.5
        >>> oracle.ledger.asked  # this one, and eight to see what answers look like
        9
    """
    require_answers(answers)
    grid = require_grid(grid, box(within))
    if isinstance(source, Oracle):
        refuse_inputs(inputs, source.name)
        return _around(source, within, grid, budget, store, answers)
    chosen = source_of(source, None if shape is None else _shape(shape), answers, output, inputs, trusted, module)
    # A list of prompts, say, has legal questions of its own.
    within = box(getattr(chosen, "within", None) if within is None else within, math.prod(chosen.shape))
    grid = require_grid(getattr(chosen, "grid", None) if grid is None else grid, within)
    if store is not None:
        from unveil.blackbox.store import StoredSource

        # Beneath everything else, so that the first look and what had arrived of a failed batch are kept too.
        chosen = StoredSource(chosen, store, check=not noisy)
    ledger = Ledger(budget)
    try:
        look = first_look(chosen, ledger, within, grid, answers, noisy)
    except UnveilError as error:
        error.sent = ledger.sent
        raise
    oracle: Oracle = SourceOracle(
        chosen,
        m=look.m,
        within=within,
        grid=grid,
        ledger=ledger,
        answers="labels" if look.kind == "labels" else "values",
        resolution=look.resolution,
        dtype=look.dtype,
        classes=getattr(chosen, "classes", None) or look.classes,
        scale=look.scale,
        mantissa=look.digits.mantissa,
        step=look.digits.step,
        canary=look.canary,
        seen=look.digest,
    )
    oracle.noise, oracle.signal, oracle.ordered = look.noise, look.signal, look.ordered
    oracle.cut = 0.5 if look.m == 1 and look.unit and look.kind != "labels" else 0.0
    oracle.in_steps = str(getattr(chosen, "in_steps", ""))
    oracle.notes = (*getattr(chosen, "notes", ()), *look.notes, *_notes_on(oracle))
    if look.assumed:
        warnings.warn(f"{oracle.name}: {look.assumed}", stacklevel=2)
    if look.kind == "probabilities":
        oracle = LogRatios(oracle, reference=look.reference, each=look.reference is None)
    if answers == "labels" and look.kind != "labels":
        oracle = LabelsOnly(oracle)
    return oracle


def _notes_on(oracle: Oracle) -> tuple[str, ...]:
    if not oracle.in_steps:
        return ()
    return (
        f"answers come in steps ({oracle.in_steps}), without a slope anywhere: ask for labels (answers='labels', "
        "--answers labels), or for scores before the steps",
    )


def source_of(  # noqa: PLR0913 - options of a public verb
    source: Any,
    shape: tuple[int, ...] | None = None,
    answers: str = "auto",
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    trusted: bool = True,
    module: Any = None,
) -> Source:
    """The way of asking that fits; each is imported only when it is needed.

    Raises:
        BadInput: Nothing that can be asked, or a missing or wrong shape.
        SourceError: The model cannot be loaded.
    """
    if module is not None:
        from unveil.blackbox.sources.torch import TorchSource

        if not isinstance(source, str | Path):
            raise BadInput(f"module= goes with a file of weights; got a {type(source).__name__}")
        return TorchSource.from_weights(Path(source), module, shape, output, inputs)
    if isinstance(source, str | Path) and not str(source).startswith(("http://", "https://")):
        return from_file(Path(source), shape, output, inputs, trusted)
    if isinstance(source, type):
        raise BadInput(
            f"{source.__name__} is a class, and what is asked is a model: pass one that was made and trained"
        )
    if _is_torch_module(source):
        from unveil.blackbox.sources.torch import TorchSource

        return TorchSource(source, shape, output, inputs)
    ready = hasattr(source, "answer") and hasattr(source, "attempts") and hasattr(source, "fingerprint")
    estimator = hasattr(source, "predict") and hasattr(source, "get_params")
    if callable(source) and not ready and not estimator:
        if shape is None and isinstance(getattr(source, "n", None), int):
            shape = (source.n,)
        if shape is None:
            raise BadInput("a bare function needs shape=, e.g. shape=784 or shape=(1, 28, 28)")
        return CallableSource(source, shape, output, inputs)
    refuse_inputs(inputs, str(source))
    if output is not None:
        raise BadInput(f"output= chooses among the outputs of a file, a module or a function; {source!s:.80} is none")
    if isinstance(source, str):
        from unveil.blackbox.sources.http import HttpSource

        return HttpSource(source, shape=shape)
    if ready:
        asked: Source = source
        return asked
    if estimator:
        from unveil.blackbox.sources.sklearn import SklearnSource

        return SklearnSource(source, answers)
    methods = [name for name in ASKED_METHODS if callable(getattr(source, name, None))]
    hint = f"; pass one of its methods ({', '.join(methods)}), with shape=" if methods else ""
    raise BadInput(
        f"cannot ask a {type(source).__name__}; expected a function, a torch module, a scikit-learn estimator, "
        f"the path of an .onnx file or the URL of a served model{hint}"
    )


def from_file(
    path: Path,
    shape: tuple[int, ...] | None = None,
    output: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    trusted: bool = True,
) -> Source:
    """The way of asking a file; one that is not trusted runs in this process only where its graph bounds what it takes.

    Raises:
        BadInput: The file is of a kind that cannot be asked.
        SourceError: It cannot be loaded.
    """
    kind = path.suffix.lower()
    if kind == ".onnx" or kind in ENDINGS:
        from unveil.blackbox.sources.onnx import OnnxSource, Unbounded

        try:
            return OnnxSource(path, shape, output, inputs, trusted=trusted)
        except Unbounded:
            from unveil.blackbox.sources.confined import Confined

            return Confined(path, shape, output, inputs)
    if kind in (".pt", ".pth", ".ts", ".jit"):
        if not trusted and path.is_file():
            from unveil.blackbox.sources.confined import Confined

            return Confined(path, shape, output, inputs)
        from unveil.blackbox.sources.torch import TorchSource

        return TorchSource.from_file(path, shape, output, inputs)
    hint = "export the model to ONNX, or load it yourself and pass the object"
    if kind in (".pkl", ".pickle", ".joblib"):
        hint = "pickles can run anything and are never opened; load it yourself if you trust it, and pass the object"
    elif kind in WEIGHTS_ALONE:
        hint = WEIGHTS_ALONE[kind]
    elif kind == ".py":
        hint = f"a function in it is named behind a colon: {path}:predict, which takes (N, n) and gives (N, m)"
    elif kind == ".npz":
        hint = "load its weights with unveil.load and pass the network"
    raise BadInput(f"cannot ask the file {str(path)!r}: expected .onnx, a TorchScript .pt or a URL; {hint}")


def _is_torch_module(source: Any) -> bool:
    return any(c.__name__ == "Module" and c.__module__ == "torch.nn.modules.module" for c in type(source).__mro__)


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    sides = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if not sides or any(not isinstance(d, int | np.integer) or d < 1 for d in sides):
        raise BadInput(f"shape must be a positive integer or several, e.g. 784 or (1, 28, 28); got {shape!r}")
    if math.prod(int(d) for d in sides) > 2**31:
        raise BadInput(f"shape {shape!r} has more than 2^31 inputs")
    return tuple(int(d) for d in sides)


def _around(
    oracle: Oracle,
    within: Within | None,
    grid: float | None,
    budget: int | None,
    store: str | Path | None,
    answers: str,
) -> Oracle:
    """The same oracle, with what the options add."""
    if budget is not None:
        oracle.ledger.budget = budget
    oracle = _stored(oracle, store)
    if within is not None or grid is not None:
        oracle = Restricted(oracle, within, grid)
    if answers == "probabilities":
        return LogRatios(oracle)
    if answers == "labels" and oracle.answers != "labels":
        return LabelsOnly(oracle)
    if answers == "values" and oracle.answers == "labels":
        raise BadInput(f"{oracle.name} answers labels; values cannot be made of them")
    return oracle


def _stored(oracle: Oracle, store: str | Path | None) -> Oracle:
    if store is None:
        return oracle
    from unveil.blackbox.store import Stored

    return Stored(oracle, store)
