"""DeepLabelModel: a network with two hidden layers of ReLU, as far as its boundaries between labels tell."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.identification.from_labels.model import Boundaries, LabelModel, flat, in_inputs
from unveil.whitebox.activation import activation
from unveil.whitebox.network import Layer, Network


@dataclass(frozen=True)
class DeepLabelModel(Boundaries):
    """A first layer of ReLU, and behind it what a network with one hidden layer does with its values."""

    inner: Float[np.ndarray, "k d"]  # (k, d), rows of the first layer, in a chart's coordinates
    bias: Float[np.ndarray, " k"]
    behind: LabelModel  # the second layer and the logits, of the first layer's values
    classes: Int[np.ndarray, " c"]  # (c,), the label of each logit, ascending

    @property
    def parameters(self) -> int:
        """Numbers that boundaries can tell."""
        return self.inner.size + len(self.bias) + self.behind.parameters

    @property
    def free(self) -> int:
        """Directions in which numbers change no label: neurons' lengths, the first class's logit, a common scale."""
        width = len(self.behind.inner) + 1 + (self.behind.inner.shape[1] if self.behind.affine.any() else 0)
        return len(self.inner) + len(self.behind.inner) + width + 1

    def with_unit_rows(self) -> DeepLabelModel:
        """The same function with first-layer weight vectors of length one, as a search knows them."""
        long = np.linalg.norm(self.inner, axis=1)
        behind = replace(self.behind, inner=self.behind.inner * long, affine=self.behind.affine * long)
        return replace(self, inner=self.inner / long[:, None], bias=self.bias / long, behind=behind)

    def without_idle(self, share: float = 1e-6) -> DeepLabelModel:
        """Without first-layer neurons that nothing behind depends on: hyperplanes that were none."""
        size = np.linalg.norm(self.inner, axis=1)
        counts = np.concatenate([np.abs(self.behind.inner), np.abs(self.behind.affine)]).max(axis=0) * size
        kept = np.flatnonzero(counts > share * counts.max(initial=0.0))
        behind = replace(self.behind, inner=self.behind.inner[:, kept], affine=self.behind.affine[:, kept])
        return replace(self, inner=self.inner[kept], bias=self.bias[kept], behind=behind)

    def hidden(self, y: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N k"]:
        """The first layer's values."""
        return np.asarray(np.maximum(self.sums(y), 0.0))

    def sums(self, y: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N k"]:
        """The first layer's preactivations."""
        return np.asarray(y @ self.inner.T + self.bias)

    def logits_of(self, sums: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "N c"]:
        """The logits where these are `sums`."""
        return self.behind.logits(np.maximum(sums, 0.0))

    def inside(self, at: Crossings) -> tuple[Crossings, Bool[np.ndarray, "N k"]]:
        """Crossings in the first layer's values, and which of its neurons are active there."""
        sums = at.x @ self.inner.T + self.bias
        on = sums > 0
        return replace(at, x=np.where(on, sums, 0.0), along=on * (at.along @ self.inner.T)), on

    def gaps(self, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N d"]]:
        """Difference of the two logits at each crossing, and its gradient."""
        inside, on = self.inside(at)
        gap, gradient = self.behind.gaps(inside)
        return gap, (gradient * on) @ self.inner

    def linearised(self, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N P"]]:
        """Distances and their derivatives by (inner | bias), then by what is behind."""
        inside, on = self.inside(at)
        _, by_hidden = self.behind.gaps(inside)
        through = by_hidden * on
        extended = np.concatenate([at.x, np.ones((len(at), 1))], axis=1)
        first = flat(through[:, :, None] * extended[:, None, :])
        long = np.maximum(np.linalg.norm(through @ self.inner, axis=1), 1e-300)
        jacobian = np.concatenate([first, self.behind.derivatives(inside)], axis=1)
        return self.distances(at), jacobian / long[:, None]

    def moved(self, step: Float[np.ndarray, " P"]) -> DeepLabelModel:
        """The model a step further, in the order of `linearised`."""
        k, d = self.inner.shape
        first = step[: k * (d + 1)].reshape(k, d + 1)
        return replace(
            self,
            inner=self.inner + first[:, :d],
            bias=self.bias + first[:, d],
            behind=self.behind.moved(step[k * (d + 1) :]),
        )

    def units(self) -> Float[np.ndarray, " P"]:
        """What a change of each number is measured by: its neuron's or its layer's own size."""
        d = self.inner.shape[1]
        long = np.repeat(np.linalg.norm(self.inner, axis=1), d + 1)
        second = np.repeat(np.linalg.norm(self.behind.inner, axis=1), self.behind.inner.shape[1] + 1)
        last = len(self.linearised(Crossings.none(d))[1].T) - len(long) - len(second)
        return np.concatenate([long, second, np.full(last, float(np.abs(self.behind.outer).max(initial=1e-300)))])

    def network(self, chart: Chart) -> Network:
        """The same in terms of inputs; an affine part behind goes through neurons in pairs, relu(s) - relu(-s)."""
        first = Layer(self.inner, self.bias, activation("relu"))
        return Network((in_inputs(first, chart), *self.behind.layers()), chart.oracle.shape)
