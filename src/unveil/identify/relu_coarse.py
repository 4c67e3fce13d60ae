"""read_coarse: a layer's hyperplanes from answers with few digits: steps are long, and every bend is proved."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.crossings import Breakpoints
from unveil.blackbox.noisy_crossings import limit, noisy_breakpoints
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identify.relu_frame import Frame
from unveil.identify.relu_slopes import expected_error, inside, long_gradients, stations
from unveil.identify.relu_straight import LayerFound, on_plane

# Rows with a larger relative error are of no use: they predict nothing far away.
VAGUE = 0.1
# Places on a hyperplane where it is looked at again per round, rounds at most, and the standard deviations by which it
# must be met more often than chance.
PLACES = 8
CHANCES = 8
SURE = 4.0
# Places among which a line that only missing neurons bend is laid.
ROOMY = 400
# A window's half width, in expected errors.
WINDOW = 1.75


def read_coarse(
    ask: Ask,
    frame: Frame,
    noise: Rounding,
    rng: np.random.Generator,
    *,
    far: float = 20.0,
    most_lines: int = 24,
    quiet_lines: int = 3,
    sure: bool = False,
    found: LayerFound | None = None,
) -> LayerFound:
    """Read the normals and offsets of the next layer's neurons from noisy answers.

    As `read_layer`, with other means: lines are searched for straight stretches, derivatives come from steps to both
    sides as long as the piece allows, a normal is kept only if it agrees with the bend along the line, and a hyperplane
    only if it bends the answers at far places clearly more often than a window beside it.

    Args:
        ask: Answers questions.
        frame: The coordinates of this layer.
        noise: How exact answers are.
        rng: Draws lines.
        far: How far lines reach.
        most_lines: Lines after which what was found is returned.
        quiet_lines: It stops after this many lines in a row that showed nothing new.
        sure: Neurons are missing for sure: it looks for them even where nothing seems to change.
        found: Something to go on from.

    Queries: per line about 40 per breakpoint, and `2 d + 9` for every piece next to a breakpoint that no row explains.
    """
    found = LayerFound.nothing(frame, len(noise.floor)) if found is None else found
    quiet = 0
    for _ in range(most_lines):
        beyond = _complement(frame, found) if found.lines else None
        if beyond is not None and not sure and not _changes(ask, frame, found, beyond, noise, rng):
            break
        # Every other line runs where the rows read so far see nothing, so that only the missing ones bend it.
        base, direction, low, high = _line(frame, far, found, beyond if found.lines % 2 or sure else None, rng)
        if not (low < high).all():
            quiet += 1
            continue
        (line,) = noisy_breakpoints(ask, base, direction, low, high, noise)
        found.lines += 1
        before = len(found.rows)
        if len(line.t):
            _look(ask, frame, line, base[0], direction[0], noise, rng, found)
        quiet = 0 if len(found.rows) > before else quiet + 1
        if quiet >= quiet_lines:
            break
    return found


def _complement(frame: Frame, found: LayerFound) -> Float[np.ndarray, "d free"] | None:
    """Orthonormal columns orthogonal to all rows; None if there are no rows or no such columns."""
    if not 0 < len(found.rows) < frame.d:
        return None
    return np.asarray(np.linalg.svd(found.rows, full_matrices=True)[2][len(found.rows) :].T)


def _line(
    frame: Frame, far: float, found: LayerFound, beyond: np.ndarray | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    base, direction, low, high = frame.lines(1, far, rng)
    if beyond is None:
        return base, direction, low, high
    if frame.free:
        # The neurons read so far stay as they are all along the line: choose a place where none is about to switch, so
        # that steps can be long.
        pool = frame.sample(ROOMY, rng)
        z = np.abs(frame.values(pool) @ found.rows.T + found.bias)
        base = pool[[z.min(axis=1).argmax()]]
    direction = rng.standard_normal((1, beyond.shape[1])) @ beyond.T @ frame.V.T
    low, high = frame.room(base, direction)
    margin = 1e-3 * np.minimum(high - low, 1.0)
    return base, direction, np.maximum(low + margin, -far), np.minimum(high - margin, far)


def _changes(
    ask: Ask,
    frame: Frame,
    found: LayerFound,
    beyond: np.ndarray,
    noise: Rounding,
    rng: np.random.Generator,
    tests: int = 8,
) -> bool:
    """Whether moving in the complement changes the answers by more than the errors of the rows do."""
    x = frame.sample(tests, rng) if frame.free else (frame.sample(tests, rng) + frame.sample(tests, rng)) / 2
    step = rng.standard_normal((tests, beyond.shape[1])) @ beyond.T @ frame.V.T
    high = np.minimum(0.9 * frame.room(x, step)[1], 1.0)
    y = x + high[:, None] * step
    answers = ask(np.concatenate([x, y]))
    drift = np.sqrt(((np.linalg.norm(found.jump / noise.floor, axis=1) * found.error) ** 2).sum())
    moved = (answers[:tests] - answers[tests:]) / np.hypot(noise.at(x), noise.at(y))
    off = np.linalg.norm(frame.values(y) - frame.values(x), axis=1) / np.sqrt(frame.d)
    allowed = limit(moved.shape[1]) * (1 + 0.5 * drift * off / np.sqrt(moved.shape[1]))
    return bool((np.sqrt((moved**2).mean(axis=1)) > allowed).any())


def explained_by(
    frame: Frame, found: LayerFound, line: Breakpoints, base: np.ndarray, direction: np.ndarray
) -> np.ndarray:
    """For each breakpoint the row that crosses the line there, or -1."""
    out = np.full(len(line.t), -1)
    if not len(found.rows) or not len(out):
        return out
    h0, dh = frame.values(base[None])[0], frame.M @ direction
    rate = found.rows @ dh
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -(found.rows @ h0 + found.bias) / rate
    t = np.where(np.isfinite(t), t, 1e300)
    away = np.linalg.norm(h0[None] + np.clip(t, -1e6, 1e6)[:, None] * dh - frame.values(found.seen), axis=1)
    slack = 4 * found.error * away / np.sqrt(frame.d) / np.maximum(np.abs(rate), 1e-300)
    off = np.abs(line.t[:, None] - t)
    inside = off <= np.where(slack < 0.1 * (1 + np.abs(t)), slack, -np.inf) + 2 * line.width[:, None]
    # Every row crosses once: the pairs closest in units of their slack first.
    score = np.where(inside, off / (slack + line.width[:, None]), np.inf)
    while np.isfinite(score).any():
        p, i = np.unravel_index(int(score.argmin()), score.shape)
        out[p] = i
        score[p], score[:, i] = np.inf, np.inf
    return out


def _look(
    ask: Ask,
    frame: Frame,
    line: Breakpoints,
    base: np.ndarray,
    direction: np.ndarray,
    noise: Rounding,
    rng: np.random.Generator,
    found: LayerFound,
) -> None:
    """Differentiate around the breakpoints that nothing explains and that have room; keep the straight ones."""
    explained = explained_by(frame, found, line, base, direction)
    dh = frame.M @ direction
    wanted = (explained < 0) & (expected_error(frame, line, base, direction, noise) < VAGUE)
    if not wanted.any():
        return
    groups = stations(line, wanted, explained >= 0)
    pieces = np.unique([piece for _, *ends in groups for piece in ends])
    where, radius = inside(line, pieces)
    x = base + where[:, None] * direction
    slope, error = long_gradients(ask, frame, x, radius, noise, rng)
    fine = np.isfinite(error)
    found.at, found.slope = np.concatenate([found.at, x[fine]]), np.concatenate([found.slope, slope[fine]])
    rows, bias, jump, errors, used = [], [], [], [], []
    for group, before, after in groups:
        i, j = np.searchsorted(pieces, [before, after])
        change, blur = slope[j] - slope[i], float(np.hypot(error[i], error[j]))
        if not np.isfinite(blur):
            continue
        for p in range(before, after):
            if explained[p] >= 0:
                row = found.rows[explained[p]]
                change = change - np.outer(line.jump[p], row / (row @ dh))
        pinv = np.linalg.pinv(line.jump[group].T)
        for k, p in enumerate(group):
            normal = pinv[k] @ change
            size = float(np.linalg.norm(normal))
            e = float(np.linalg.norm(pinv[k])) * blur * np.sqrt(frame.d) / size
            # The bend along the line is known much better: where it differs, somebody else bends in between, too.
            if abs(normal @ dh - 1) > 5 * e * size * np.linalg.norm(dh) / np.sqrt(frame.d) + 0.01:
                continue
            rows.append(normal / size)
            at = frame.values((base + line.t[p] * direction)[None])[0]
            bias.append(-rows[-1] @ at)
            jump.append(line.jump[p] * size)
            errors.append(e)
            used.append(p)
    if not rows:
        return
    R, b, J, E = np.array(rows), np.array(bias), np.array(jump), np.array(errors)
    at = base + line.t[used][:, None] * direction
    good = E < VAGUE
    straight = np.zeros(len(R), dtype=bool)
    straight[good] = goes_on(ask, frame, at[good], R[good], b[good], J[good], E[good], noise, rng)
    for i in np.flatnonzero(straight)[np.argsort(E[straight], kind="stable")]:
        if not found.known(R[i : i + 1], b[i : i + 1], E[i : i + 1])[0]:
            found.rows = np.concatenate([found.rows, R[i : i + 1]])
            found.bias = np.append(found.bias, b[i])
            found.jump = np.concatenate([found.jump, J[i : i + 1]])
            found.seen = np.concatenate([found.seen, at[i : i + 1]])
            found.error = np.append(found.error, E[i])
    bent = good & ~straight & ~found.known(R, b, E)
    found.bent_at = np.concatenate([found.bent_at, at[bent]])
    found.bent_step = np.concatenate([found.bent_step, np.repeat(direction[None], bent.sum(), axis=0)])
    found.bent_rows = np.concatenate([found.bent_rows, R[bent]])
    found.bent_jump = np.concatenate([found.bent_jump, J[bent]])
    found.bent_error = np.append(found.bent_error, E[bent])
    found.bent_maybe = np.concatenate([found.bent_maybe, np.zeros(int(bent.sum()), dtype=bool)])


def goes_on(
    ask: Ask,
    frame: Frame,
    at: Float[np.ndarray, "K n"],
    rows: Float[np.ndarray, "K d"],
    bias: Float[np.ndarray, " K"],
    jump: Float[np.ndarray, "K m"],
    error: Float[np.ndarray, " K"],
    noise: Rounding,
    rng: np.random.Generator,
) -> Bool[np.ndarray, " K"]:
    """Which hyperplanes bend the answers at far places too, and clearly more often than a window beside them does.

    Far out a deeper neuron's hyperplane has bent away, and what is met in the window is anybody's, as likely to be met
    beside it. One of this layer is there wherever the layers behind let it be seen.

    Queries: `6 PLACES` per round; one or two rounds for a bent hyperplane, at most `CHANCES` for a straight one.
    """
    count = len(rows)
    straight, open_ = np.zeros(count, dtype=bool), np.arange(count)
    hits, beside = np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    for chance in range(1, CHANCES + 1):
        if not len(open_):
            break
        hit, control = _bends(ask, frame, at[open_], rows[open_], bias[open_], jump[open_], error[open_], noise, rng)
        hits[open_] += hit
        beside[open_] += control
        more = hits - beside
        straight[open_] = (more / np.sqrt(hits + beside + 1) >= SURE)[open_]
        open_ = open_[~straight[open_] & (more[open_] >= 0.2 * chance * PLACES)]
    return straight


def _bends(
    ask: Ask,
    frame: Frame,
    at: np.ndarray,
    rows: np.ndarray,
    bias: np.ndarray,
    jump: np.ndarray,
    error: np.ndarray,
    noise: Rounding,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """At how many of `PLACES` far places each hyperplane is met, and how often a window beside it meets anybody."""
    jump, error = np.repeat(jump, PLACES, axis=0), np.repeat(error, PLACES)
    at, normal = np.repeat(at, PLACES, axis=0), np.repeat(rows, PLACES, axis=0)
    x = on_plane(frame, at, normal, np.repeat(bias, PLACES), rng)
    sigma = noise.at(x)
    away = np.linalg.norm(frame.values(x) - frame.values(at), axis=1) / np.sqrt(frame.d)
    strength = np.sqrt(((jump / sigma) ** 2).mean(axis=1))
    step = (WINDOW * error * away + 30 / strength)[:, None] * (normal @ frame.V.T)
    y = ask(np.concatenate([x + k * step for k in (-1, 0, 1, 3, 4, 5)])).reshape(6, len(x), -1)
    met = [np.sqrt((((y[i] - 2 * y[i + 1] + y[i + 2]) / sigma) ** 2).mean(axis=1)) > 8 for i in (0, 3)]
    hit, control = (v.reshape(len(rows), PLACES).sum(axis=1) for v in met)
    return hit, control
