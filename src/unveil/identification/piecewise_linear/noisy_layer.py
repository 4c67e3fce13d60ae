"""read_coarse: a layer's hyperplanes from answers with few digits: steps are long, and every bend is proved."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.line_search.fit import limit
from unveil.blackbox.rounding import Ask, Rounding
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer_membership import LayerFound, on_plane
from unveil.identification.piecewise_linear.noisy_derivatives import normals
from unveil.identification.piecewise_linear.plane_fit import read_planes

# Places on a hyperplane where it is looked at again: at first, half of which must show it; and per round, rounds at
# most, and the standard deviations by which it must be met more often than chance.
GLANCES = 4
PLACES = 8
CHANCES = 8
SURE = 4.0
# With this many breakpoints per coordinate on a line, windows are crowded and lines cheap: planes through many lines'
# breakpoints say more, of so many times more lines.
CROWDED = 8
BUNDLE = 3
# Cosine with a coordinate from which on a hyperplane in a bounded region is taken for its wall.
WALL = 0.95
# Points of a bounded region between which places on a hyperplane are looked for.
POOL = 300
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
    quiet_lines: int | None = None,
    sure: bool = False,
    found: LayerFound | None = None,
    towards: Float[np.ndarray, "W n"] | None = None,
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
        quiet_lines: It stops after this many lines in a row that showed nothing new; None: 3, or 8 in a
            bounded region or among many deeper bends.
        sure: Neurons are missing for sure: it looks for them even where nothing seems to change.
        found: Something to go on from.
        towards: Points that the first lines pass through, one each: there the neurons read so far explain nothing.

    Queries: per line about 14 per breakpoint, and `2 d + 9` for every piece next to a breakpoint that no row explains.
    """
    found = LayerFound.nothing(frame, len(noise.floor)) if found is None else found
    quiet = 0
    for wrong in () if towards is None else towards:
        base = frame.sample(1, rng)
        direction = wrong - base
        (line,) = line_search(ask, base, direction, 0.0, 1.0, noise, rng)
        found.lines += 1
        if len(line.t):
            _look(ask, frame, line, noise, rng, found)
    for _ in range(most_lines):
        beyond = _complement(frame, found) if found.lines else None
        if beyond is not None and not sure and not missing(ask, frame, found, noise, rng):
            break
        # Every other line runs where the rows read so far see nothing, so that only the missing ones bend it.
        base, direction, low, high = _line(frame, far, found, beyond if found.lines % 2 or sure else None, rng)
        if not (low < high).all():
            quiet += 1
            continue
        (line,) = line_search(ask, base, direction, low, high, noise, rng)
        if frame.free and not found.lines and len(line.t) > CROWDED * frame.d:
            return read_planes(ask, frame, noise, rng, far=far, most_lines=BUNDLE * most_lines, found=found)
        found.lines += 1
        before = len(found.rows)
        if len(line.t):
            _look(ask, frame, line, noise, rng, found)
        quiet = 0 if len(found.rows) > before else quiet + 1
        if quiet >= (quiet_lines or (3 if frame.free and len(found.bent_at) < CROWDED * frame.d else 8)):
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


def missing(
    ask: Ask, frame: Frame, found: LayerFound, noise: Rounding, rng: np.random.Generator, tests: int = 8
) -> bool:
    """Whether answers change where no row says so, by more than the errors of the rows explain.

    With as many rows as coordinates there is no such direction, and it cannot be told.

    Queries: `2 tests`
    """
    beyond = _complement(frame, found)
    if beyond is None:
        return not len(found.rows)
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


