"""read_layer: the hyperplanes of the first layer a frame sees, told from those of deeper layers by being straight."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from unveil.blackbox.crossings import AGREE, Breakpoints, Rounding, breakpoints
from unveil.identify.relu_frame import Ask, Frame, gradients


# How far, in typical inputs, a hyperplane is looked at again: far enough that most of the other neurons have switched.
SPREAD = 3.0


@dataclass
class LayerFound:
    """What was read of one layer.

    Attributes:
        rows: (k, d) unit normals in the frame's coordinates, up to sign.
        bias: (k,) so that `rows @ h + bias = 0` on the hyperplanes.
        jump: (k, m) slope jump of the answers across the hyperplane, per unit of `rows @ h`, where it was seen first.
        error: (k,) expected error of the rows.
        bent_at: (B, n) where breakpoints of deeper layers were met.
        bent_step: (B, n) along which line.
        bent_rows: (B, d) their normals there.
        at: (P, n) where all derivatives were measured.
        slope: (P, m, d) the derivatives there.
        lines: Lines searched.
    """

    rows: Float[np.ndarray, "k d"]
    bias: Float[np.ndarray, " k"]
    jump: Float[np.ndarray, "k m"]
    error: Float[np.ndarray, " k"]
    at: Float[np.ndarray, "P n"]
    slope: Float[np.ndarray, "P m d"]
    bent_at: Float[np.ndarray, "B n"]
    bent_step: Float[np.ndarray, "B n"]
    bent_rows: Float[np.ndarray, "B d"]
    bent_jump: Float[np.ndarray, "B m"]
    lines: int = 0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def nothing(cls, frame: Frame, m: int) -> LayerFound:
        n, d = frame.V.shape
        e = np.empty
        return cls(e((0, d)), e(0), e((0, m)), e(0), e((0, n)), e((0, m, d)), e((0, n)), e((0, n)), e((0, d)), e((0, m)))

    def known(self, other_rows: np.ndarray, other_bias: np.ndarray, tolerance: float) -> np.ndarray:
        """Which of the other hyperplanes are already here."""
        if not len(self.rows):
            return np.zeros(len(other_rows), dtype=bool)
        cos = other_rows @ self.rows.T
        near = np.sqrt(np.maximum(0, 2 - 2 * np.abs(cos))) < tolerance
        shift = np.abs(other_bias[:, None] * np.sign(cos) - self.bias) < tolerance * (1 + np.abs(self.bias))
        return np.asarray((near & shift).any(axis=1))


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
) -> LayerFound:
    """Read the normals and offsets of the next layer's neurons.

    A line's breakpoints are found; derivatives in the pieces between them give the normals, as many per Jacobian as the network has
    outputs; what bends on the same hyperplane at other places too belongs to this layer. Further lines look only at what is
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

    Queries: for k neurons and B deeper breakpoints on the first line, `((k + B) / m + 1) (d + 1)` and about 12 (k + B) for positions.
    """
    m = len(noise.floor)
    fresh = found is None
    found = LayerFound.nothing(frame, m) if found is None else found
    quiet = 0
    for number in range(most_lines):
        beyond = None if fresh and number == 0 else _complement(frame, found)
        along = None
        if beyond is not None and len(found.rows):
            changes = _changes(ask, frame, beyond, noise, rng)
            if not changes and (frame.free or quiet >= quiet_lines):
                break
            along = beyond if changes and (frame.free or number % 2) else None
        line, base, direction = _line(ask, frame, noise, rng, far, along)
        found.lines += 1
        before = len(found.rows)
        if line is not None:
            _look(ask, frame, line, base, direction, noise, rng, found, first=fresh and number == 0)
        quiet = 0 if len(found.rows) > before else quiet + 1
        if quiet >= quiet_lines * (1 if frame.free else 2):
            break
    return found


def _line(
    ask: Ask, frame: Frame, noise: Rounding, rng: np.random.Generator, far: float, beyond: np.ndarray | None
) -> tuple[Breakpoints | None, np.ndarray, np.ndarray]:
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
        return None, base[0], direction[0]
    (line,) = breakpoints(ask, base, direction, low, high, noise, rng)
    return line, base[0], direction[0]


def _complement(frame: Frame, found: LayerFound) -> np.ndarray | None:
    """Orthonormal columns orthogonal to all rows; None if there are none."""
    k = len(found.rows)
    if k >= frame.d:
        return None
    _, s, vt = np.linalg.svd(found.rows, full_matrices=True)
    rank = int((s > 1e-9).sum())
    return np.asarray(vt[rank:].T)


def _changes(ask: Ask, frame: Frame, beyond: np.ndarray, noise: Rounding, rng: np.random.Generator, tests: int = 6) -> bool:
    """Whether moving in the complement changes any answer."""
    x = frame.sample(tests, rng) if frame.free else (frame.sample(tests, rng) + frame.sample(tests, rng)) / 2
    step = (3 * rng.standard_normal((tests, beyond.shape[1]))) @ beyond.T @ frame.V.T
    low, high = frame.room(x, step)
    t = np.where(high > 1e6, 1.0, 0.9 * high)
    y = x + np.minimum(t, 1.0)[:, None] * step
    answers = ask(np.concatenate([x, y]))
    scale = noise.at(x) + noise.at(y)
    # The normals carry errors of their own, so the answers drift a little along the complement.
    drift = 1e-9 + 300 * noise.relative
    moved = np.abs(answers[:tests] - answers[tests:])
    return bool((moved > AGREE * scale + drift * (1 + np.linalg.norm(step, axis=1))[:, None] * _typical(answers)).any())


def _typical(answers: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(answers - answers.mean(axis=0)).max(axis=0), 1e-300)


def _look(
    ask: Ask,
    frame: Frame,
    line: Breakpoints,
    base: np.ndarray,
    direction: np.ndarray,
    noise: Rounding,
    rng: np.random.Generator,
    found: LayerFound,
    first: bool,
) -> None:
    """Explain one line's breakpoints; differentiate around the unexplained ones; keep the straight ones."""
    m = len(noise.floor)
    h0, dh = frame.values(base[None])[0], frame.M @ direction
    explained = np.full(len(line.t), -1)
    if len(found.rows) and len(line.t):
        rate = found.rows @ dh
        with np.errstate(divide="ignore", invalid="ignore"):
            t = -(found.rows @ h0 + found.bias) / rate
            t = np.where(np.isfinite(t), t, 1e300)
            slack = 50 * (found.error * np.linalg.norm(h0[None] + np.where(t < 1e300, t, 0)[:, None] * dh, axis=1))
            slack = slack / np.abs(rate) + 1e-9 * (1 + np.abs(t))
        off = np.abs(line.t[:, None] - t[None, :]) - slack - 3 * line.width[:, None]
        best = off.argmin(axis=1)
        explained = np.where(off[np.arange(len(best)), best] <= 0, best, -1)
    wanted = np.flatnonzero(explained < 0)
    if not len(wanted) and not first:
        return
    # Contributions of the explained breakpoints are known: jump (m) times normal (d).
    groups, stations = _stations(line, wanted, m)
    where, radius = _inside(line, stations)
    x = base + where[:, None] * direction
    slope, error = gradients(ask, frame, x, radius, noise, rng)
    found.at, found.slope = np.concatenate([found.at, x]), np.concatenate([found.slope, slope])
    rows, bias, jump, errors = [], [], [], []
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
            if not np.isfinite(size) or size == 0:
                continue
            rows.append(normal[j] / size)
            at = frame.values((base + line.t[p] * direction)[None])[0]
            bias.append(-rows[-1] @ at)
            jump.append(line.jump[p] * size)
            e = weight[j] * np.hypot(error[g], error[g + 1]) * np.sqrt(frame.d) / size
            errors.append(max(e, abs(normal[j] @ dh - 1) / (np.linalg.norm(dh) * size), 1e-15))
    if not rows:
        return
    R, b, J, E = np.array(rows), np.array(bias), np.array(jump), np.array(errors)
    at = base + np.array([line.t[p] for group in groups for p in group])[: len(R), None] * direction
    straight = _straight(ask, frame, found, at, R, b, J, E, noise, rng)
    straight |= _met_before(frame, found, at, R, b)
    straight &= ~found.known(R, b, 1e-6)
    for i in np.flatnonzero(straight):
        if not found.known(R[i : i + 1], b[i : i + 1], 1e-6)[0]:
            found.rows = np.concatenate([found.rows, R[i : i + 1]])
            found.bias = np.append(found.bias, b[i])
            found.jump = np.concatenate([found.jump, J[i : i + 1]])
            found.error = np.append(found.error, E[i])
    bent = ~straight
    found.bent_at = np.concatenate([found.bent_at, at[bent]])
    found.bent_step = np.concatenate([found.bent_step, np.repeat(direction[None], bent.sum(), axis=0)])
    found.bent_rows = np.concatenate([found.bent_rows, R[bent]])
    found.bent_jump = np.concatenate([found.bent_jump, J[bent]])


