"""Questions asked by someone else: all chosen in advance, for a model that may not leave its room."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float

from unveil.blackbox.domain import Within, box, legal
from unveil.blackbox.span import RowSpan, unseen_share
from unveil.outcome import BadInput, Outcome, unreadable
from unveil.writing import written

POINTS_PER_RANK = 1.25
"""Points asked for each unit of the rank: gradients at random points are never exactly as many as their rank."""

CHECKS = 4
"""Further questions at each point, by which breakpoints and noise are judged."""

DROP = 4.0
"""A singular value so many times the next one ends the rank."""

WEDIN = 2.0
"""The norm of the error in units of the first singular value behind the rank, at most."""


@dataclass(frozen=True)
class Plan:
    """Questions and what each is for.

    At each of P points there are `1 + n + CHECKS` questions: the point, a step in every coordinate, and two random
    steps forth and back.

    Attributes:
        questions: (N, n), one question per row, to be answered in this order.
        points: P.
        rank_at_most: The largest rank these questions can find.
        precision: Bits of the model's numbers: 32 or 64.
    """

    questions: Float[np.ndarray, "N n"]
    points: int
    rank_at_most: int
    precision: int

    def save(self, path: str | Path) -> None:
        """Write the plan: an .npz whose array `questions` is all that whoever answers needs."""
        with written(path) as file:
            np.savez_compressed(file, **{name.name: getattr(self, name.name) for name in fields(self)})


def plan(
    n: int,
    rank_at_most: int,
    *,
    rng: np.random.Generator,
    within: Within | None = None,
    grid: float | None = None,
    precision: int = 32,
) -> Plan:
    """Choose every question before the first answer.

    Args:
        n: Number of inputs.
        rank_at_most: A bound on the rank of the first layer, e.g. its number of neurons.
        rng: Draws the points.
        within: The legal box, as for `as_oracle`.
        grid: The legal step, counted from its low end.
        precision: 32 or 64: the precision in which the model calculates. It sets the step.

    Raises:
        BadInput: A number is out of range.

    Queries: none now; `ceil(1.25 * rank_at_most + 8) * (n + 5)` when it is answered

    Source: Jayaram, Woodruff, Zhang, arXiv:2002.08202, Algorithm 1 and Lemma 3.2.
    """
    if not 1 <= rank_at_most <= n:
        raise BadInput(f"the rank lies between 1 and n = {n}; got {rank_at_most}")
    if precision not in (32, 64):
        raise BadInput(f"precision is 32 or 64 bits; got {precision}")
    within = box(within, n)
    points = math.ceil(POINTS_PER_RANK * rank_at_most + 8)
    low, high = within or (-2.0, 2.0)
    kind: np.dtype[np.floating] = np.dtype(np.float32) if precision == 32 else np.dtype(np.float64)
    # Longer steps meet more breakpoints, shorter ones more rounding: the cube root of the rounding is the usual middle.
    step = float(np.min(np.subtract(high, low))) / 4 * (2.0**-6 if precision == 32 else 2.0**-14)
    step = max(step, grid or 0.0)
    blocks = []
    for _ in range(points):
        x = rng.standard_normal(n) if within is None else rng.uniform(low + 4 * step, high - 4 * step, size=n)
        x = legal(x[None], within, grid, kind)[0]
        checks = rng.choice([-1.0, 1.0], size=(CHECKS // 2, n)) * max(step / math.sqrt(n), grid or 0.0)
        blocks.append(np.concatenate([x[None], x + step * np.eye(n), x + checks, x - checks]))
    questions = legal(np.concatenate(blocks), within, grid, kind)
    return Plan(questions.astype(kind), points, rank_at_most, precision)


def load_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        BadInput: Not a plan.
    """
    if not Path(path).exists():
        raise BadInput(f"there is no file {path}; expected the plan that `unveil plan` wrote")
    try:
        with np.load(path, allow_pickle=False) as file:
            return Plan(
                np.asarray(file["questions"]), int(file["points"]), int(file["rank_at_most"]), int(file["precision"])
            )
    except (OSError, KeyError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(
            f"{path} is not a plan ({unreadable(error)}); expected the file that `unveil plan` wrote"
        ) from None


def conclude(asked: Plan, answers: Float[np.ndarray, "N m"]) -> RowSpan:
    """The row span from the answers to a plan.

    Args:
        asked: The plan.
        answers: One row per question, in the order of the plan.

    Returns:
        The span; `approximate` if the rank found is all that the plan could have found. Empty with `nothing_to_find`
        if every answer is the same, and with `not_resolved` if they differ but noise hides every direction.

    Raises:
        BadInput: The answers do not fit the plan, are not finite, are labels, or show more directions than the plan
            allowed.
    """
    n = asked.questions.shape[1]
    each = 1 + n + CHECKS
    answers = np.asarray(answers)
    if answers.ndim == 1:
        answers = answers[:, None]
    if answers.ndim != 2 or len(answers) != len(asked.questions):
        raise BadInput(
            f"{len(asked.questions):,} questions need as many rows of answers, in the same order; "
            f"got shape {answers.shape}"
        )
    if answers.dtype.kind not in "f":
        raise BadInput("labels say too little to questions chosen in advance; ask a label oracle with row_span instead")
    if not np.isfinite(answers).all():
        raise BadInput(f"{int(np.sum(~np.isfinite(answers)))} answers are not finite; every question needs a number")
    m = answers.shape[1]
    x = asked.questions.astype(np.float64).reshape(asked.points, each, n)
    y = answers.astype(np.float64).reshape(asked.points, each, m)
    steps = np.einsum("pjj->pj", x[:, 1 : n + 1] - x[:, :1])
    gradients = ((y[:, 1 : n + 1] - y[:, :1]) / steps[..., None]).swapaxes(1, 2)
    half = CHECKS // 2
    forth, back = slice(n + 1, n + 1 + half), slice(n + 1 + half, each)
    apart = x[:, forth] - x[:, back]
    missed = (y[:, forth] - y[:, back]) - np.einsum("pcn,pmn->pcm", apart, gradients)
    # What a gradient does not foretell of a random step is the error of its entries, added up along that step.
    error = np.sqrt(np.mean(missed**2, axis=1)) / np.sqrt(np.mean(np.sum(apart**2, axis=2)))
    size = np.linalg.norm(gradients, axis=2)
    typical = float(np.median(error))
    straight = (error <= 30 * typical) & (size > 0)
    rows, error = gradients[straight], error[straight]
    if not len(rows) or not (size[straight] > 4 * error * math.sqrt(n)).any():
        return _nothing(n, y)
    _, values, right = np.linalg.svd(rows, full_matrices=False)
    noise = float(np.sqrt(np.mean(error**2)))
    floor = max(noise * (math.sqrt(len(rows)) + math.sqrt(n)), 1e-13 * float(values[0]))
    above = int(np.sum(values > 2 * floor))
    if above == 0:
        return _nothing(n, y)
    rank, sharp = _cut(values, floor, above, asked.rank_at_most)
    if rank == 0:
        raise BadInput(
            f"{above} directions stand above the noise, but the plan was made for at most {asked.rank_at_most}, and no "
            "drop sets any of them apart: the bound is too low, or errors, such as of steps across breakpoints, "
            f"hide the rank; plan again with a rank of at most {min(n, 2 * above)} "
            "(unveil plan --rank-at-most, rank_at_most=)"
        )
    # Wedin: the angle is at most the error's norm over the last value; and no error is smaller than the value behind.
    behind = float(values[rank]) if rank < len(values) else 0.0
    accuracy = min(1.0, max(noise * math.sqrt(n), WEDIN * behind) / float(values[rank - 1]))
    full = rank == n
    doubtful = rank == min(rows.shape) or not sharp or above > rank
    outcome = Outcome.full_rank if full else Outcome.approximate if doubtful else Outcome.complete
    left_out = math.sqrt(float(np.sum(values[rank:] ** 2) / np.sum(values**2))) if doubtful and not full else 0.0
    return _span(
        right[:rank], values / values[0], floor / float(values[0]), accuracy, len(answers), outcome, len(rows), left_out
    )


def _cut(values: Float[np.ndarray, " s"], floor: float, above: int, most: int) -> tuple[int, bool]:
    """Behind which singular value the rank ends, and whether a drop says so.

    Steps across breakpoints spoil single entries of the gradients, and such errors stand above what even noise would
    give. A rank is told by a drop, the last one within the bound. Without any it is what stands above the noise, or 0
    if that is more than the bound allows.
    """
    behind = np.maximum(np.append(values[1:], 0.0), floor)
    drops = np.flatnonzero(values[:above] >= DROP * behind[:above]) + 1
    drops = drops[drops <= most]
    if len(drops):
        return int(drops[-1]), True
    return (above if above <= most else 0), False


def _nothing(n: int, y: Float[np.ndarray, "p each m"]) -> RowSpan:
    """An empty span: answers that differ were hidden by their noise, which is no proof that nothing is there."""
    constant = bool((y == y[0, 0]).all())
    outcome = Outcome.nothing_to_find if constant else Outcome.not_resolved
    return _span(np.empty((0, n)), np.empty(0), 0.0, 1.0, y.shape[0] * y.shape[1], outcome)


def _span(  # noqa: PLR0913 - the fields of a result
    basis: Float[np.ndarray, "r n"],
    values: Float[np.ndarray, " s"],
    floor: float,
    accuracy: float,
    queries: int,
    outcome: Outcome,
    rows: int = 0,
    left_out: float = 0.0,
) -> RowSpan:
    # Gradients beyond the rank found nothing new: so many fresh points had none to show.
    fresh = max(rows - len(basis), 0)
    return RowSpan(
        basis=basis,
        singular_values=values,
        noise_floor=floor,
        accuracy=accuracy,
        confidence=0.95,
        unseen=unseen_share(0.95, fresh, left_out, accuracy),
        left_out=left_out,
        queries=queries,
        outcome=outcome,
        stages={"plan": queries},
    )
