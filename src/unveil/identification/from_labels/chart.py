"""Chart: the coordinates in which a model's labels are asked, of size one where its inputs are typical."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.domain import DOUBLE
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.rows import Rows
from unveil.blackbox.source import Answers, Questions
from unveil.outcome import BadInput

Vectors = Float[np.ndarray, "N d"]


@final
class Chart(OracleWrapper):
    """A label oracle in coordinates y of its inputs `x = origin + scale * y @ basis`.

    `oracle`: answers labels. `origin`: (n,), where y is zero: the centre of the box, or the mean of examples. `scale`:
    size of a typical input around it. `basis`: (d, n), orthonormal rows, e.g. of a row span; None for all n directions.
    """

    def __init__(
        self, oracle: Oracle, origin: Float[np.ndarray, " n"], scale: float, basis: Float[np.ndarray, "d n"] | None
    ) -> None:
        d = oracle.n if basis is None else len(basis)
        double = np.dtype(np.float64)
        super().__init__(oracle, shape=(d,), within=None, grid=None, dtype=double, input_bits=DOUBLE)
        self.origin, self.size, self.basis = origin, scale, basis
        # Positions are rounded to the input's digits: what that is in coordinates of size one.
        reach = 1.0 + float(np.abs(origin).max(initial=0.0)) / scale
        self.digits = max(float(np.finfo(oracle.dtype).eps), 2.0 ** (1 - oracle.input_bits)) * reach

    def inputs(self, y: Vectors) -> Float[np.ndarray, "N n"]:
        """The inputs that coordinates stand for."""
        return np.asarray(self.origin + self.size * (y if self.basis is None else y @ self.basis))

    def coordinates(self, x: Float[np.ndarray, "N n"]) -> Vectors:
        """Coordinates of inputs; what lies outside the directions is left out."""
        moved = (x - self.origin) / self.size
        return np.asarray(moved if self.basis is None else moved @ self.basis.T)

    def answer(self, x: Questions) -> Answers:
        return self.oracle.answer(self.oracle.nearest(self.inputs(x)))

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} in {self.n} coordinates"

    def room(self, y: Vectors, along: Vectors) -> Float[np.ndarray, " N"]:
        """How far along unit vectors inputs stay legal; infinite without a box."""
        if self.oracle.within is None:
            return np.full(len(y), np.inf)
        low, high = self.oracle.low, self.oracle.high
        x = self.inputs(y)
        step = self.size * (along if self.basis is None else along @ self.basis)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.where(step > 0, (high - x) / step, np.where(step < 0, (low - x) / step, np.inf))
        return np.asarray(np.maximum(ends.min(axis=1), 0.0))

    def margin(self, y: Vectors) -> Float[np.ndarray, " N"]:
        """Distance from the box's walls, in coordinates; negative outside."""
        if self.oracle.within is None:
            return np.full(len(y), np.inf)
        low, high = self.oracle.low, self.oracle.high
        x = self.inputs(y)
        return np.asarray(np.minimum(x - low, high - x).min(axis=1) / self.size)


@dataclass(frozen=True)
class Crossings(Rows):
    """Points at which one label gives way to another."""

    x: Float[np.ndarray, "N d"]  # the points
    before: Int[np.ndarray, " N"]  # the label just before
    after: Int[np.ndarray, " N"]  # the label just behind
    along: Float[np.ndarray, "N d"]  # unit vectors along which they were crossed
    width: Float[np.ndarray, " N"]  # length of the last bracket of the bisection

    @property
    def expected(self) -> tuple[Vectors, Vectors, Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Where each is, along what it is crossed, and both labels."""
        return self.x, self.along, self.before, self.after

    def between(self, one: int, two: int) -> np.ndarray:
        """Which lie between two labels, either way round."""
        there, back = (self.before == one) & (self.after == two), (self.before == two) & (self.after == one)
        return np.asarray(there | back)

    @classmethod
    def none(cls, d: int) -> Crossings:
        return cls(np.empty((0, d)), np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty((0, d)), np.empty(0))


def typical_inputs(
    oracle: Oracle, x: Float[np.ndarray, "N n"] | None
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, " n"], float]:
    """Legal inputs to start from, and the middle and size of what is typical: of these, of the box, or 0 and 1."""
    given = np.empty((0, oracle.n)) if x is None else oracle.nearest(x)
    if given.ndim != 2 or given.shape[1] != oracle.n:
        raise BadInput(f"x must have shape (N, {oracle.n}); got {given.shape}")
    origin, size = np.zeros(oracle.n), 1.0
    if oracle.within is not None:
        origin, size = oracle.middle, float((oracle.high - oracle.low).mean()) / np.sqrt(12)
    if len(given) > 1:
        origin, spread = given.mean(axis=0), float(given.std())
        size = spread if spread > 0 else size
    return given, origin, size
