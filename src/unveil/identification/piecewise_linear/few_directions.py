"""Narrow: a few directions of a wide network's inputs, asked as an oracle of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.blackbox.line import Line
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.oracle_wrapper import OracleWrapper
from unveil.blackbox.rounding import Rounding
from unveil.blackbox.source import Answers, Questions

MANY = 64  # inputs from which on it may pay to look at a few directions first
# Directions per breakpoint of a line, and more: so many that neurons look independent there.
PLENTY, MORE_DIRECTIONS = 1.5, 16
# It pays as long as these are at most this share of all; then they may be only so many per breakpoint, at least.
MOST_DIRECTIONS_SHARE, LEAST_PER_BREAKPOINT = 0.8, 1.15


@dataclass(frozen=True)
class Directions:
    """Some directions of the inputs, and all others.

    What a network does on a few random directions tells its biases, its signs and all layers but the first; the first
    one's weights along the others follow from derivatives at places that can then be chosen freely.
    """

    # orthonormal; `x = lift @ s` for coordinates s, where lift is as much longer as makes standard normal s answer like
    # standard normal x
    few: Float[np.ndarray, "n p"]
    others: Float[np.ndarray, "n q"]  # orthonormal, orthogonal to the few

    @classmethod
    def along(cls, line: Line, rng: np.random.Generator, least: int = 0) -> Directions | None:
        """Random ones among which a searched line runs; None where so many are needed that nothing is gained, or it
        shows nothing. `least`: neurons that there are at least, however few it shows."""
        n, met = len(line.base), max(len(line.t), least)
        p = min(int(PLENTY * met) + MORE_DIRECTIONS, int(MOST_DIRECTIONS_SHARE * n))
        return None if not len(line.t) or p < LEAST_PER_BREAKPOINT * met else cls.so_many(line, p, rng)

    @classmethod
    def so_many(cls, line: Line, p: int, rng: np.random.Generator) -> Directions:
        """So many random ones among which a line runs."""
        n = len(line.base)
        free = rng.standard_normal((n, p - 2))
        every = _all_columns(np.column_stack([line.base, line.direction, free]))
        # A random turn, so that the line is nothing special among them.
        turn = np.linalg.qr(rng.standard_normal((p, p)))[0]
        return cls(every[:, :p] @ turn, every[:, p:])

    @cached_property
    def longer(self) -> float:
        """Length of a step along one of the coordinates."""
        n, p = self.few.shape
        return float(np.sqrt(n / p))

    def seen(self, line: Line) -> Line:
        """The line, in the coordinates."""
        base, direction = (each @ self.few / self.longer for each in (line.base, line.direction))
        return replace(line, base=base, direction=direction)

    def rounding(self, noise: Rounding) -> Rounding:
        """How exact answers are, in terms of the coordinates."""
        return replace(noise, size=noise.size / self.longer)


def _all_columns(a: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n n"]:
    """The whole orthogonal factor: the product of its reflections in closed form, in three products of matrices.

    Source: Schreiber, Van Loan, A storage-efficient WY representation for products of Householder transformations,
    1989.
    """
    n, p = a.shape
    packed, tau = np.linalg.qr(a, mode="raw")
    v = np.tril(packed.T, -1)
    v[np.arange(p), np.arange(p)] = 1.0
    v[:, tau == 0] = 0.0
    factor = np.triu(v.T @ v, 1) + np.diag(1 / np.where(tau == 0, 1.0, tau))
    # Columns lie together, as steps along them are rows of questions.
    out = (linalg.solve_triangular(factor, -v.T).T @ v.T).T
    out[np.arange(n), np.arange(n)] += 1.0
    return np.asarray(out)


@final
class Narrow(OracleWrapper):
    """A network as a function of coordinates along a few directions of its inputs. `oracle`: the whole network, free of
    a box. `directions`: the directions. `lift`: (p, n) the inputs of each coordinate."""

    def __init__(self, oracle: Oracle, directions: Directions) -> None:
        count = directions.few.shape[1]
        super().__init__(oracle, shape=(count,), name=f"{oracle.name} along {count} directions")
        self.lift = np.ascontiguousarray(directions.longer * directions.few.T)

    def answer(self, x: Questions) -> Answers:
        return self.oracle.answer(self.oracle.nearest(x @ self.lift))

    def fingerprint(self) -> str:
        return f"{self.oracle.fingerprint()} along {self.shape[0]} directions"