def _stations(line: Breakpoints, wanted: np.ndarray, m: int) -> tuple[list[np.ndarray], list[int]]:
    """Pieces in which to differentiate, so that at most m wanted breakpoints, told apart by the answers, lie between two."""
    length = np.diff(line.edges)

    def longest(first: int, last: int) -> int:
        return first + int(np.argmax(length[first : last + 1]))

    groups: list[np.ndarray] = []
    stations = [longest(0, int(wanted[0]))] if len(wanted) else [longest(0, len(length) - 1)]
    start = 0
    while start < len(wanted):
        best = (1, -1.0)
        for q in range(1, min(m, len(wanted) - start) + 1):
            jumps = line.jump[wanted[start : start + q]]
            if q > 1:
                s = np.linalg.svd(jumps / np.linalg.norm(jumps, axis=1, keepdims=True), compute_uv=False)
                if s[-1] < 0.02:
                    break
            end = int(wanted[start + q]) if start + q < len(wanted) else len(length) - 1
            room = length[int(wanted[start + q - 1]) + 1 : end + 1].max()
            score = q * min(1.0, (room / (0.2 * np.median(length))) ** 0.5)
            if score > best[1]:
                best = (q, score)
        q = best[0]
        end = int(wanted[start + q]) if start + q < len(wanted) else len(length) - 1
        groups.append(wanted[start : start + q])
        stations.append(longest(int(wanted[start + q - 1]) + 1, end))
        start += q
    return groups, stations


