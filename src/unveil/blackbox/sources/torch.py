"""Ask a torch module: in eval mode, without gradients, in its own precision and on its own device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from unveil.blackbox.answers import first_line, shown
from unveil.blackbox.domain import DOUBLE, HALF
from unveil.blackbox.source import Questions
from unveil.blackbox.sources.held_inputs import HeldInputs
from unveil.blackbox.sources.lent import Lent
from unveil.blackbox.sources.structured import part_of
from unveil.outcome import BadInput, SourceError
from unveil.torch_weights import WHAT_TO_DO, saved_by_torch, with_weights

_HALF_BITS = {"torch.float16": HALF, "torch.bfloat16": 8}


class TorchSource:
    """A `torch.nn.Module`, also a TorchScript one.

    The module is put into eval mode for every batch and left as it was found. One in half precision gets questions
    that it can hold, and its answers keep the resolution they have. One that begins with an embedding is asked whole
    numbers, the numbers of its tokens.

    Args:
        module: Takes a tensor (N, *shape), gives a tensor whose first axis is N, or a dictionary, a dataclass or a
            tuple with such tensors.
        shape: Shape of one input; found by itself where the first layer with weights is linear.
        output: Name of the part of what it returns that is to be looked at.
        inputs: Values of its other inputs; see `HeldInputs`.

    Attributes:
        notes: What was chosen where the module left a choice.
        within: The legal numbers of tokens; None where inputs are no tokens.
        grid: 1 for tokens, else None.

    Raises:
        BadInput: The shape is not given and not found.
    """

    def __init__(
        self,
        module: Any,
        shape: tuple[int, ...] | None = None,
        output: str | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        import torch

        self.module = module
        self.name = type(module).__name__
        self._output, self._held = output, HeldInputs(inputs, module, self.name)
        weights = [p for p in module.parameters() if p.is_floating_point()]
        weights += [b for b in module.buffers() if b.is_floating_point()]
        self.kind = weights[0].dtype if weights else torch.get_default_dtype()
        # float16 has 11 bits of mantissa, bfloat16 8: questions are rounded to what the module really gets.
        self.input_bits = _HALF_BITS.get(str(self.kind), DOUBLE)
        self.answer_bits = DOUBLE
        self.device = weights[0].device if weights else torch.device("cpu")
        self.dtype: np.dtype[np.floating] = np.dtype(np.float64 if self.kind == torch.float64 else np.float32)
        self.within: tuple[float, float] | None = None
        self.grid: float | None = None
        self.notes: tuple[str, ...] = ()
        tokens = getattr(self._first_layer(), "num_embeddings", None)
        if isinstance(tokens, int):
            self.kind, self.input_bits = torch.int64, DOUBLE
            self.within, self.grid = (0.0, float(tokens - 1)), 1.0
            self.notes = (f"its inputs are asked as the numbers of {tokens:,} tokens, in steps of 1",)
        self.shape = shape if shape is not None else self._linear_inputs()
        self._sent = 0
        self._lent = Lent(self.name)
        self.takes_singles = self.kind == torch.float32

    @classmethod
    def from_file(
        cls,
        path: Path,
        shape: tuple[int, ...] | None = None,
        output: str | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> TorchSource:
        """A TorchScript file. Pickled modules and weights without their module are refused.

        Raises:
            SourceError: The file cannot be read as TorchScript.
        """
        import torch

        try:
            # torch.jit.load has its own reader, which builds tensors and nothing else; Python's pickle never runs.
            module = torch.jit.load(str(path), map_location="cpu")
        except Exception as error:
            if holds := saved_by_torch(path):
                raise SourceError(f"{shown(path.name)} holds {holds}{WHAT_TO_DO[holds]}") from None
            raise SourceError(
                f"{shown(path.name)} cannot be loaded as TorchScript: {first_line(error)}; of torch, only TorchScript "
                "files and nn.Module objects are taken: save it with torch.jit.script(...).save, export it to ONNX, or "
                "load it yourself (torch.load with weights_only=True) and pass the module; a file of weights alone "
                "needs module= (--module FILE.PY:NAME)"
            ) from None
        source = cls(module, shape, output, inputs)
        source.name = shown(path.name)
        return source

    @classmethod
    def from_weights(
        cls,
        path: Path,
        module: Any,
        shape: tuple[int, ...] | None = None,
        output: str | None = None,
        inputs: Mapping[str, Any] | None = None,
    ) -> TorchSource:
        """A file of weights, and the module (or its class, called without arguments) that they belong to.

        Raises:
            BadInput: They do not fit the module.
            SourceError: The file cannot be read.
        """
        source = cls(with_weights(module, path), shape, output, inputs)
        source.name = shown(path.name)
        return source

    def answer(self, x: Questions) -> np.ndarray:
        import torch

        self._sent += len(x)
        converted = x.reshape(len(x), *self.shape).astype(self.dtype, copy=False)
        given = self._lent.lend(converted)
        question = torch.from_numpy(given)

        def made(value: Any) -> Any:
            return torch.from_numpy(value).to(self.device) if isinstance(value, np.ndarray) else value

        with torch.no_grad(), _evaluating(self.module):
            said = self._held.call(self.module, question.to(self.device, self.kind), len(x), made)
        self._lent.returned(converted, given)
        y, note = part_of(said, len(x), self.name, self._output)
        if note and len(x) > 1 and note not in self.notes:  # a single question fits whatever has one row
            self.notes = (*self.notes, note)
        if not isinstance(y, torch.Tensor):
            raise SourceError(
                f"{self.name} answered with a {type(y).__name__} instead of a tensor; "
                "pass a module (or a function) that picks the tensor to be looked at"
            )
        y = y.detach().cpu()
        half = str(y.dtype) in _HALF_BITS
        self.answer_bits = _HALF_BITS.get(str(y.dtype), DOUBLE)
        return np.asarray((y.to(torch.float32) if half else y).numpy())

    def attempts(self) -> int:
        sent, self._sent = self._sent, 0
        return sent

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for key, value in sorted(self.module.state_dict().items()):
            digest.update(key.encode())
            if hasattr(value, "detach"):
                digest.update(np.ascontiguousarray(value.detach().cpu().double().numpy()).tobytes())
        return f"torch {self.name} {self.shape} {digest.hexdigest()}"

    def _first_layer(self) -> Any:
        """The first layer that has weights; None if there is none."""
        layers = self.module.modules()
        return next((layer for layer in layers if next(layer.parameters(recurse=False), None) is not None), None)

    def _linear_inputs(self) -> tuple[int, ...]:
        inputs = getattr(self._first_layer(), "in_features", None)
        if isinstance(inputs, int):
            return (inputs,)
        raise BadInput(f"{self.name} does not tell the shape of its input; pass shape=, e.g. shape=(3, 32, 32)")


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Eval mode inside, and every part's own mode again outside."""
    training = [part for part in module.modules() if part.training]
    if training:
        module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
