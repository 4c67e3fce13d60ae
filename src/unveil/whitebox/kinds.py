"""The unit of work of `preimages`: one batch of a layer's inputs decided and the decisions verified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float
from scipy import sparse

from unveil.whitebox.certificate import DIRECTION_BOUND, Ground
from unveil.whitebox.null_space import factor, factored
from unveil.whitebox.omnidirectional import recession

KINDS = ("point", "compact", "infinite")


@dataclass(frozen=True)
class Decisions:
    """What one task sends back; one row per input. `kind` indexes `KINDS`; the rest as in `Preimage`."""

    kind: np.ndarray
    active: np.ndarray
    tight: np.ndarray
    slack: np.ndarray
    multipliers: np.ndarray
    directions: np.ndarray
    certified: np.ndarray


def decide(
    weights: Float[np.ndarray, "m n"], bias: Float[np.ndarray, " m"], relu: bool, points: Float[np.ndarray, "N n"]
) -> Decisions:
    """Decide and verify the kinds for one batch of a layer's inputs: the unit of work of `preimages`."""
    before = points @ weights.T + bias
    # Values below the rounding of this product count as zero: the neuron is silent and its row tight.
    rounding = points.shape[1] * np.finfo(np.float64).eps * (np.abs(points) @ np.abs(weights).T + np.abs(bias))
    active = before > rounding if relu else np.ones(before.shape, bool)
    tight = (np.abs(before) <= rounding) & relu
    return settle(weights, active, tight, np.maximum(-before, 0.0))


def settle(
    weights: Float[np.ndarray, "m n"],
    active: Bool[np.ndarray, "N m"],
    tight: Bool[np.ndarray, "N m"],
    slack: Float[np.ndarray, "N m"],
) -> Decisions:
    """The same from which neurons are active, and which of the others have no room left."""
    layer = factored(weights)
    ground = _grounds(layer.weights)
    verdicts = recession(layer, ~active)
    multipliers, directions = verdicts.multipliers, verdicts.directions
    kind = np.where(verdicts.bounded, 1, 2)
    certified = np.empty(len(active), bool)
    bounded = verdicts.bounded
    certified[bounded] = ground.bounded_residual(multipliers[bounded], ~active[bounded]) < 1
    certified[~bounded] = _true_directions(ground, directions[~bounded], active[~bounded])
    certified &= verdicts.decided
    enough = bounded & (active.sum(axis=1) >= layer.q.shape[1])
    points_ = np.flatnonzero(enough)
    points_ = points_[independent(ground, active[enough])]
    kind[points_], multipliers[points_], certified[points_] = 0, 0.0, True
    for i in np.flatnonzero((kind == 1) & (enough | tight.any(axis=1))):
        _narrow(layer.weights, ground, active[i], tight[i], int(i), kind, multipliers, directions, certified)
    return Decisions(kind, active, tight, slack, multipliers, directions, certified)


def _true_directions(ground: Ground, directions: np.ndarray, active: np.ndarray) -> np.ndarray:
    return np.asarray(ground.direction_residual(directions, active, ~active) <= DIRECTION_BOUND)


def _narrow(  # noqa: PLR0913 - the parts of one certificate
    weights: np.ndarray,
    ground: Ground,
    active: np.ndarray,
    tight: np.ndarray,
    i: int,
    kind: np.ndarray,
    multipliers: np.ndarray,
    directions: np.ndarray,
    certified: np.ndarray,
) -> None:
    # Bounded, and neither a count nor a factorisation says whether it is a point: look at the tight rows alone.
    rows = active | tight
    verdict = recession(factor(weights[rows]), tight[rows][None])
    if verdict.bounded[0] and not tight.any():
        # full rank after all, though not by the shifted Cholesky test
        kind[i], multipliers[i], certified[i] = 0, 0.0, ground.independent(active)
    elif verdict.bounded[0]:
        kind[i], multipliers[i] = 0, 0.0
        multipliers[i, rows] = verdict.multipliers[0]
        residual = Ground(weights[rows]).bounded_residual(multipliers[i, rows][None], tight[rows][None])
        certified[i] = bool(residual[0] < 1)
    else:
        directions[i] = verdict.directions[0]
        certified[i] &= bool(
            ground.direction_residual(directions[i][None], active[None], tight[None])[0] <= DIRECTION_BOUND
        )


def independent(ground: Ground, active: Bool[np.ndarray, "N m"]) -> Bool[np.ndarray, " N"]:
    """For each pattern, whether its active rows determine the input.

    If the rows common to several patterns do, all of them do: one factorisation may serve many.
    """
    answers = np.zeros(len(active), bool)
    if len(active) == 0:
        return answers
    order = np.arange(len(active))
    if len(active) > 2:
        # Similar patterns side by side.
        centred = active - active.mean(axis=0)
        _, vectors = np.linalg.eigh(centred @ centred.T)
        order = np.argsort(vectors[:, -1], kind="stable")
    stack = [order]
    n = ground.scaled.shape[1]
    while stack:
        group = stack.pop()
        common = np.asarray(active[group].all(axis=0))
        # Barely enough common rows are rarely independent: not worth the attempt.
        if (len(group) == 1 or common.sum() > 1.05 * n) and ground.independent(common):
            answers[group] = True
        elif len(group) > 1:
            stack += [group[: len(group) // 2], group[len(group) // 2 :]]
    return answers


_last: dict[int, tuple[np.ndarray, Ground]] = {}


def _grounds(weights: np.ndarray) -> Ground:
    # `factored` returns the same array for the same weights, so its identity will do as a key.
    if id(weights) not in _last:
        while len(_last) >= 4:
            _last.pop(next(iter(_last)))
        _last[id(weights)] = (weights, Ground(weights))
    return _last[id(weights)][1]


def forced_rank(rows: Float[np.ndarray, "t d"]) -> int:
    """By how many dimensions the cone {rows u <= 0} falls short of the whole space."""
    # Forced to stay zero are the rows in the largest support of a w >= 0 with rows^T w = 0.
    count = len(rows)
    scale = np.linalg.norm(rows, axis=1)
    rows = rows[scale > 1e-12 * scale.max(initial=0.0)]
    count = len(rows)
    if count == 0:
        return 0
    rows = rows / np.linalg.norm(rows, axis=1)[:, None]
    eye = sparse.eye_array(count)
    result = scipy.optimize.linprog(
        np.concatenate([np.zeros(count), -np.ones(count)]),
        A_ub=sparse.hstack([-eye, eye]),
        b_ub=np.zeros(count),
        A_eq=np.hstack([rows.T, np.zeros_like(rows.T)]),
        b_eq=np.zeros(rows.shape[1]),
        bounds=[(0, None)] * count + [(0, 1)] * count,
        method="highs",
    )
    forced = rows[result.x[count:] > 0.5] if result.status == 0 else rows[:0]
    return int(np.linalg.matrix_rank(forced)) if len(forced) else 0