def explained_by(frame: Frame, found: LayerFound, line: Line) -> np.ndarray:
    """For each breakpoint the row that crosses the line there, or -1."""
    out = np.full(len(line.t), -1)
    if not len(found.rows) or not len(out):
        return out
    h0, dh = frame.values(line.base[None])[0], frame.M @ line.direction
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
    line: Line,
    noise: Rounding,
    rng: np.random.Generator,
    found: LayerFound,
) -> None:
    """Measure the breakpoints that nothing explains and that have room; keep the straight ones."""
    explained = explained_by(frame, found, line)
    used, R, J, E = normals(ask, frame, line, explained, noise, rng, found)
    if not len(used):
        return
    at = line.points[used]
    b = -np.einsum("kd,kd->k", R, frame.values(at))
    straight = goes_on(ask, frame, at, R, b, J, E, noise, rng)
    if not frame.free:
        # The region ends where a neuron of the layer before switches; its hyperplane may be met a little inside.
        straight &= np.abs(R).max(axis=1) < WALL
    for i in np.flatnonzero(straight)[np.argsort(E[straight], kind="stable")]:
        if not met(frame, found, at[i], R[i], E[i]):
            found.add(R[i], b[i], J[i], E[i], at[i])
    bent = ~straight
    found.bent_at = np.concatenate([found.bent_at, at[bent]])
    found.bent_step = np.concatenate([found.bent_step, np.repeat(line.direction[None], bent.sum(), axis=0)])
    found.bent_rows = np.concatenate([found.bent_rows, R[bent]])
    found.bent_jump = np.concatenate([found.bent_jump, J[bent]])
    found.bent_error = np.append(found.bent_error, E[bent])
    found.bent_maybe = np.concatenate([found.bent_maybe, np.zeros(int(bent.sum()), dtype=bool)])


def met(frame: Frame, found: LayerFound, at: np.ndarray, row: np.ndarray, error: float) -> bool:
    """Whether a hyperplane is one of those found: as steep, and where theirs is, as far as errors reach."""
    if not len(found.rows):
        return False
    near = np.sqrt(np.maximum(0, 2 - 2 * np.abs(found.rows @ row))) <= 6 * (error + found.error)
    here = frame.values(at[None])[0]
    away = np.linalg.norm(here - frame.values(found.seen), axis=1) / np.sqrt(frame.d)
    off = np.abs(found.rows @ here + found.bias)
    return bool((near & (off <= 6 * (error + found.error) * (away + 1e-3))).any())


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

    Queries: `3 GLANCES`, and for those that pass `6 PLACES` per round, at most `CHANCES` rounds.
    """
    count = len(rows)
    straight = np.zeros(count, dtype=bool)
    first, _ = _bends(ask, frame, at, rows, bias, jump, error, noise, rng, places=GLANCES, control=False)
    open_ = np.flatnonzero(2 * first >= GLANCES)
    hits, beside = np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    for chance in range(1, CHANCES + 1):
        if not len(open_):
            break
        o = open_
        hit, control = _bends(ask, frame, at[o], rows[o], bias[o], jump[o], error[o], noise, rng, places=PLACES)
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
    *,
    places: int,
    control: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """At how many of a few far places each hyperplane is met, and how often a window beside it meets anybody."""
    count = len(rows)
    if not count:
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    at, rows, bias, jump, error = (np.repeat(v, places, axis=0) for v in (at, rows, bias, jump, error))
    x = _anywhere(frame, at, rows, bias, rng)
    sigma = noise.at(x)
    away = np.linalg.norm(frame.values(x) - frame.values(at), axis=1) / np.sqrt(frame.d)
    strength = np.sqrt(((jump / sigma) ** 2).mean(axis=1))
    step = (WINDOW * error * away + 30 / strength)[:, None] * (rows @ frame.V.T)
    windows = [0, 4] if control else [0]
    y = ask(np.concatenate([x + (k + side) * step for k in windows for side in (-1, 0, 1)]))
    y = y.reshape(len(windows), 3, len(x), -1)
    bend = np.sqrt((((y[:, 0] - 2 * y[:, 1] + y[:, 2]) / sigma) ** 2).mean(axis=2)) > 8
    seen = bend.reshape(len(windows), count, places).sum(axis=2)
    return seen[0], seen[-1]


def _anywhere(frame: Frame, at: np.ndarray, rows: np.ndarray, bias: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A place on each hyperplane that has nothing to do with where it was met."""
    if frame.free:
        return on_plane(frame, at, rows, bias, rng)
    # The region is convex: between a point of it on one side and one on the other lies one on the hyperplane.
    pool = frame.sample(POOL, rng)
    z = frame.values(pool) @ rows.T + bias
    out = at.copy()
    for i in range(len(rows)):
        up, down = np.flatnonzero(z[:, i] > 0), np.flatnonzero(z[:, i] < 0)
        if len(up) and len(down):
            a, b = rng.choice(up), rng.choice(down)
            part = z[a, i] / (z[a, i] - z[b, i])
            out[i] = (1 - part) * pool[a] + part * pool[b]
    lonely = np.flatnonzero((out == at).all(axis=1))
    if len(lonely):
        out[lonely] = on_plane(frame, at[lonely], rows[lonely], bias[lonely], rng)
    return out
