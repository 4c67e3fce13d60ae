"""Robust, trimmed_rms: least squares in which answers that are far off count less."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.whitebox.network import Network

# Answers that are off by so many times the median count as their errors do, and not as the squares of these: they lie
# on the wrong side of a hyperplane, where the model that is linear in the parameters says nothing of them, and would
# spread their errors over all weights; or they tell of a neuron that is active there alone.
FAR_OFF = 10.0
STRAYS = 0.01  # share of the answers, the worst ones, that are left out where networks are compared


@dataclass(frozen=True)
class Robust:
    """What a step of least squares lessens: Huber's loss of each answer's error. Source: Huber, Robust estimation of a
    location parameter, Ann. Math. Statist. 35 (1964)."""

    bound: float  # the error from which on an answer counts less
    weight: Float[np.ndarray, " N"]  # of each answer in the step
    cost: float  # root of the mean loss where the step begins
    rms: float  # root mean square of all errors there

    @classmethod
    def at(cls, squares: Float[np.ndarray, " N"]) -> Robust:
        """For a step from where these are the mean square errors of the answers."""
        off = np.sqrt(squares)
        bound = FAR_OFF * float(np.median(off)) or np.inf
        weight = np.ones(len(off)) if bound == np.inf else bound / np.maximum(off, bound)
        return cls(bound, weight, _huber(squares, bound), _huber(squares, np.inf))

    def costs(self, squares: Float[np.ndarray, " N"]) -> float:
        """Root of the mean loss where these are the mean square errors."""
        return _huber(squares, self.bound)


def _huber(squares: Float[np.ndarray, " N"], bound: float) -> float:
    far = squares > bound**2
    loss = squares.copy()
    loss[far] = 2 * bound * np.sqrt(squares[far]) - bound**2
    mean = float(loss.mean())
    return float(np.sqrt(mean)) if np.isfinite(mean) else np.inf


def trimmed_rms(
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    counts: Float[np.ndarray, "N m"] | float = 1.0,
    strays: float = STRAYS,
) -> float:
    """Root mean square of what a network leaves of answers, but for the worst `strays` of them.

    `counts`: what each error is multiplied by: less where answers are less precise. `strays`: share of the answers that
    are left out. Source: least trimmed squares: Rousseeuw, J. Am. Stat. Assoc. 79 (1984).
    """
    each = np.sort(off(network, x, y, counts))
    error = float(np.sqrt(each[: len(each) - int(strays * len(each))].mean()))
    return error if np.isfinite(error) else np.inf


def off(
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    counts: Float[np.ndarray, "N m"] | float = 1.0,
) -> Float[np.ndarray, " N"]:
    """Mean square error of each answer; arguments as of `trimmed_rms`."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(((counts * (network(x) - y)) ** 2).mean(axis=1))


def rms(
    network: Network,
    x: Float[np.ndarray, "N n"],
    y: Float[np.ndarray, "N m"],
    counts: Float[np.ndarray, "N m"] | float = 1.0,
) -> float:
    """Root mean square of what a network leaves of answers; arguments as of `trimmed_rms`."""
    return trimmed_rms(network, x, y, counts, 0.0)
