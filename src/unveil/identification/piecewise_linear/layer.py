"""read_layer: the hyperplanes of the first layer a frame sees, told from those of deeper layers by being straight."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import AGREE, Ask, Rounding
from unveil.identification.piecewise_linear.frame import MANY, Frame, gradients
from unveil.identification.piecewise_linear.layer_membership import LayerFound, met_before, on_plane, straight_ones


def read_layer(
    ask: Ask,
    frame: Frame,
    noise: Rounding,
    rng: np.random.Generator,
    *,
    far: float = 1e5,
    most_lines: int = 24,
    quiet_lines: int = 2,
    found: LayerFound | None = None,
    start: Line | None = None,
) -> LayerFound:
    """Read the normals and offsets of the next layer's neurons.

    A line's breakpoints are found; derivatives in the pieces between them give the normals, as many per Jacobian as
    the network has
    outputs; what bends on the same hyperplane at other places too belongs to this layer. Further lines look only at
    what is
    not explained yet. With fewer neurons than coordinates, moving in the complement of all normals must change nothing;
    where it does, the next line runs there, so that only the missing neurons bend it.

    Args:
        ask: Answers questions.
        frame: The coordinates of this layer.
        noise: How exact answers are.
        rng: Draws lines.
        far: How far lines reach.
        most_lines: Lines after which what was found is returned.
        quiet_lines: It stops after this many lines in a row that showed nothing new.
        found: Something to go on from.
        start: The first line, if it was searched before.

    Queries: for k neurons and B deeper breakpoints on the first line, `((k + B) / m + 1) (d + 1)` and about 12 (k +
        B) for positions.
    """
    m = len(noise.floor)
    fresh = found is None or not found.lines
    found = LayerFound.nothing(frame, m) if found is None else found
    quiet = 0
    for number in range(most_lines):
        beyond = None if fresh and number == 0 else _complement(frame, found)
        along, changes = None, False
        given = start is not None and number == 0
        if beyond is not None and len(found.rows) and not given:
            changes = _changes(ask, frame, beyond, noise, rng)
            if not changes and (quiet >= quiet_lines or frame.free):
                break
            along = beyond if changes and (frame.free or number % 2) else None
        line = start if given else _line(ask, frame, noise, rng, far, along)
        found.lines += 1
        before = len(found.rows)
        if line is not None:
            found.searched.append(line)
            _look(ask, frame, line, noise, rng, found, first=fresh and number == 0)
        quiet = 0 if len(found.rows) > before else quiet + 1
        # Short lines within bounds miss neurons: as long as something moves in the complement, one is missing.
        if quiet >= quiet_lines * (1 if frame.free else 2) and not (changes and not frame.free):
            break
    return found


def _line(
    ask: Ask, frame: Frame, noise: Rounding, rng: np.random.Generator, far: float, beyond: np.ndarray | None
) -> Line | None:
    """A random line, or one along columns that no row read so far sees; None where the region has no room for it."""
    base, direction, low, high = frame.lines(1, far, rng)
    if beyond is not None:
        step = rng.standard_normal((1, beyond.shape[1])) @ beyond.T @ frame.V.T
        if not frame.free:
            lo, hi = frame.room(base, step)
            step = step * min(1.0, 1e3 / max(np.abs([lo[0], hi[0]]).min(), 1e-3))
        lo, hi = frame.room(base, step)
        margin = 1e-3 * np.minimum(hi - lo, 1.0)
        direction, low, high = step, np.maximum(lo + margin, -far), np.minimum(hi - margin, far)
    if not (low < high).all():
        return None
    return line_search(ask, base, direction, low, high, noise, rng)[0]


def _complement(frame: Frame, found: LayerFound) -> np.ndarray | None:
    """Orthonormal columns orthogonal to all rows; None if there are none."""
    k = len(found.rows)
    if k >= frame.d:
        return None
    _, s, vt = np.linalg.svd(found.rows, full_matrices=True)
    rank = int((s > 1e-9).sum())
    return np.asarray(vt[rank:].T)


def _changes(ask: Ask, frame: Frame, beyond: np.ndarray, noise: Rounding, rng: np.random.Generator) -> bool:
    """Whether moving in the complement changes any answer."""
    # Within a box steps are short, and a neuron that is active in one corner only is easily passed by.
    tests = 6 if frame.within is None else 24
    x = frame.sample(tests, rng) if frame.free else (frame.sample(tests, rng) + frame.sample(tests, rng)) / 2
    step = (3 * rng.standard_normal((tests, beyond.shape[1]))) @ beyond.T @ frame.V.T
    high = frame.room(x, step)[1]
    t = np.where(high > 1e6, 1.0, 0.9 * high)
    y = x + np.minimum(t, 1.0)[:, None] * step
    answers = ask(np.concatenate([x, y]))
    scale = noise.at(x) + noise.at(y)
    # The normals carry errors of their own, so the answers drift a little along the complement.
    drift = 1e-9 + 300 * noise.relative
    moved = np.abs(answers[:tests] - answers[tests:])
    return bool((moved > AGREE * scale + drift * (1 + np.linalg.norm(step, axis=1))[:, None] * _typical(answers)).any())


def _typical(answers: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(np.abs(answers - answers.mean(axis=0)).max(axis=0), 1e-300))


def _look(
    ask: Ask,
    frame: Frame,
    line: Line,
    noise: Rounding,
    rng: np.random.Generator,
    found: LayerFound,
    first: bool,
) -> None:
    """Explain one line's breakpoints; differentiate around the unexplained ones; keep the straight ones."""
    m = len(noise.floor)
    h0, dh = frame.values(line.base[None])[0], frame.M @ line.direction
    explained = np.full(len(line.t), -1)
    if len(found.rows) and len(line.t):
        rate = found.rows @ dh
        with np.errstate(divide="ignore", invalid="ignore"):
            t = -(found.rows @ h0 + found.bias) / rate
            t = np.where(np.isfinite(t), t, 1e300)
            slack = (
                3
                / np.sqrt(frame.d)
                * (found.error * np.linalg.norm(h0[None] + np.where(t < 1e300, t, 0)[:, None] * dh, axis=1))
            )
            slack = slack / np.abs(rate) + 1e-9 * (1 + np.abs(t))
        # A line that hardly crosses a hyperplane says nothing about where: it must not explain everything.
        slack = np.where(slack < 0.1 * (1 + np.abs(t)), slack, -np.inf)
        off = np.abs(line.t[:, None] - t[None, :]) - slack - 3 * line.width[:, None]
        best = off.argmin(axis=1)
        explained = np.where(off[np.arange(len(best)), best] <= 0, best, -1)
    wanted = np.flatnonzero(explained < 0)
    if not len(wanted) and not first:
        return
    # Contributions of the explained breakpoints are known: jump (m) times normal (d).
    groups, stations = _stations(line, wanted, m)
    where, radius = _inside(line, stations)
    x = line.inputs(where)
    # What the line already says need not be asked again; but all derivatives in a place share the error of its value.
    if len(line.t) and frame.free:
        value = line.at(where) if frame.d < MANY else None
        slope, error = gradients(ask, frame, x, radius, noise, rng, value, (dh, line.slope[stations]))
    else:
        slope, error = gradients(ask, frame, x, radius, noise, rng)
    fine = np.isfinite(error)
    found.at, found.slope = np.concatenate([found.at, x[fine]]), np.concatenate([found.slope, slope[fine]])
    rows, bias, jump, errors, used = [], [], [], [], []
    for g, group in enumerate(groups):
        change = slope[g + 1] - slope[g]
        for p in range(stations[g], stations[g + 1]):
            if explained[p] >= 0:
                row = found.rows[explained[p]]
                change = change - np.outer(line.jump[p], row / (row @ dh))
        pinv = np.linalg.pinv(line.jump[group].T)
        normal = pinv @ change
        weight = np.linalg.norm(pinv, axis=1)
        for j, p in enumerate(group):
            size = np.linalg.norm(normal[j])
            if not np.isfinite(size) or size == 0 or not np.isfinite(error[g] + error[g + 1]):
                continue
            used.append(p)
            rows.append(normal[j] / size)
            at = frame.values(line.points[[p]])[0]
            bias.append(-rows[-1] @ at)
            jump.append(line.jump[p] * size)
            e = weight[j] * np.hypot(error[g], error[g + 1]) * np.sqrt(frame.d) / size
            errors.append(max(e, abs(normal[j] @ dh - 1) / (np.linalg.norm(dh) * size), 1e-15))
    if not rows:
        return
    R, b, J, E = np.array(rows), np.array(bias), np.array(jump), np.array(errors)
    at = line.points[used]
    straight, maybe = straight_ones(ask, frame, found, at, R, b, J, E, noise, rng)
    straight |= met_before(frame, found, at, R, b)
    straight &= ~found.known(R, b, E)
    for i in np.flatnonzero(straight):
        if not found.known(R[i : i + 1], b[i : i + 1], E[i : i + 1])[0]:
            found.rows = np.concatenate([found.rows, R[i : i + 1]])
            found.bias = np.append(found.bias, b[i])
            found.jump = np.concatenate([found.jump, J[i : i + 1]])
            found.seen = np.concatenate([found.seen, at[i : i + 1]])
            found.error = np.append(found.error, E[i])
    bent = ~straight & ~found.known(R, b, E)
    found.bent_at = np.concatenate([found.bent_at, at[bent]])
    found.bent_step = np.concatenate([found.bent_step, np.repeat(line.direction[None], bent.sum(), axis=0)])
    found.bent_rows = np.concatenate([found.bent_rows, R[bent]])
    found.bent_jump = np.concatenate([found.bent_jump, J[bent]])
    found.bent_error = np.append(found.bent_error, E[bent])
    found.bent_maybe = np.concatenate([found.bent_maybe, maybe[bent]])


