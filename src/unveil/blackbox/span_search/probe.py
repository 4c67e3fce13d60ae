"""What is answering: whether slopes exist and can be told from noise, before any is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from jaxtyping import Float

from unveil.blackbox.digits import multiples
from unveil.blackbox.rounding import intact
from unveil.blackbox.span_search.points import Asker, Places
from unveil.outcome import Outcome

DROWNED = 0.1  # noise over signal from which nothing is resolved
UNCHANGED = 0.9  # of the shortest moves that leave the answer exactly as it was: steps
DISTINCT_ANSWERS = 4  # different answers among those asked, without which nothing is said about steps
# Lines on which jumps are looked for, points on each, bisections of a jump.
JUMP_LINES, ALONG, JUMP_BISECTIONS = 2, 16, 24
# Fresh answers, and their range in standard deviations, before nothing is said to be there.
FRESH_ANSWERS, RANGE = 24, 12.0
FINE_ROUNDING = 1e-6  # relative rounding of answers that would show a dependence, if there were one
COARSE_STEP_SHARE = 0.01  # of the range of the answers: what a step other than a decimal is, if it is no float's
POWER_DEVIATION = 1e-3  # of a power of ten or two, in its logarithm: a decimal or binary rounding
SLOPED, SLOPE_MOVE = 16, 1e-3  # places at which slopes are looked for, and moves there as part of a line
EVEN = 0.1  # of a change, by which one twice as long may differ from twice as much
# Of points between which a jump is sought, halvings, and those it must outlast.
LEAP_PAIRS, LEAP_HALVINGS, FADED = 4, 30, 8
LEAP = 30.0  # roundings that a jump must exceed


def refusal(ask: Asker) -> Outcome | None:
    """Why no span can be found, or None if there is no reason.

    Queries: none, or those of `slopes_between` where hardly any answer changes
    """
    noise = ask.noise
    if ask.oracle.in_steps:
        return Outcome.answers_in_steps
    if noise.kind == "constant":
        return None
    if noise.unchanged >= UNCHANGED and noise.places >= DISTINCT_ANSWERS and not slopes_between(ask):
        return Outcome.answers_in_steps
    if noise.kind != "linear" and bool((noise.signal * DROWNED < 1).all()):
        return Outcome.not_resolved
    return None


def jumps(ask: Asker) -> bool:
    """Whether the answers jump: on a line, a large change is followed inwards; a jump stays as large, a slope fades.

    Queries: `JUMP_LINES * ALONG`, and up to `JUMP_BISECTIONS` for each jump; none where the rounding or the kind leaves
    no question
    """
    oracle, noise = ask.oracle, ask.noise
    if oracle.grid is not None or noise.kind == "constant" or noise.rounding not in ("float", "noise"):
        return False
    x = ask.draw(JUMP_LINES).x
    reach = _reach(ask, x)
    for i in range(JUMP_LINES):
        direction = ask.rng.choice([-1.0, 1.0], size=oracle.n) * reach
        line = oracle.nearest(x[i] + np.linspace(-1, 1, ALONG)[:, None] * direction)
        y = ask(line, noise.level)
        line, y = line[np.isfinite(y).all(axis=1)], y[np.isfinite(y).all(axis=1)]
        if len(y) < DISTINCT_ANSWERS:
            continue
        change = np.abs(np.diff(y, axis=0))
        ratio = (change / np.maximum(4 * np.median(change, axis=0), 1000.0)).max(axis=1)
        at = int(ratio.argmax())
        if ratio[at] > 1 and _stays(ask, line[at], line[at + 1], y[at : at + 2]):
            return True
    return False


def slopes_between(ask: Asker) -> bool:
    """Whether answers that jump have slopes between the jumps: short moves change them, twice as long ones twice so.

    Queries: `3 * SLOPED`
    """
    here = ask.draw(SLOPED)
    step = SLOPE_MOVE * ask.rng.choice([-1.0, 1.0], size=here.x.shape) * _reach(ask, here.x)
    once, twice = (ask(ask.oracle.nearest(here.x + times * step), here.sigma) - here.fx for times in (1, 2))
    moved = np.abs(once) > 1 / EVEN
    sloped = (moved & (np.abs(twice - 2 * once) < EVEN * np.abs(once))).any(axis=1)
    # Many inputs may have no slope of any kind, as those of a classifier that is sure of itself.
    return bool(sloped.sum() > 1 and sloped.sum() >= 0.5 * moved.any(axis=1).sum())


def _reach(ask: Asker, x: Float[np.ndarray, "N n"]) -> float | Float[np.ndarray, " n"]:
    """How far a line leads in each coordinate: as far as usual inputs, or a part of the box."""
    if ask.oracle.within is not None:
        return np.asarray((ask.oracle.high - ask.oracle.low) / 32)
    return float(np.sqrt(np.mean(x**2))) or 1.0


def _closing(
    ask: Asker,
    low: Float[np.ndarray, " n"],
    high: Float[np.ndarray, " n"],
    answers: Float[np.ndarray, "2 m"],
    unit: Float[np.ndarray, " m"],
) -> Iterator[tuple[float, Float[np.ndarray, "2 m"]]]:
    """Two points brought together by halves, always the one over which more of the change happens.

    Yields:
        How far they are apart now, and their answers in this unit, until an answer is missing.

    Queries: 1 for each
    """
    at_low, at_high = answers
    while True:
        middle = ask.oracle.nearest(((low + high) / 2)[None])
        between = ask(middle, unit)[0]
        if not np.isfinite(between).all():
            return
        if np.max(np.abs(between - at_low)) > np.max(np.abs(at_high - between)):
            high, at_high = middle[0], between
        else:
            low, at_low = middle[0], between
        yield float(np.linalg.norm(high - low)), np.array([at_low, at_high])


def _stays(
    ask: Asker, low: Float[np.ndarray, " n"], high: Float[np.ndarray, " n"], answers: Float[np.ndarray, "2 m"]
) -> bool:
    """Whether a change between two points stays as large when they are brought together."""
    whole, width = np.abs(answers[1] - answers[0]), float(np.linalg.norm(high - low))
    gap, last = width, answers
    for gap, last in islice(_closing(ask, low, high, answers, ask.noise.level), JUMP_BISECTIONS):
        if gap <= 1e-6 * width or (np.abs(last[1] - last[0]) < 0.05 * whole).all():
            break
    if float(np.max(np.abs(last) * ask.noise.level)) > 0.9 * ask.oracle.widest:  # a log-ratio out of digits
        return False
    left = np.abs(last[1] - last[0])
    return gap <= 1e-4 * width and bool((left > np.maximum(0.2 * whole, 300.0)).any())


def undecided(ask: Asker) -> Outcome:
    """What it means that no slope stood out: nothing to find, answers in steps, or too few digits to tell.

    Nothing is there to find only if all answers of the search are equal but for their rounding, and if they have digits
    enough to show a dependence on the input; probabilities of 0 and 1 have none.

    Queries: `FRESH_ANSWERS`, and up to `LEAP_PAIRS * LEAP_HALVINGS` more where answers differ
    """
    noise, oracle, here = ask.noise, ask.oracle, ask.draw(FRESH_ANSWERS)
    span = ask.most - ask.least
    if noise.rounding == "float" and bool((span <= RANGE * noise.level).all()):
        largest = np.maximum(np.abs(ask.most), np.abs(ask.least))
        coarse = oracle.resolution > FINE_ROUNDING and bool((largest > 0).any())
        # Probabilities of 0 and 1 stay what they are whatever the softmax is given.
        lost = not intact(ask.most[None], oracle.widest).all()
        return Outcome.not_resolved if coarse or lost else Outcome.nothing_to_find
    if (
        noise.rounding == "noise"
        and oracle.grid is not None
        and not oracle.noise
        and oracle.resolution <= FINE_ROUNDING
    ):
        # The same question has the same answer, and its neighbour on the grid one that differs like any other.
        return Outcome.answers_in_steps
    if oracle.noise or noise.rounding == "noise":
        return Outcome.not_resolved
    quantum = np.array([multiples(column) for column in (here.fx * here.sigma).T])
    known = np.maximum(quantum, np.finfo(float).tiny)
    tenths, halves = np.log10(known), np.log2(known)
    odd = np.minimum(np.abs(tenths - np.round(tenths)), np.abs(halves - np.round(halves))) > POWER_DEVIATION
    if noise.rounding == "multiples" and bool(
        (odd & (quantum > COARSE_STEP_SHARE * np.abs(ask.most - ask.least))).any()
    ):
        return Outcome.answers_in_steps  # rounded to a step that is neither decimal nor what a float has there
    if oracle.grid is None and noise.places >= DISTINCT_ANSWERS and _leaps(ask, here):
        return Outcome.answers_in_steps
    return Outcome.not_resolved


def _leaps(ask: Asker, here: Places) -> bool:
    """Whether the answer jumps between points: halved again and again, a jump stays while a slope fades."""
    oracle, y = ask.oracle, here.fx * here.sigma
    rounding = np.maximum(ask.noise.level, oracle.resolution * np.abs(y).max(axis=0))
    eps = float(np.finfo(oracle.dtype).eps)
    for pair in range(0, 2 * LEAP_PAIRS, 2):
        low, high = here.x[pair : pair + 2]
        sizes = [np.abs(y[pair + 1] - y[pair])]
        # As far apart as neighbouring numbers, they differ by rounding.
        least = 64 * eps * float(np.abs(here.x[pair : pair + 2]).max())
        for gap, answers in islice(_closing(ask, low, high, y[pair : pair + 2], np.ones(oracle.m)), LEAP_HALVINGS):
            sizes.append(np.abs(answers[1] - answers[0]))
            if gap <= least:
                break
        if len(sizes) > 2 * FADED and bool(((sizes[-1] > 0.5 * sizes[-FADED]) & (sizes[-1] > LEAP * rounding)).any()):
            return True
    return False