def _inside(line: Breakpoints, stations: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """A point in each of these pieces, and how far it is from the ends."""
    edges = line.edges
    lo, hi = edges[stations], edges[np.array(stations) + 1]
    # The outermost pieces are huge: stay near their breakpoint, where the numbers are small.
    lo = np.where(np.array(stations) == 0, np.maximum(lo, hi - 2 * (1 + np.abs(hi))), lo)
    last = np.array(stations) == len(edges) - 2
    hi = np.where(last, np.minimum(hi, np.where(lo < -1e4, 0, lo) + 2 * (1 + np.abs(np.where(lo < -1e4, 0, lo)))), hi)
    return (lo + hi) / 2, (hi - lo) / 4


def _met_before(frame: Frame, found: LayerFound, at: np.ndarray, rows: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Hyperplanes that another line met too, with others switched in between: straight, whatever the votes said."""
    if not len(found.bent_at) or not len(found.rows):
        return np.zeros(len(rows), dtype=bool)
    cos = rows @ found.bent_rows.T
    h, old = frame.values(at), frame.values(found.bent_at)
    old_bias = -np.einsum("bd,bd->b", found.bent_rows, old)
    same = (1 - np.abs(cos) < 1e-12) & (np.abs(np.sign(cos) * old_bias - bias[:, None]) < 1e-6 * (1 + np.abs(bias[:, None])))
    z, z_old = h @ found.rows.T + found.bias > 0, old @ found.rows.T + found.bias > 0
    return np.asarray((same & ((z[:, None] != z_old[None]).sum(axis=2) >= 2)).any(axis=1))


def _straight(
    ask: Ask,
    frame: Frame,
    found: LayerFound,
    at: np.ndarray,
    rows: np.ndarray,
    bias: np.ndarray,
    jump: np.ndarray,
    error: np.ndarray,
    noise: Rounding,
    rng: np.random.Generator,
    rounds: int = 6,
) -> np.ndarray:
    """Which of the hyperplanes bend the answers at other places too.

    A deeper neuron's hyperplane goes on straight only while nothing that feeds it switches, so a bend counts for more the more other
    hyperplanes lie between here and there, and is proof where many do and the step is too short to meet anybody else.

    Queries: 3 per place; one to three places per straight hyperplane, three per bent one, at most `rounds`.
    """
    count = len(rows)
    points, yes, no = np.zeros(count), np.zeros(count, dtype=int), np.zeros(count, dtype=int)
    others, shift = np.concatenate([found.rows, rows]), np.concatenate([found.bias, bias])
    before = frame.values(at) @ others.T + shift > 0
    for _ in range(rounds):
        todo = np.flatnonzero((points < 3) & ~((no >= 3) & (yes == 0)))
        if not len(todo):
            break
        x = on_plane(frame, at[todo], rows[todo], bias[todo], rng)
        sigma = noise.at(x)
        strength = np.abs(jump[todo]).max(axis=1)
        size = 3e4 * sigma.max(axis=1) / strength + 30 * error[todo] * (1 + np.linalg.norm(frame.values(x), axis=1))
        size = np.clip(size, 1e-7, 0.05)
        step = size[:, None] * (rows[todo] @ frame.V.T)
        y = ask(np.concatenate([x - step, x, x + step])).reshape(3, len(x), -1)
        least = np.maximum(AGREE * 5 * sigma, 0.01 * (strength * size)[:, None])
        bend = (np.abs(y[0] - 2 * y[1] + y[2]) > least).any(axis=1)
        yes[todo] += bend
        no[todo] += ~bend
        crossed = ((frame.values(x) @ others.T + shift > 0) != before[todo]).sum(axis=1)
        worth = np.select([(crossed >= 10) & (size * count < 1e-3), crossed >= 4, crossed >= 1], [3, 1.5, 1], 0.0)
        points[todo] += bend * worth
    few = len(others) < 4
    return np.asarray((yes >= no) & ((points >= 3) | (few & (yes >= 2))))


def on_plane(
    frame: Frame, at: np.ndarray, rows: np.ndarray, bias: np.ndarray, rng: np.random.Generator, steps: int = 20
) -> Float[np.ndarray, "k n"]:
    """A random point of the region on each hyperplane, by a walk along it that starts at `at`."""
    if frame.free:
        x = SPREAD * rng.standard_normal(at.shape)
    else:
        x = at.copy()
        for _ in range(steps):
            step = rng.standard_normal((len(x), frame.lift.shape[1])) @ frame.lift.T
            step -= np.einsum("kd,kd->k", rows, step @ frame.M.T)[:, None] * (rows @ frame.V.T)
            low, high = frame.room(x, step)
            size = 4 * SPREAD * np.sqrt(step.shape[1]) / np.linalg.norm(step, axis=1)
            low, high = np.clip(low, -size, 0), np.clip(high, 0, size)
            x = x + (low + (high - low) * rng.uniform(0.1, 0.9, len(x)))[:, None] * step
    z = np.einsum("kd,kd->k", rows, frame.values(x)) + bias
    return np.asarray(x - z[:, None] * (rows @ frame.V.T))


def follow_leads(
    ask: Ask,
    frame: Frame,
    found: LayerFound,
    h: Float[np.ndarray, "B d"],
    dh: Float[np.ndarray, "B d"],
    noise: Rounding,
    rng: np.random.Generator,
) -> None:
    """Look where breakpoints were met on a face of the region: the same hyperplanes go on inside, close by.

    Args:
        ask: Answers questions.
        frame: The coordinates of the layer.
        found: What was read so far; what is seen now is added.
        h: The layer's values where an unexplained breakpoint was met; some are 0 (inactive).
        dh: How they moved along the line that met it.
        noise: How exact answers are.
        rng: Draws how far inside to look.

    Queries: about 30 + 2 (d + 1) per lead that is still unexplained.
    """
    for value, rate in zip(h, dh, strict=True):
        if len(found.rows):
            z = found.rows @ value + found.bias
            if (np.abs(z) < 1e-7 * (1 + np.linalg.norm(value)) + 30 * found.error * np.linalg.norm(value)).any():
                continue
        inside = value + (value <= 1e-6) * rng.uniform(0.5, 1.5, len(value)) * 0.01 * max(value.max(), 1e-3)
        base = frame.nearest(inside)
        if base is None:
            continue
        direction = frame.V @ rate
        low, high = frame.room(base[None], direction[None])
        low, high = np.maximum(0.95 * low, -0.2), np.minimum(0.95 * high, 0.2)
        if not (low < high).all():
            continue
        found.lines += 1
        (line,) = breakpoints(ask, base[None], direction[None], low, high, noise, rng)
        if len(line.t):
            _look(ask, frame, line, base, direction, noise, rng, found, first=False)