def _stations(line: Line, wanted: np.ndarray, m: int) -> tuple[list[np.ndarray], list[int]]:
    """Pieces in which to differentiate, so that at most m wanted breakpoints, told apart by the answers, lie between
    two."""
    length = np.diff(line.edges)

    def longest(first: int, last: int) -> int:
        return first + int(np.argmax(length[first : last + 1]))

    usual = np.median(length)

    def ahead(i: int) -> int:
        """The piece in which to differentiate after the first i wanted breakpoints."""
        return longest(int(wanted[i - 1]) + 1 if i else 0, int(wanted[i]) if i < len(wanted) else len(length) - 1)

    # As few Jacobians as possible; among these, in long pieces.
    cost, back = np.zeros(len(wanted) + 1), np.zeros(len(wanted) + 1, dtype=int)
    for i in range(1, len(wanted) + 1):
        cost[i] = np.inf
        for q in range(1, min(m, i) + 1):
            jumps = line.jump[wanted[i - q : i]]
            if q > 1:
                s = np.linalg.svd(jumps / np.linalg.norm(jumps, axis=1, keepdims=True), compute_uv=False)
                if s[-1] < 0.01:
                    break
            short = max(0.0, np.log10(0.3 * usual / length[ahead(i)]))
            if cost[i - q] + 1 + 0.2 * short < cost[i]:
                cost[i], back[i] = cost[i - q] + 1 + 0.2 * short, i - q
    cuts = [len(wanted)]
    while cuts[-1] > 0:
        cuts.append(int(back[cuts[-1]]))
    cuts.reverse()
    return [wanted[i:j] for i, j in pairwise(cuts)], [ahead(i) for i in cuts]


