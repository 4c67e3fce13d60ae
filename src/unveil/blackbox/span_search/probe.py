"""What is answering: whether slopes exist and can be told from noise, before any is asked for."""

from __future__ import annotations

import numpy as np

from unveil.blackbox.span_search.points import Asker
from unveil.outcome import Outcome

DROWNED = 0.1  # noise over signal from which nothing is resolved
UNCHANGED = 0.9  # of the shortest moves that leave the answer exactly as it was: steps
PLACES = 4  # different answers among those asked, without which nothing is said about steps
LINES, ALONG, HALVINGS = 2, 16, 24  # lines on which jumps are looked for, points on each, bisections of a jump
NOTHING, RANGE = 24, 12.0  # fresh answers, and their range in standard deviations, before nothing is said to be there


def refusal(ask: Asker) -> Outcome | None:
    """Why no span can be found, or None if there is no reason.

    Queries: `LINES * ALONG` where the model is not smooth, and up to `HALVINGS` for each jump
    """
    noise = ask.noise
    if ask.oracle.in_steps:
        return Outcome.answers_in_steps
    if noise.kind == "constant":
        return None
    if noise.unchanged >= UNCHANGED and noise.places >= PLACES:
        return Outcome.answers_in_steps
    if ask.oracle.grid is None and noise.rounding in ("float", "noise") and _jumps(ask):
        return Outcome.answers_in_steps
    if noise.kind != "linear" and bool((noise.level > DROWNED * noise.size).all()):
        return Outcome.not_resolved
    return None


def _jumps(ask: Asker) -> bool:
    """On a line, a change larger than its neighbours is followed inwards: a jump stays as large, a slope fades."""
    oracle, noise, rng = ask.oracle, ask.noise, ask.rng
    x = ask.draw(LINES).x
    scale = float(np.sqrt(np.mean(x**2))) or 1.0
    reach = scale if oracle.within is None else (oracle.high - oracle.low) / 32
    for i in range(LINES):
        direction = rng.choice([-1.0, 1.0], size=oracle.n) * reach
        line = oracle.nearest(x[i] + np.linspace(-1, 1, ALONG)[:, None] * direction)
        y = ask(line, noise.level)
        line, y = line[np.isfinite(y).all(axis=1)], y[np.isfinite(y).all(axis=1)]
        if len(y) < PLACES:
            continue
        change = np.abs(np.diff(y, axis=0))
        ratio = (change / np.maximum(4 * np.median(change, axis=0), 1000.0)).max(axis=1)
        at = int(ratio.argmax())
        if ratio[at] > 1 and _stays(ask, line[at], line[at + 1], y[at], y[at + 1]):
            return True
    return False


def _stays(ask: Asker, low: np.ndarray, high: np.ndarray, at_low: np.ndarray, at_high: np.ndarray) -> bool:
    """Whether a change between two points stays as large when they are brought together."""
    whole, width = np.abs(at_high - at_low), float(np.linalg.norm(high - low))
    gap = width
    for _ in range(HALVINGS):
        middle = ask.oracle.nearest(((low + high) / 2)[None])
        between = ask(middle, ask.noise.level)[0]
        if not np.isfinite(between).all():
            return False
        if np.max(np.abs(between - at_low)) > np.max(np.abs(at_high - between)):
            high, at_high = middle[0], between
        else:
            low, at_low = middle[0], between
        gap = float(np.linalg.norm(high - low))
        if gap <= 1e-6 * width or (np.abs(at_high - at_low) < 0.05 * whole).all():
            break
    left = np.abs(at_high - at_low)
    widest = ask.oracle.widest
    if float(np.max(np.abs([at_low, at_high]) * ask.noise.level)) > 0.9 * widest:  # a log-ratio out of digits
        return False
    return gap <= 1e-4 * width and bool((left > np.maximum(0.2 * whole, 300.0)).any())


def varies(ask: Asker) -> bool:
    """Whether answers may depend on the input although no slope stood out: then nothing is resolved.

    Noise hides whether they do; rounded answers that differ at all show it, and others by a range beyond rounding.

    Queries: `NOTHING`
    """
    noise, here = ask.noise, ask.draw(NOTHING)
    if noise.rounding == "noise":
        return True
    y = here.fx * here.sigma / noise.level
    return bool((np.ptp(y, axis=0) > (RANGE if noise.rounding == "float" else 0.0)).any())
