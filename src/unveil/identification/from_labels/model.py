"""LabelModel: a network with one hidden layer, as far as its boundaries between labels tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Int

from unveil.identification.fitting.balance import by_balance
from unveil.identification.from_labels.chart import Chart, Crossings
from unveil.whitebox.activation import Activation, activation
from unveil.whitebox.network import Layer, Network

ABSENT_BOUNDARY_DISTANCE = 1e3  # in sizes of a typical input: the distance of a boundary that is not there at all


class Boundaries(ABC):
    """A model with one logit for each class seen; the largest gives the label."""

    classes: Int[np.ndarray, " c"]  # the label of each logit, ascending

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Numbers that boundaries can tell."""

    @abstractmethod
    def sums(self, y: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N q"]:
        """What the logits at N points are a function of; itself affine in y."""

    @abstractmethod
    def logits_of(self, sums: Float[np.ndarray, "N q"]) -> Float[np.ndarray, "N c"]:
        """The logits where these are `sums`."""

    def logits(self, y: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N c"]:
        """The logits at N points."""
        return self.logits_of(self.sums(y))

    @abstractmethod
    def gaps(self, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N d"]]:
        """Difference of the two logits at each crossing, and its gradient."""

    @abstractmethod
    def linearised(self, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N P"]]:
        """Distances and their derivatives by all numbers."""

    @abstractmethod
    def moved(self, step: Float[np.ndarray, " P"]) -> Self:
        """The model a step further, in the order of `linearised`."""

    @abstractmethod
    def network(self, chart: Chart) -> Network:
        """The same in terms of inputs."""

    def labels(self, y: Float[np.ndarray, "N d"]) -> Int[np.ndarray, " N"]:
        """The labels at N points."""
        return self.labels_of(self.sums(y))

    def labels_of(self, sums: Float[np.ndarray, "N q"]) -> Int[np.ndarray, " N"]:
        """The labels where these are `sums`."""
        return np.asarray(self.classes[self.logits_of(sums).argmax(axis=1)])

    def rows(self, labels: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """Which logit belongs to each label."""
        return np.searchsorted(self.classes, labels)

    def distances(self, at: Crossings) -> Float[np.ndarray, " N"]:
        """How far each crossing lies from this model's boundary between its labels, to first order;
        `ABSENT_BOUNDARY_DISTANCE` at most."""
        gap, gradient = self.gaps(at)
        # A step that led astray is judged, too: numbers too large are no less wrong.
        gradient = np.clip(np.nan_to_num(gradient), -1e100, 1e100)
        # Where no neuron is active both are zero: there is no boundary anywhere near.
        steep = np.linalg.norm(gradient, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(
                steep > 0,
                np.clip(gap / steep, -ABSENT_BOUNDARY_DISTANCE, ABSENT_BOUNDARY_DISTANCE),
                ABSENT_BOUNDARY_DISTANCE,
            )

    def knows(self, at: Crossings) -> Bool[np.ndarray, " N"]:
        """Which crossings lie between classes that this model has."""
        return np.isin(at.before, self.classes) & np.isin(at.after, self.classes)

    def known(self, at: Crossings) -> Crossings:
        """These crossings."""
        return at[np.flatnonzero(self.knows(at))]


@dataclass(frozen=True)
class LabelModel(Boundaries):
    """Logits `outer @ phi(inner @ y + bias) + affine @ y + offset` of the classes seen; the largest gives the label."""

    inner: Float[np.ndarray, "k d"]  # rows of neurons, in a chart's coordinates
    bias: Float[np.ndarray, " k"]
    outer: Float[np.ndarray, "c k"]
    affine: Float[np.ndarray, "c d"]  # what neurons that are always active at the boundary add up to
    offset: Float[np.ndarray, " c"]
    classes: Int[np.ndarray, " c"]  # the label of each logit, ascending
    phi: Activation  # the activation

    @property
    def parameters(self) -> int:
        """Numbers that boundaries can tell: the first class's logit is zero, an affine part counts if there is one."""
        k, d = self.inner.shape
        c = len(self.classes) - 1
        return int(k * (d + 1) + c * (k + 1) + (c * d if self.affine.any() else 0))

    def pruned(self, share: float = 1e-9) -> LabelModel:
        """Without neurons that move no logit against another: hyperplanes that were none."""
        moves = (self.outer - self.outer.mean(axis=0)) * np.linalg.norm(self.inner, axis=1)
        size = np.linalg.norm(moves, axis=0)
        return self.kept(np.flatnonzero(size > share * size.max(initial=0.0)))

    def kept(self, neurons: Int[np.ndarray, " s"]) -> LabelModel:
        """With these neurons only."""
        return replace(self, inner=self.inner[neurons], bias=self.bias[neurons], outer=self.outer[:, neurons])

    def along(self, basis: Float[np.ndarray, "e d"]) -> LabelModel:
        """In coordinates along some directions only."""
        return replace(self, inner=self.inner @ basis.T, affine=self.affine @ basis.T)

    def of(self, classes: Int[np.ndarray, " c"]) -> LabelModel:
        """Of these classes only."""
        rows = self.rows(classes)
        return replace(
            self, outer=self.outer[rows], affine=self.affine[rows], offset=self.offset[rows], classes=classes
        )

    def sums(self, y: Float[np.ndarray, "N d"]) -> Float[np.ndarray, "N q"]:
        """Preactivations, and the affine part of each logit."""
        return np.concatenate([y @ self.inner.T + self.bias, y @ self.affine.T + self.offset], axis=1)

    def logits_of(self, sums: Float[np.ndarray, "N q"]) -> Float[np.ndarray, "N c"]:
        """The logits where these are `sums`."""
        k = len(self.inner)
        return np.asarray(self.phi.value(sums[:, :k]) @ self.outer.T + sums[:, k:])

    def gaps(self, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N d"]]:
        """Difference of the two logits at each crossing, and its gradient."""
        one, two = self.rows(at.before), self.rows(at.after)
        weight = self.outer[one] - self.outer[two]
        sums = at.x @ self.inner.T + self.bias
        affine = self.affine[one] - self.affine[two]
        gap = np.sum(weight * self.phi.value(sums), axis=1) + np.sum(affine * at.x, axis=1)
        gradient = (weight * self.phi.slope(sums)) @ self.inner + affine
        return gap + self.offset[one] - self.offset[two], gradient

    def factors(self, at: Crossings) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What derivatives of the gap are products of.

        Those by (inner | bias) are products of the first, (N, k), and the last, (N, d + 1); those by (outer | offset),
        and by the affine part where there is one, of the third, (N, c), 1 and -1 at the two classes, and the second.
        """
        one, two = self.rows(at.before), self.rows(at.after)
        sums = at.x @ self.inner.T + self.bias
        extended = np.concatenate([at.x, np.ones((len(at), 1))], axis=1)
        values = np.concatenate([self.phi.value(sums), np.ones((len(at), 1))], axis=1)
        if self.affine.any():
            values = np.concatenate([values, at.x], axis=1)
        classes = np.eye(len(self.classes))
        return (self.outer[one] - self.outer[two]) * self.phi.slope(sums), values, classes[one] - classes[two], extended

    def derivatives(self, at: Crossings) -> Float[np.ndarray, "N P"]:
        """Derivatives of the gap by (inner | bias), (outer | offset) and the affine part where there is one."""
        weight, values, apart, extended = self.factors(at)
        first, last = weight[:, :, None] * extended[:, None, :], apart[:, :, None] * values[:, None, :]
        return np.concatenate([flat(first), flat(last)], axis=1)

    def linearised(self, at: Crossings) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N P"]]:
        """Distances and their derivatives, in the order of `derivatives`."""
        long = np.maximum(np.linalg.norm(self.gaps(at)[1], axis=1), 1e-300)
        return self.distances(at), self.derivatives(at) / long[:, None]

    def moved(self, step: Float[np.ndarray, " P"]) -> LabelModel:
        """The model a step further, in the order of `derivatives`."""
        k, d = self.inner.shape
        first, rest = step[: k * (d + 1)].reshape(k, d + 1), step[k * (d + 1) :].reshape(len(self.classes), -1)
        return replace(
            self,
            inner=self.inner + first[:, :d],
            bias=self.bias + first[:, d],
            outer=self.outer + rest[:, :k],
            offset=self.offset + rest[:, k],
            affine=self.affine + rest[:, k + 1 :] if self.affine.any() else self.affine,
        )

    def with_sigmoids(self) -> LabelModel:
        """Of tanh the same with sigmoids: tanh(s) = 2 sigmoid(2 s) - 1."""
        if self.phi.name != "tanh":
            return self
        offset = self.offset - self.outer.sum(axis=1)
        return replace(
            self,
            inner=2 * self.inner,
            bias=2 * self.bias,
            outer=2 * self.outer,
            offset=offset,
            phi=activation("sigmoid"),
        )

    def turned(self, tolerance: float = 1e-5) -> LabelModel:
        """The same labels with rectifiers turned so that no affine part is left; unchanged where no choice does that.
        `w relu(z) = w relu(-z) + w z`, so that what was taken the wrong way round leaves a sum of rows."""
        if not len(self.inner) or not self.affine.any() or self.phi.name != "relu":
            return self
        weight, linear = (self.outer - self.outer[0])[1:].T, (self.affine - self.affine[0])[1:]
        side = by_balance(self.inner, weight, weight.T @ self.inner + 2 * linear, tolerance)
        if side is None:
            return self
        back = side < 0
        return replace(
            self,
            inner=np.where(back[:, None], -self.inner, self.inner),
            bias=np.where(back, -self.bias, self.bias),
            affine=np.zeros_like(self.affine),
            offset=self.offset + self.outer[:, back] @ self.bias[back],
        )

    def carried_by_one(self) -> LabelModel | None:
        """The same labels with one rectifier more in the place of the affine part; None where that is not proved.

        Of two classes let all weights have the sign s, so that `f = s sum |w| relu(z) + l`, with l affine. On the
        boundary `-s l = sum |w| relu(z) >= 0`. For any e > 0, `s sum |w| relu(z) - s relu(e - s l) + s e` equals f
        where `e - s l > 0`, and has the sign s, as f does, everywhere else: the same label at every input. So labels
        leave e open, and, as `relu(z) = relu(-z) + z`, also which side of each hyperplane is the active one.
        """
        if len(self.classes) != 2 or not len(self.inner) or not self.affine.any() or self.phi.name != "relu":
            return None
        weight = self.outer[1] - self.outer[0]
        linear, offset = self.affine[1] - self.affine[0], float(self.offset[1] - self.offset[0])
        s = float(np.sign(weight[0]))
        if not (weight * s > 0).all():
            return None
        away = float(np.linalg.norm(linear))
        last = np.append(weight, -s)
        return replace(
            self,
            inner=np.concatenate([self.inner, -s * linear[None]]),
            bias=np.append(self.bias, away - s * offset),
            outer=np.stack([np.zeros_like(last), last]),
            affine=np.zeros_like(self.affine),
            offset=np.array([0.0, s * away]),
        )

    def layers(self) -> tuple[Layer, ...]:
        """The same labels in terms of coordinates. An affine part goes through neurons in pairs, relu(s) - relu(-s),
        but for what it is to all classes alike."""
        inner, bias, outer, offset = self.inner, self.bias, self.outer, self.offset
        affine = self.affine - self.affine[0]
        if not len(inner):
            return (Layer(affine, offset, activation("identity")),)
        if affine.any():
            left, values, right = np.linalg.svd(affine, full_matrices=False)
            rank = int((values > 1e-12 * values[0]).sum())
            carried, part = right[:rank], left[:, :rank] * values[:rank]
            # A pair of neurons of any activation g with g(s) - g(-s) = s, which a rectifier has.
            inner = np.concatenate([inner, carried, -carried])
            bias = np.concatenate([bias, np.zeros(2 * rank)])
            outer = np.concatenate([outer, part, -part], axis=1)
        return Layer(inner, bias, self.phi), Layer(outer, offset, activation("identity"))

    def network(self, chart: Chart) -> Network:
        """The same in terms of inputs."""
        first, *rest = self.layers()
        layers = (in_inputs(first, chart), *rest)
        return Network(layers, chart.oracle.shape) if rest else Network(layers)


def in_inputs(first: Layer, chart: Chart) -> Layer:
    """A layer of a chart's coordinates as one of inputs."""
    rows = (first.weights if chart.basis is None else first.weights @ chart.basis) / chart.size
    return Layer(rows, first.bias - rows @ chart.origin, first.activation)


def flat(parts: Float[np.ndarray, "N a b"]) -> Float[np.ndarray, "N ab"]:
    """The last two axes in one, of no rows at all, too."""
    return parts.reshape(len(parts), parts.shape[1] * parts.shape[2])
