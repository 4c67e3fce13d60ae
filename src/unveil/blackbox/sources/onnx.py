"""Ask an ONNX file through onnxruntime, many questions at once whatever batch axis it declares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unveil.blackbox.answers import first_line, shown
from unveil.blackbox.domain import DOUBLE, HALF
from unveil.blackbox.source import Questions
from unveil.blackbox.sources.onnx_batch import Signature, batched, signature, whole_range
from unveil.blackbox.sources.onnx_file import extent, in_single_precision, read_model
from unveil.onnx_graph import hold_inputs, one_output
from unveil.outcome import BadInput, SourceError

_NUMPY = {
    1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64",
}  # fmt: skip

# Wide layers multiply the size of a batch: no value inside may take more than this many numbers (256 MB in float32).
LARGEST_INSIDE = 2**26


class Unbounded(SourceError):
    """A graph whose values have shapes that only running it tells: it may take any amount of time and memory."""


class OnnxSource:
    """An ONNX file of which one input is asked, on the CPU.

    A batch axis that is fixed or missing is made free. Loading asks the model a few random questions, batched and one
    by one, to see that this changes nothing; if it does, questions go out one by one. No method sees those answers.

    Inputs of whole numbers (bytes, numbers of tokens) are asked in steps of 1.

    A float64 model stays in float64; where onnxruntime has no float64 kernel (convolution, pooling) it runs in float32.

    Args:
        path: The file. Weights kept in other files must lie in the same folder.
        shape: Shape of one input; needed where the file leaves it open.
        output: Name of the output to look at; by default probabilities before other numbers before labels. A ZipMap's
            columns are asked as they are.
        inputs: Values of its other inputs, by name, which are held constant.
        threads: Threads of onnxruntime; by default `OMP_NUM_THREADS`, or all cores.
        trusted: Whether to run a graph whose sizes are not known beforehand.

    Attributes:
        notes: What was chosen where the file left a choice.
        looped: Whether questions go out one by one.
        in_steps: Why answers have no slope anywhere; empty if nothing in the file says so.
        within: The legal range of whole numbers: of bytes, or of the table that they choose from; else None.
        grid: 1 for whole numbers, else None.

    Raises:
        SourceError: The file cannot be read, is not valid, or cannot be run.
        Unbounded: It is not trusted, and its sizes are not known beforehand: `Confined` runs such a file.
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, ...] | None = None,
        output: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        threads: int | None = None,
        trusted: bool = True,
    ) -> None:
        path = Path(path)
        self.name = shown(path.name)
        self.threads = threads if threads is not None else int(os.environ.get("OMP_NUM_THREADS") or 0)
        model, self._digest = read_model(path)
        try:
            hold_inputs(model, inputs)
            said = one_output(model, output)
        except BadInput as error:
            raise SourceError(f"{self.name}: {shown(str(error), 600)}") from None
        self.notes: tuple[str, ...] = (said,) if said else ()
        output = model.graph.output[0].name
        self.signature = signature(model, self.name, shape, output)
        if self.signature.kind not in _NUMPY:
            raise SourceError(
                f"{self.name}: its input is of ONNX type {self.signature.kind}, which cannot be asked with numbers"
            )
        fixed = self.signature.batch or 1
        sides = self.signature.shape if self.signature.batch is None else (fixed, *self.signature.shape)
        found = extent(model, self.name, self.signature.input, sides, fixed)
        if not (found.bounded or trusted):
            raise Unbounded(f"{self.name} does not tell beforehand how much it will compute")
        try:
            single = self._session(model)
        except SourceError as refused:
            if self.signature.kind != 11:
                raise
            try:
                model = in_single_precision(model)
            except Exception:
                raise refused from None
            self.signature = signature(model, self.name, shape, output)
            single = self._session(model)
        self.kind = np.dtype(_NUMPY[self.signature.kind])
        wide = self.kind == np.float64 or (self.kind.kind in "iu" and self.kind.itemsize > 2)
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64 if wide else np.float32)
        whole = self.kind.kind in "iub"
        self.within = whole_range(model, self.signature.input, self.kind) if whole else None
        self.grid = 1.0 if whole else None
        if whole:
            between = f" from {self.within[0]:.0f} to {self.within[1]:.0f}" if self.within else ""
            self.notes = (*self.notes, f"its inputs are whole numbers ({self.kind}), asked in steps of 1{between}")
        self.takes_singles = self.kind == np.float32  # a session reads its inputs and no more
        self.input_bits = HALF if self.kind == np.float16 else DOUBLE
        trees = sorted({node.op_type for node in model.graph.node if node.op_type.startswith("TreeEnsemble")})
        self.in_steps = "decision trees" if trees else ""
        self.shape = self.signature.shape
        self._sent, self._axis = 0, 0
        self._rows = max(1, LARGEST_INSIDE // max(1, found.widest // fixed))
        self._mixes = False
        many = self._many(model, single)
        self.looped = many is None
        if self._mixes:
            self.notes = (
                *self.notes,
                "what it answers depends on what else is in the batch: each question is asked alone",
            )
        self.session = single if many is None else many

    def answer(self, x: Questions) -> np.ndarray:
        self._sent += len(x)
        question = x.reshape(len(x), *self.shape)
        if self.kind.kind in "iub" and not (question == question.astype(self.kind)).all():
            raise SourceError(
                f"{self.name} takes {self.kind} inputs; ask it whole numbers only: pass grid=1 and e.g. within=(0, 255)"
            )
        question = question.astype(self.kind, copy=False)
        if self.looped:
            return _one_by_one(self.session, self.signature, question)
        if len(question) <= self._rows:
            return self._together(question)
        parts = (question[i : i + self._rows] for i in range(0, len(question), self._rows))
        return np.concatenate([self._together(part) for part in parts])

    def _together(self, question: np.ndarray) -> np.ndarray:
        answers = _run(self.session, self.signature, question)
        return np.moveaxis(answers, self._axis, 0) if self._axis else answers

    def attempts(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        return f"onnx {self._digest} {self.signature.output} {self.shape}"

    def _session(self, model: Any) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Waiting threads would otherwise burn the cores that the method itself needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # From bytes, so that onnxruntime itself never follows a path in the file.
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise SourceError(f"{self.name} cannot be run by onnxruntime: {first_line(error)}") from None

    def _many(self, model: Any, single: Any) -> Any | None:
        """A session that takes any number of questions and answers like `single`; None if there is no such."""
        rng = np.random.default_rng(5)
        size = (3, *self.shape)
        low, high = self.within or (0, 1)
        points = (rng.integers(int(low), int(high) + 1, size) if self.grid else rng.uniform(0, 1, size)).astype(
            self.kind
        )
        try:
            truth = _one_by_one(single, self.signature, points)
        except Exception as error:
            raise SourceError(f"{self.name} cannot be asked with shape {self.shape}: {first_line(error)}") from None
        if self._rows < len(points):
            return None
        for rewrite in (True, False):
            try:
                session = self._session(batched(model, self.signature, rewrite))
                answers = _run(session, self.signature, points)
            except Exception:
                continue  # then it cannot be batched this way
            if answers.size != truth.size:
                continue
            self._mixes = not rewrite  # unless it is the same below
            # Some networks put time first: their questions lie along the second axis.
            for axis in [axis for axis, length in enumerate(answers.shape[:3]) if length == len(points)]:
                if _same(np.moveaxis(answers, axis, 0).reshape(truth.shape), truth):
                    self._axis, self._mixes = axis, False
                    return session
        return None


def _run(session: Any, signature: Signature, question: np.ndarray) -> np.ndarray:
    return np.asarray(session.run([signature.output], {signature.input: question})[0])


def _one_by_one(session: Any, signature: Signature, question: np.ndarray) -> np.ndarray:
    """Answers of the file as it stands; a fixed batch is filled with copies of the question."""
    rows = []
    for one in question:
        given = one if signature.batch is None else np.broadcast_to(one, (signature.batch, *one.shape))
        y = _run(session, signature, np.ascontiguousarray(given))
        rows.append(y[0] if signature.batch not in (None, 1) else y)
    return np.stack(rows).reshape(len(question), -1)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to another order of summation."""
    if a.dtype.kind != "f":
        return bool((a == b).all())
    tolerance = 1e-9 if a.dtype == np.float64 else 1e-2 if a.dtype == np.float16 else 1e-4
    size = np.abs(b).max(where=np.isfinite(b), initial=1e-30)
    return bool(np.allclose(a, b, rtol=0, atol=tolerance * float(size), equal_nan=True))
