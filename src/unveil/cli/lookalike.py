"""unveil lookalike: another input with exactly the same features, as near to a target as they allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unveil.cli.command import command
from unveil.cli.files import Force, keep, require_fresh
from unveil.cli.normalised import Normalised
from unveil.cli.option_texts import held
from unveil.cli.options import Common, Examples, Fix, LayerNumber, OutputName, Scale

if TYPE_CHECKING:
    import numpy as np

    from unveil.blackbox.oracle import Oracle
    from unveil.whitebox.large_change import LargeChange
    from unveil.whitebox.lookalike import Comparison, Lookalike

LEAST_SHARE_TO_TARGET = 1e-6
"""A smaller share of the way to the target is none."""


@command
def lookalike(
    network: Annotated[Path, typer.Argument(help="A network, .onnx or .npz.", show_default=False)],
    inputs: Examples,
    common: Common,
    normalised: Normalised,
    x: Annotated[
        int | None, typer.Option(help="Which example's features to keep; by default one that forgets most.")
    ] = None,
    target: Annotated[int | None, typer.Option(help="Which example to look like; by default another class.")] = None,
    layer: LayerNumber = 0,
    within: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="The legal range of every input; by default 0,1 if the examples lie in it, else theirs.",
            show_default=False,
        ),
    ] = None,
    norm: Annotated[int, typer.Option(min=1, max=2, help="Near in the 1-norm or the 2-norm.")] = 1,
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=0, help="Instead: the largest change found that moves every logit by at most this.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write x, z and the target to this .npz.", show_default=False)
    ] = None,
    scale: Scale = None,
    output: OutputName = None,
    fix: Fix = None,
    force: Force = False,
) -> None:
    """Find an input near a target that has exactly the features of x, and ask the model in the file about both.

    Exit code 1 where its answers differ by more than single precision, or --epsilon, allows.

    Example: unveil lookalike model.onnx --inputs digits.npz --x 0 --target 3 --out pair.npz
    """
    import numpy as np

    from unveil.blackbox.sources import as_oracle
    from unveil.cli.inputs import read_for
    from unveil.cli.option_texts import interval
    from unveil.outcome import BadInput, Outcome
    from unveil.whitebox.formats import load
    from unveil.whitebox.large_change import large_change
    from unveil.whitebox.lookalike import lookalike as find

    require_fresh(out, force, ".npz")
    known = load(network, output, held(fix))
    mean, deviation = normalised.units(known.shape)
    given = read_for(known, inputs, None if within is None else interval(within), scale, note=common.note)
    low, high = (0.0, 1.0) if within is None else interval(within)
    if within is None and (given.x.min() < low or given.x.max() > high):
        low, high = float(given.x.min()), float(given.x.max())
        common.note(f"the legal range is that of the examples, {low:g} to {high:g}; --within sets another")
    # From here on inputs are what the network gets.
    legal = ((low - mean) / deviation, (high - mean) / deviation)
    # The original, where there is one to ask: onnxruntime on the very file, in its own precision.
    if network.suffix.lower() == ".onnx":
        asked = "the file"
        oracle = as_oracle(str(network), within=legal, output=output, inputs=held(fix), trusted=False)
    else:
        asked, oracle = "our evaluation", as_oracle(known.logits, shape=known.shape, within=legal)
    examples = oracle.nearest((given.x - mean) / deviation)
    for name, number in (("--x", x), ("--target", target)):
        if number is not None and not 0 <= number < len(examples):
            raise BadInput(f"{name} must be 0 to {len(examples) - 1}: there are {len(examples)} examples; got {number}")
    level = known.level(layer)
    if x is None:
        x = int((known.preactivations(examples)[level] > 0).sum(axis=1).argmin())
    classes = known.logits(examples).argmax(axis=1)

    def ask(points: np.ndarray) -> np.ndarray:
        return oracle(oracle.nearest(points))

    if epsilon is not None:
        change = large_change(known, examples[x], epsilon, within=legal)
        _write(out, x=change.x * deviation + mean, z=change.z * deviation + mean)
        _tell_change(common, change, oracle, {"x": x, "epsilon": epsilon, "asked": asked})
        return
    if target is None:
        others = np.flatnonzero(classes != classes[x])
        target = int(others[0]) if others.size else (x + 1) % len(examples)
    if target == x:
        raise BadInput(
            f"example {x} cannot be made to look like itself; pass another --target, or --inputs with more examples"
        )
    found = find(known, examples[x], examples[target], level, within=legal, norm=norm)
    answer = found.check(ask)
    _tell(common, found, answer, {"x": x, "target": target, "layer": level, "norm": norm, "asked": asked})
    pair = {"x": found.x, "z": found.z, "target": found.target}
    _write(out, **{name: np.clip(each * deviation + mean, low, high) for name, each in pair.items()})
    common.end(Outcome.complete if answer.holds else Outcome.check_failed)


def _tell_change(common: Common, change: LargeChange, oracle: Oracle, where: dict[str, Any]) -> None:
    """How far an example can change where answers may move a little; ends with what the model's own answers say."""
    from unveil.outcome import Outcome
    from unveil.whitebox.lookalike import SINGLE_PRECISION_ERROR

    difference = change.check(lambda points: oracle(oracle.nearest(points)))
    told = where | {
        "change": change.change, "most": change.most, "share": change.manipulation, "moves": change.moves,
        "difference": difference,
    }  # fmt: skip
    common.tell(
        told,
        f"example {where['x']} can change by {change.change:.4g} of {change.most:.4g} in the 1-norm (a lower bound)",
        f"the model's answers then differ by {difference:.2g}; {change.moves} linear regions entered",
    )
    # Log-ratios are differences of two logits, each of which may move.
    allowed = change.epsilon * (1 if oracle.reference is None else 2) + SINGLE_PRECISION_ERROR * max(1.0, oracle.scale)
    common.end(Outcome.complete if difference <= allowed else Outcome.check_failed)


def _tell(common: Common, found: Lookalike, answer: Comparison, where: dict[str, Any]) -> None:
    """How near an input with the same features comes, and what the model says of it."""
    x, target, norm, level = (where[name] for name in ("x", "target", "norm", "layer"))
    figures = where | {
        "distance": found.distance, "start": found.start, "bound": found.bound, "manipulation": found.manipulation,
        "deviation": found.deviation, "moves": found.moves, "difference": answer.difference,
        "predictions": list(answer.predictions),
    }  # fmt: skip
    first, second, third = answer.predictions
    near = f"an input {found.distance:.4g} from example {target} (example {x} is {found.start:.4g} away), {norm}-norm"
    common.tell(
        figures,
        near if found.manipulation > LEAST_SHARE_TO_TARGET else f"{near}: these features leave no way there",
        f"features after layer {level} differ from those of example {x} by {found.deviation:.2g}; "
        f"{found.moves} linear regions entered",
        f"the model says class {first} to example {x}, {second} to the lookalike, {third} to the target; "
        f"its answers to the first two differ by {answer.difference:.2g}",
    )


def _write(out: Path | None, **arrays: np.ndarray) -> None:
    if out is not None:
        from unveil.audit.figures import write_arrays

        keep(out, lambda path: write_arrays(path, arrays))
