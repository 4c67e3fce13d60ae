"""Step: one node of an ONNX graph with its operands, and what its attributes say."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from unveil.outcome import BadInput
from unveil.whitebox.activation import SELU_ALPHA, SELU_SCALE, Activation, activation, by_rows, clip, leaky_relu
from unveil.whitebox.formats.affine import Value

Operand = Value | np.ndarray

OURS = "unveil"
"""Domain of the functions that `onnx_out` writes into a model: activations that runtimes lack in double precision."""


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the graph with its operands."""

    node: onnx.NodeProto
    operands: list[Operand | None]
    attributes: dict[str, Any]
    opset: int

    @property
    def label(self) -> str:
        return f"{self.node.op_type} {self.node.name or '-> ' + self.node.output[0]!r}"

    def refuse(self, why: str) -> BadInput:
        return BadInput(f"node {self.label}: {why}")

    def widest(self) -> Value:
        """The first operand that depends on the input, at any place."""
        found = next((v for v in self.operands if isinstance(v, Value)), None)
        if found is None:
            raise self.refuse("one of its inputs should depend on the network's input")
        return found

    @property
    def value(self) -> Value:
        """The one operand that depends on the input, which must be the first."""
        if not self.operands or not isinstance(self.operands[0], Value):
            raise self.refuse("its first input should depend on the network's input")
        return self.operands[0]

    def constant(self, position: int, otherwise: Any = None) -> np.ndarray | None:
        """An operand that must not depend on the input."""
        found = self.operands[position] if position < len(self.operands) else None
        if isinstance(found, Value):
            raise self.refuse(
                f"its input {position} depends on the network's input; only a constant can be represented"
            )
        return otherwise if found is None else found

    def alpha(self, otherwise: float) -> float:
        """The parameter of an activation: an attribute in ONNX (single precision), an input in our own functions."""
        if self.node.domain == OURS:
            return float(np.ravel(np.asarray(self.constant(1)))[0])
        return float(self.attributes.get("alpha", otherwise))

    def gelu(self) -> Activation:
        return activation("gelu" if self.attributes.get("approximate", b"none") == b"none" else "gelu_tanh")

    def selu(self) -> Activation:
        """Its two constants may be attributes; others than the usual ones are an ELU and a factor."""
        given = [
            float(self.attributes.get(name, usual)) for name, usual in (("alpha", SELU_ALPHA), ("gamma", SELU_SCALE))
        ]
        if not np.allclose(given, (SELU_ALPHA, SELU_SCALE), rtol=1e-6):
            raise self.refuse(f"only its usual constants {SELU_ALPHA:.4f} and {SELU_SCALE:.4f} can be represented")
        return activation("selu")

    def clip(self) -> Activation:
        """Its ends are attributes before opset 11, and inputs since."""
        ends = []
        for name, position, open_end in (("min", 1, -np.inf), ("max", 2, np.inf)):
            given = self.attributes.get(name, self.constant(position))
            ends.append(open_end if given is None else float(np.ravel(given)[0]))
        return activation("relu") if ends == [0.0, np.inf] else clip(*ends)

    def prelu(self) -> Activation:
        """Every neuron with the slope of its own."""
        slopes = np.broadcast_to(np.asarray(self.constant(1), float), self.value.shape).ravel()
        edges = np.flatnonzero(np.diff(slopes, prepend=np.nan, append=np.nan))
        return by_rows([(leaky_relu(float(slopes[a])), int(b - a)) for a, b in itertools.pairwise(edges)])

    def integers(self, name: str, position: int) -> list[int] | None:
        """A list that older opsets hold as attribute `name` and newer ones as input `position`."""
        given = self.attributes.get(name)
        if given is None:
            given = self.constant(position)
        return None if given is None else [int(i) for i in np.ravel(given)]
