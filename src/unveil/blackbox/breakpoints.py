"""breakpoints: where a piecewise-linear function changes its slope along lines, as exactly as its answers allow."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.arguments import Randomness, as_numbers, generator
from unveil.blackbox.line import Line
from unveil.blackbox.line_search.pieces import consolidated, line_of
from unveil.blackbox.line_search.search import Answers, Ended, Stretch, advance, begin
from unveil.blackbox.oracle import Oracle, must_be_asked
from unveil.blackbox.rounding import Ask, Rounding, rounding
from unveil.outcome import BadInput, BudgetExceeded, StepAnswers

# Rounds of questions after which what is still open is called unresolved; every round halves what a stretch can hide.
ROUNDS = 1000
# Stretches per line that are looked at in one round, and one more for every breakpoint found; their parts come first
# in the next. Where breakpoints are many some are found, and patience with them, before all have been told apart.
AT_ONCE = 32
# Queries per breakpoint found after which the rest is called unresolved: answers that contradict each other split for
# ever. Twice as many as the dearest networks took.
PATIENCE = 80
# On one line so many questions find noise, not breakpoints: two thousand neurons take fewer.
QUESTIONS_PER_LINE = 30_000
# Points around which the rounding of answers is measured.
LINE_ROUNDING_POINTS = 6
# Times that pieces found not to be straight are searched again.
REOPENED = 6


def breakpoints(
    oracle: Oracle,
    base: Float[np.ndarray, "*L n"],
    direction: Float[np.ndarray, "*L n"],
    *,
    low: Float[np.ndarray, " L"] | float,
    high: Float[np.ndarray, " L"] | float,
    rng: Randomness,
) -> list[Line]:
    """Find where a piecewise-linear model changes its slope along lines, as exactly as its answers allow.

    How exact the answers are is measured once, near the lines' middle; every tolerance follows from it.

    Args:
        oracle: Answers values; piecewise linear (ReLU, leaky ReLU, maximum).
        base: A point per line, or one point.
        direction: A direction per line, or one.
        low: Where the search begins, in units of the direction; one for all or one per line.
        high: Where it ends. The whole line must be legal.
        rng: A generator, or a seed. Draws where to look.

    Returns:
        A `Line` each. What could have hidden between the breakpoints is in `Line.hidden`; stretches left open by the
        budget, and those whose answers fit no lines (a smooth model has nothing else), are in `Line.unresolved`.

    Raises:
        BadInput: Labels, a grid, an empty or endless interval, shapes that do not fit, or a line that leaves the box.
        StepAnswers: The answers are known to jump.
        BudgetExceeded: The budget does not allow the first 36 queries and six per line.

    Queries: at least `36 + 6 L`; 72 for 36 where the first points met breakpoints. About 10 more per breakpoint where
        answers have many digits, however long the lines, and 14 in float32. `Oracle.ledger` counts them.

    Source: see `line_search`.

    Examples:
        >>> oracle = uv.as_oracle(lambda x: np.maximum(x[:, 0] - 0.25, 0), shape=2)
        >>> (line,) = uv.breakpoints(
        ...     oracle, np.zeros((1, 2)), np.array([[1.0, 0.0]]), low=-1, high=1, rng=np.random.default_rng(0)
        ... )
        >>> line.t.round(9), line.jump.round(9)
        (array([0.25]), array([[1.]]))
    """
    must_be_asked(oracle)
    rng = generator(rng)
    if oracle.answers != "values":
        raise BadInput(f"{oracle.name} answers {oracle.answers}; breakpoints are read from values")
    if oracle.in_steps:
        raise StepAnswers(f"{oracle.name}: {oracle.in_steps}; answers in steps have no slope that could change")
    if oracle.grid is not None:
        raise BadInput(
            f"questions to {oracle.name} lie on a grid of step {oracle.grid:g}, not on lines; pass grid=None"
        )
    base, direction = (np.atleast_2d(as_numbers(*each)) for each in ((base, "base"), (direction, "direction")))
    lines = {len(each) for each in (base, direction)} - {1}
    for each in (base, direction):
        if each.ndim != 2 or each.shape[1] != oracle.n or len(lines) > 1:
            told = f"got {base.shape} and {direction.shape}"
            raise BadInput(
                f"base and direction must have shape (L, {oracle.n}) or ({oracle.n},), of one length L; {told}"
            )
    base, direction = np.broadcast_arrays(base, direction)
    ends = [as_numbers(end, "low and high") for end in (low, high)]
    if not all(end.shape in ((), (1,), (len(base),)) for end in ends):
        told = " and ".join(str(end.shape) for end in ends)
        raise BadInput(f"low and high are a number, or one for each of {len(base)} lines; got shapes {told}")
    low, high = (np.broadcast_to(end, (len(base),)) for end in ends)
    if not all(np.isfinite(each).all() for each in (base, direction, low, high)):
        raise BadInput("base, direction, low and high must be finite; some are NaN or infinite")
    if not (low < high).all():
        raise BadInput("every line needs low < high")
    if not len(base):
        return []
    for end in (low, high):
        at = base + end[:, None] * direction
        if not ((at >= oracle.low - 1e-12 * np.abs(at)) & (at <= oracle.high + 1e-12 * np.abs(at))).all():
            raise BadInput(
                f"a line leaves the box of {oracle.name} between low and high; oracle.room tells how far it goes"
            )

    def ask(x: np.ndarray) -> np.ndarray:
        return oracle(oracle.nearest(x))

    line = rng.integers(len(base), size=LINE_ROUNDING_POINTS)
    t = np.clip(rng.standard_normal(LINE_ROUNDING_POINTS), low[line], high[line])
    points = oracle.off_walls(base[line] + t[:, None] * direction[line], 0.02)
    noise = rounding(ask, points, oracle.resolution, rng, oracle.uneven)
    return line_search(ask, base, direction, low, high, noise, rng)


def line_search(  # noqa: PLR0913 - a line search is its line and its noise
    ask: Ask,
    base: Float[np.ndarray, "L n"],
    direction: Float[np.ndarray, "L n"],
    low: Float[np.ndarray, " L"] | float,
    high: Float[np.ndarray, " L"] | float,
    noise: Rounding,
    rng: np.random.Generator,
) -> list[Line]:
    """Find all breakpoints on many lines at once.

    A stretch of a line is straight if its answers fit one line, and has one breakpoint if they fit two that meet; that
    is believed once answers where they meet, just before and just after fit too. Otherwise the stretch is split by a
    short straight step. At the end the answers of every piece between two breakpoints must fit one line together: what
    single stretches are too short to show, long chords do; a piece that fails is searched again.

    Args:
        ask: Answers questions; piecewise linear up to its noise.
        base: A point per line.
        direction: A direction per line. Splits expect breakpoints at t of order one, however long the line is.
        low: Where the search begins, one for all or one per line.
        high: Where it ends.
        noise: How exact the answers are. Every tolerance follows from it, and the length of the short steps.
        rng: A generator, or a seed. Draws where to split.

    Returns:
        A `Line` each, which also says what could have hidden.

    Raises:
        BadInput: An empty interval.

    Queries: at least `6 L`; see `breakpoints`.

    Source: Carlini, Jagielski, Mironov, CRYPTO 2020 (arXiv:2003.04884), section 4.3.1, with least squares instead of
        exact equality, and answers on both sides of a breakpoint: where two neighbours bend in opposite directions,
        the outer lines meet outside the pair, and the answer there alone agrees with both.
    """
    count = len(base)
    low = np.broadcast_to(np.asarray(low, dtype=np.float64), (count,))
    high = np.broadcast_to(np.asarray(high, dtype=np.float64), (count,))
    if not (low < high).all():
        raise BadInput("every line needs low < high")
    step = noise.step
    answers = Answers(base, direction, ask, noise.at)
    ended = Ended()
    stretches = begin(answers, low, high, step, rng)
    found: list[list[tuple[float, float]]] = [[] for _ in range(count)]
    # Lines whose pieces are all straight are done.
    still = set(range(count))
    left: list[Stretch] = []
    bad: list[Stretch] = []
    for again in range(REOPENED + 1):
        left, spent = _run(answers, stretches, ended, sum(map(len, found)), step, rng)
        for line, t, error in ended.breakpoints:
            found[line].append((t, error))
        ended.breakpoints.clear()
        stretches = []
        for line in sorted(still):
            last = spent or again == REOPENED
            found[line], open_ = consolidated(answers, line, found[line], reopen=not last)
            (bad if last else stretches).extend(open_)
        still = {s.line for s in stretches}
        if not stretches:
            break
    unresolved = _unresolved(answers, left, bad, ended)
    return [
        line_of(answers, i, found[i], [(a, b) for j, a, b in unresolved if j == i], float(low[i]), float(high[i]))
        for i in range(count)
    ]


def _run(
    answers: Answers, stretches: list[Stretch], ended: Ended, found: int, step: float, rng: np.random.Generator
) -> tuple[list[Stretch], bool]:
    """Until every stretch has ended; those left, and whether patience or the budget was used up."""
    lines = len(answers.base)
    for _ in range(ROUNDS):
        if not stretches:
            break
        patience = min(PATIENCE * (16 * lines + found + len(ended.breakpoints)), QUESTIONS_PER_LINE * lines)
        if len(answers.t) > patience:
            return stretches, True
        try:
            many = AT_ONCE * lines + found + len(ended.breakpoints)
            stretches = advance(answers, stretches[:many], ended, step, rng) + stretches[many:]
        except BudgetExceeded:
            return stretches, True
    return stretches, False


def _unresolved(
    answers: Answers, left: list[Stretch], bad: list[Stretch], ended: Ended
) -> list[tuple[int, float, float]]:
    """Open stretches, pieces that are not straight, and stretches given up that no straight piece explains."""
    pieces = [(s.line, *_ends(answers, s)) for s in bad]
    given_up = [u for u in ended.unresolved if any(u[0] == i and a < u[2] and b > u[1] for i, a, b in pieces)]
    narrow = [(s.line, *_ends(answers, s)) for s in left] + given_up
    # A piece that holds a stretch told already is not told again.
    wide = [p for p in pieces if not any(p[0] == i and p[1] <= (a + b) / 2 <= p[2] for i, a, b in narrow)]
    return sorted(set(narrow + wide))


def _ends(answers: Answers, stretch: Stretch) -> tuple[float, float]:
    t = answers.t[stretch.rows]
    return float(t[0]), float(t[-1])