def _inside(line: Line, stations: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A point in each of these pieces, and how far it is from the ends."""
    edges = line.edges
    lo, hi = edges[stations], edges[np.array(stations) + 1]
    # The outermost pieces are huge: stay near their breakpoint, where the numbers are small.
    lo = np.where(np.array(stations) == 0, np.maximum(lo, hi - 2 * (1 + np.abs(hi))), lo)
    last = np.array(stations) == len(edges) - 2
    hi = np.where(last, np.minimum(hi, np.where(lo < -1e4, 0, lo) + 2 * (1 + np.abs(np.where(lo < -1e4, 0, lo)))), hi)
    return (lo + hi) / 2, (hi - lo) / 4


def sharpen(
    ask: Ask, frame: Frame, found: LayerFound, noise: Rounding, rng: np.random.Generator, which: np.ndarray
) -> None:
    """Measure these rows again, where their hyperplane is far from all others and steps can be long.

    Queries: `2 (d + 5)` per row.
    """
    for i in which:
        row, shift = found.rows[i], found.bias[i]
        if frame.free:
            x = rng.standard_normal((400, len(frame.V)))
            x -= (frame.values(x) @ row + shift)[:, None] * (frame.V @ row)
        else:
            x = on_plane(
                frame,
                np.repeat(found.seen[i][None], 200, axis=0),
                np.repeat(row[None], 200, axis=0),
                np.full(200, shift),
                rng,
            )
        others = np.delete(np.arange(len(found.rows)), i)
        z = np.abs(frame.values(x) @ found.rows[others].T + found.bias[others])
        room = z.min(axis=1, initial=np.inf)
        best = int(room.argmax())
        reach = min(float(room[best]), 1.0) / 2
        step = reach * (frame.V @ row)
        both = np.stack([x[best] - step, x[best] + step])
        value = ask(both)
        slope, error = gradients(ask, frame, both, np.full(2, reach / 3), noise, rng, value)
        if not np.isfinite(error).all():
            continue
        change = slope[1] - slope[0]
        u, s, vt = np.linalg.svd(change, full_matrices=False)
        new = vt[0] * np.sign(vt[0] @ row)
        new_error = float(np.hypot(*error)) * np.sqrt(frame.d) / max(float(s[0]), 1e-300)
        if new_error > found.error[i] or np.linalg.norm(new - row) > 10 * found.error[i] + 1e-6:
            continue
        # The two pieces meet on the hyperplane: how far along the step, in the output that bends most.
        out = u[:, 0]
        dx = both[1] - both[0]
        dh = frame.M @ dx
        left, right = out @ slope[0] @ dh, out @ slope[1] @ dh
        part = (out @ (value[1] - value[0]) - right) / (left - right)
        found.rows[i], found.error[i] = new, new_error
        found.bias[i] = -new @ frame.values((both[0] + part * dx)[None])[0]
        found.jump[i] = np.sign(vt[0] @ row) * s[0] * u[:, 0]
