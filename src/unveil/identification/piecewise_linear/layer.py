"""layer_steps: the hyperplanes of the first layer a frame sees, told from those of deeper layers by being straight."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.line_search.fit import limit
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import SAME, Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer_membership import straight_ones
from unveil.identification.piecewise_linear.normals import normals
from unveil.identification.piecewise_linear.parallel_rows import PARALLEL_COORDINATES, across_parallel
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.rows_from_points import BY_POINTS, sharper_rows

# Lines in a row that may show nothing new, by whether answers are exact and whether the region is free.
QUIET_LINES = {(True, True): 2, (True, False): 4, (False, True): 3, (False, False): 8}
# Behind a layer of many coordinates as many as this share of these: far out a line often crosses nothing at all.
RARELY = 0.25
# Behind another layer the same neuron's row differs from place to place by the errors of the rows of that layer.
ROW_ERROR_BEHIND = 1e-3
TOLD_ROW_ERROR_SHARE = 0.1  # share of a row's error that breakpoints leave where they tell it
# Places at which the complement of the normals is tried: in a bounded region steps are short, and a neuron that is
# active in one corner only is easily passed by.
TESTS, TESTS_IN_BOX = 8, 24
# So many times more of them where critical points of deeper layers are so many times as many as neurons: many layers
# hide what moves before them.
MANY_BENT_PER_NEURON, TEST_FACTOR, UNEVEN_ROUNDING_FACTOR = 5, 8, 30.0
EXPECTED_ERROR_PART = 1.0  # part of a hyperplane's stated error that is expected at each of many places
# Share of a derivative beside all rows from which on neurons are missing, where answers are exact: errors of rows are
# less.
UNEXPLAINED_SLOPE_SHARE = 1e-6
ROOMY = 400  # places among which a line that only missing neurons bend is laid
# Cosine with a coordinate from which on a hyperplane behind a layer is taken for a wall of the region, where answers
# have few digits: there a neuron of the layer before switches, and that may be met a little inside.
WALL = 0.95


def layer_steps(  # noqa: PLR0913 - options of a reading, by name
    probe: Probe,
    frame: Frame,
    *,
    far: float = 1e5,
    most_lines: int = 24,
    found: LayerFound | None = None,
    given: Sequence[Line] = (),
    sure: bool = False,
) -> Iterator[LayerFound]:
    """Read the normals and offsets of the next layer's neurons.

    A line's breakpoints are found; derivatives in the pieces between them give the normals, as many per derivative as
    the outputs tell apart; what bends on the same hyperplane at other places too belongs to this layer. Further lines
    look only at what is not explained yet. With fewer neurons than coordinates, moving in the complement of all normals
    must change nothing; where it does, the next line runs there, so that only the missing neurons bend it.

    Args:
        most_lines: Lines after which what was found is returned.
        given: The first lines, searched before.
        sure: Neurons are missing for sure: they are looked for even where nothing seems to change.

    Yields:
        What was found before the first line and after each; `finished` waits for the last.

    Queries: for k neurons and B deeper breakpoints on the first line, those of `derivatives` in `(k + B) / m + 1`
        pieces, and about 12 (k + B) for positions (14 where answers have few digits).
    """
    fresh = found is None or not found.lines
    found = LayerFound.nothing(frame, probe.m) if found is None else found
    yield found
    exact, quiet, changes = probe.noise.exact, 0, False
    rare = _rare(probe, frame)
    enough = max(QUIET_LINES[exact, frame.free], RARELY * frame.d if rare else 0)
    for number in range(max(most_lines, len(given))):
        if number < len(given):
            line: Line | None = given[number]
        else:
            first = fresh and number == 0
            beyond = None if first else _complement(frame, found)
            where = found.at[:0] if beyond is None or sure else _moved(probe, frame, found, beyond, many_deeper(found))
            changes = len(where) > 0 or (beyond is not None and sure)
            patience = QUIET_LINES[exact, True] if exact else enough if rare else 0
            # Rows that are vague hide what moves beside them: lines that still show others tell that some are missing.
            growing = not exact and number > 1 and not quiet
            if beyond is not None and not changes and not growing and (frame.free or quiet >= patience):
                break
            everywhere = sure or (exact and frame.free)
            along = beyond if changes and (everywhere or found.lines % 2) else None
            line = _searched(probe, frame, far, found, along, where if many_deeper(found) else where[:0])
        had = len(found)
        if line is not None:
            found = _explained(probe, frame, line, found)
        found = found.with_line(line)
        yield found
        quiet = 0 if len(found) > had else quiet + 1
        # Short lines within bounds miss neurons: as long as something moves in the complement, one is missing.
        known = exact and changes and (not frame.free or many_deeper(found))
        if number + 1 >= len(given) and quiet >= enough and not known:
            break
    if exact and frame.free and frame.d >= PARALLEL_COORDINATES:
        found, lines = across_parallel(probe, frame, found)
        for line in lines:
            found = _explained(probe, frame, line, found).with_line(line)
            yield found


def _rare(probe: Probe, frame: Frame) -> bool:
    """Whether lines cross few of many neurons behind a layer, and answers have few digits."""
    return not probe.noise.exact and frame.M is not frame.V and frame.d > BY_POINTS


def finished(steps: Iterator[LayerFound]) -> LayerFound:
    """What was found in the end."""
    return deque(steps, maxlen=1).pop()


def _searched(
    probe: Probe,
    frame: Frame,
    far: float,
    found: LayerFound,
    beyond: Float[np.ndarray, "d free"] | None,
    where: Float[np.ndarray, "P n"],
) -> Line | None:
    """A random line, or one along columns that no row read so far sees; None where the region has no room for it.
    `beyond`: the columns. `where`: where answers are known to change along them; none where that is no matter."""
    # The region is the box itself as long as no layer was left behind.
    boxed = beyond is not None and frame.within is not None and frame.M is frame.V
    if beyond is not None and boxed and len(slopes := _beside(found, beyond)):
        base, direction = _across_box(probe.rng, frame, slopes)
    elif beyond is not None:
        base = frame.lines(1, far, probe.rng)[0]
        if frame.free:
            # The neurons read so far stay as they are all along the line: choose a place where none is about to switch,
            # so that steps can be long.
            pool = where if len(where) else frame.sample(ROOMY, probe.rng)
            base = pool[[np.abs(found.straight.sums(frame, pool)).min(axis=1).argmax()]]
        direction = probe.rng.standard_normal((1, beyond.shape[1])) @ beyond.T @ frame.V.T
        if frame.free and probe.noise.exact:
            # Further out they may switch for the errors of their rows, and deeper neurons would look like new ones.
            least = SAME * found.straight.error * np.linalg.norm(frame.M @ direction[0])
            far = min(far, float((np.abs(found.straight.sums(frame, base)[0]) / np.maximum(least, 1e-300)).min()))
    else:
        base, direction, low, high = frame.lines(1, far, probe.rng)
    if beyond is not None:
        low, high = frame.room(base, direction)
        margin = 1e-3 * np.minimum(high - low, 1.0)
        low, high = np.maximum(low + margin, -far), np.minimum(high - margin, far)
    if not (low < high).all():
        return None
    return line_search(probe.ask, base, direction, low, high, probe.noise, probe.rng)[0]


def _across_box(
    rng: np.random.Generator, frame: Frame, slopes: Float[np.ndarray, "P m d"]
) -> tuple[Float[np.ndarray, "1 n"], Float[np.ndarray, "1 n"]]:
    """A line between the corners of the box where neurons that are missing are most and least active. `slopes`: what
    derivatives have beside the rows read so far: sums of rows of those that are active there."""
    assert frame.within is not None
    slope = slopes[rng.integers(len(slopes))]
    row = rng.standard_normal(len(slope)) @ slope
    low, high = (np.broadcast_to(end, row.shape) for end in frame.within)
    start, end = np.where(row > 0, low, high), np.where(row > 0, high, low)
    return (start + end)[None] / 2, (end - start)[None] / 2


def _beside(found: LayerFound, beyond: Float[np.ndarray, "d free"]) -> Float[np.ndarray, "P m d"]:
    """Derivatives where no row sees them, of those that have such a part."""
    part = found.slope @ beyond
    size = np.linalg.norm(part, axis=(1, 2))
    return np.asarray(part[size > UNEXPLAINED_SLOPE_SHARE * np.linalg.norm(found.slope, axis=(1, 2))] @ beyond.T)


def _complement(frame: Frame, found: LayerFound) -> Float[np.ndarray, "d free"] | None:
    """Orthonormal columns orthogonal to all rows; None if there are no rows or no such columns."""
    if not 0 < len(found) < frame.d:
        return None
    _, s, vt = np.linalg.svd(found.rows, full_matrices=True)
    return np.asarray(vt[int((s > 1e-9).sum()) :].T)


def missing(probe: Probe, frame: Frame, found: LayerFound) -> bool:
    """Whether answers change where no row says so, by more than the errors of the rows explain.

    With as many rows as coordinates there is no such direction, and it cannot be told. Queries: `2 TEST_FACTOR TESTS`
    where answers have few digits, of exact ones `2 TESTS`, in a box `2 TESTS_IN_BOX`.
    """
    beyond = _complement(frame, found)
    if beyond is None:
        return not len(found)
    boxed = probe.noise.exact and frame.within is not None
    often = many_deeper(found) or not probe.noise.exact
    return bool(boxed and len(_beside(found, beyond))) or len(_moved(probe, frame, found, beyond, often)) > 0


def many_deeper(found: LayerFound) -> bool:
    """Whether critical points of deeper layers are so many that what moves before them often stays hidden."""
    return len(found.bent) > MANY_BENT_PER_NEURON * len(found)


def _moved(
    probe: Probe, frame: Frame, found: LayerFound, beyond: Float[np.ndarray, "d free"], often: bool
) -> Float[np.ndarray, "P n"]:
    """Where answers change along directions that no row sees. `often`: whether at `TEST_FACTOR` times as many
    places."""
    noise, rng = probe.noise, probe.rng
    tests = TESTS_IN_BOX if noise.exact and frame.within is not None else TESTS
    if often:
        tests *= TEST_FACTOR
    x = frame.sample(tests, rng)
    if not frame.free:
        # Long steps have room in the middle; neurons that are active in few corners are seen there alone.
        middle = noise.exact and frame.within is not None and np.arange(tests)[:, None] % 2 > 0
        x = np.where(middle, x, (x + frame.sample(tests, rng)) / 2)
    step = rng.standard_normal((tests, beyond.shape[1])) @ beyond.T @ frame.V.T
    y = x + np.minimum(0.9 * frame.room(x, step)[1], 1.0)[:, None] * step
    answers = probe.ask(np.concatenate([x, y]))
    moved = (answers[:tests] - answers[tests:]) / np.hypot(noise.at(x, answers[:tests]), noise.at(y, answers[tests:]))
    straight = found.straight
    drift = np.sqrt(((np.linalg.norm(straight.jump / noise.floor, axis=1) * straight.error) ** 2).sum())
    off = np.linalg.norm(frame.values(y) - frame.values(x), axis=1) / np.sqrt(frame.d)
    allowed = limit(probe.m) * (1 + EXPECTED_ERROR_PART * drift * off / np.sqrt(probe.m))
    # Behind many layers rounding differs from place to place; what a neuron moves is far more.
    return np.asarray(
        x[np.sqrt((moved**2).mean(axis=1)) > allowed * (UNEVEN_ROUNDING_FACTOR if many_deeper(found) else 1.0)]
    )


def _explained(probe: Probe, frame: Frame, line: Line, found: LayerFound) -> LayerFound:
    """Measure the breakpoints of a line that no hyperplane found crosses; keep the straight ones as the layer's."""
    crossing = found.straight.crossing(frame, line)
    if (crossing >= 0).all() and found.lines:
        return found
    found, planes = normals(probe, frame, line, crossing, found)
    if not len(planes):
        return found
    if probe.noise.exact and frame.d >= PARALLEL_COORDINATES:
        planes = planes.aligned(frame, found.straight)
    straight, maybe = straight_ones(probe, frame, found, planes)
    if frame.M is not frame.V and frame.d > 1 and not probe.noise.exact:
        straight &= np.abs(planes.rows).max(axis=1) < WALL
    new, known = _new(frame, found.straight, planes, straight)
    if _rare(probe, frame):
        # Vague rows are taken for others on the next line; one that breakpoints do not tell may be met again elsewhere.
        sharp = sharper_rows(probe, frame, new)
        sharp = sharp[sharp.error < TOLD_ROW_ERROR_SHARE * new.error]
        sharp = replace(sharp, error=np.maximum(sharp.error, ROW_ERROR_BEHIND))
        new, _ = _new(frame, found.straight, sharp, np.ones(len(sharp), dtype=bool))
    found = found.with_straight(new)
    # Of answers with few digits a known hyperplane may be one of a deeper layer that runs beside it.
    bent = ~straight & ~known if probe.noise.exact else ~straight
    return found.with_bent(planes[bent], maybe[bent])


def _new(
    frame: Frame, found: Hyperplanes, planes: Hyperplanes, straight: Bool[np.ndarray, " K"]
) -> tuple[Hyperplanes, Bool[np.ndarray, " K"]]:
    """The straight ones among these that are not known, each once, the best first; and which are known."""
    known = np.asarray(found.same(frame, planes).any(axis=1))
    alike = planes.same(frame, planes)
    kept = np.zeros(len(planes), dtype=bool)
    order = np.argsort(planes.error, kind="stable")
    for i in order:
        known[i] |= alike[i, kept].any()
        kept[i] = straight[i] and not known[i]
    return planes[order[kept[order]]], known
