"""detect: whether answers come from straight pieces or from curves: how second differences grow with the step."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding

# Places looked at, and the step at first, in typical inputs; each further one is `CURVE_STEP_RATIO` times as long or as
# short.
CURVE_PLACES, CURVE_FIRST_STEP, CURVE_STEP_RATIO = 24, 1e-3, 4.0
# Longest step; the shortest is the square root of the answers' rounding, where a curve of order one bends by as much as
# the rounding.
CURVE_LONGEST_STEP = 0.5
# Units of the rounding above which a second difference is a bend for sure; the share of the places that must show one.
BENT, SOME = 30.0, 0.12
# Units below which it is none, and the share of the places that show none at the shortest step at which some do bend.
STRAIGHT_ROUNDINGS, STRAIGHT_PLACES_SHARE = 5.0, 0.2
# Over a step `CURVE_STEP_RATIO` times as long a curve bends by the square of it, up to this part, at most of the
# places.
GROWTH, GROWING_PLACES_SHARE = 0.3, 0.75
# Share of the places that must bend for a curve to be told from them alone, and other choices of places that must
# all look straight to overrule fewer.
BENT_PLACES_SHARE, OVERRULING_LOOKS = 0.5, 2
# Chords looked at, the shortest and the longest in distances between breakpoints, points on each, and on windows of
# them.
CHORDS, CHORD_SHORTEST, CHORD_LONGEST, CHORD_POINTS, CHORD_WINDOWS = 12, 0.1, 4.0, 33, (5, 9, 17, 33)
# A window bends by so many standard deviations, where the windows of half its length within it bend by less than that;
# the windows that must be straight by halves for a share to be known, and the share of them that bends where a curve
# does.
BENDS, HALVES, COUNTED, CURVED = 4.0, 3.0, 20, 0.12
# Quanta of the rounding by which answers must move from one point to the next, so that errors are independent.
MOVES = 3.0
# Rounding, relative to the answers, above which bends are seen over such long steps only that many breakpoints lie
# within: what looks like a curve there is told by the chords alone.
LONG_STEPS_ROUNDING = 1e-4
# A chord that is so long, squared, in units of the rounding, would have shown a curve of any strength to speak of.
CHORD_SQUARE_ENOUGH = 1e8


def piecewise_linear(oracle: Oracle, rng: np.random.Generator) -> bool:
    """Whether the answers are straight between breakpoints, as those of a ReLU network; also if they are straight
    everywhere.

    Over three points in a row a curve bends by the square of the step, everywhere alike; straight pieces bend where a
    breakpoint lies between the points, by anything from four times as much to any number for a step four times as long.
    The step is made longer or shorter until it is the shortest at which some places show a bend above the rounding.
    Where only a few places bend like a curve, or nearly all bend but not like one, which breakpoints may do by chance,
    other places are looked at.

    Where the answers are coarse a mixture of breakpoints and curves, such as ReLU before tanh, bends by breakpoints
    before it bends by curves. So chords about as long as breakpoints are apart are looked at, too: see `_chords_bend`.
    Where they are as coarse as half precision's, many breakpoints lie within the shortest step that shows a bend, and
    chords tell alone.

    Queries: `CURVE_PLACES (1 + 2 s)` for s steps, the shortest included: 2 to 7 mostly; up to three times as many where
    few places bend. Of coarse answers `CHORDS CHORD_POINTS` more, but where a curve was told.
    """
    look = _Look(oracle, rng)
    told, many = _looked(look)
    doubtful = not told and not many
    chords_first = doubtful and look.unit * oracle.resolution > LONG_STEPS_ROUNDING
    bend = _chords_bend(look, rng) if chords_first else None
    if bend is not None:
        return not bend
    if doubtful:
        told = all(_looked(_Look(oracle, rng))[0] for _ in range(OVERRULING_LOOKS))
    return told and (chords_first or not _chords_bend(look, rng))


def curved(oracle: Oracle, noise: Rounding, rng: np.random.Generator) -> bool:
    """Whether answers curve. Short rows of points bend where answers do, but also where they meet breakpoints. Queries:
    0 where most of the rows were straight, else those of `piecewise_linear`."""
    return not noise.straight and not piecewise_linear(oracle, rng)


def _looked(look: _Look) -> tuple[bool, bool]:
    """Whether the answers are straight at one choice of places, and whether enough of them bend to be sure of it."""
    shortest = look.shortest
    step = CURVE_FIRST_STEP
    now = look.at(step)
    while (now > BENT).mean() < SOME:
        # Exact answers would have shown a curve of any strength to speak of; rare breakpoints are no matter.
        if look.clear(step) or step * CURVE_STEP_RATIO > CURVE_LONGEST_STEP:
            return True, True
        step *= CURVE_STEP_RATIO
        now = look.at(step)
    # Breakpoints as often as that have this distance in the mean.
    look.apart = -2 * step / np.log(1 - min(float((now > BENT).mean()), 0.9))
    while step / CURVE_STEP_RATIO >= shortest:
        before = look.at(step / CURVE_STEP_RATIO)
        if (before > BENT).mean() < SOME:
            break
        if _curved(before, now) and _shorter_too(look, step / CURVE_STEP_RATIO, before, now):
            return False, _many(before)
        step, now = step / CURVE_STEP_RATIO, before
    # Where noise asks for long steps a curve does not grow by their square any more, but bends nearly everywhere still.
    longer = look.at(step * CURVE_STEP_RATIO)
    curved = _curved(now, longer) and _shorter_too(look, step, now, longer)
    return not curved and bool((now <= STRAIGHT_ROUNDINGS).mean() >= STRAIGHT_PLACES_SHARE), curved and _many(now)


def _many(bend: Float[np.ndarray, " P"]) -> bool:
    """Whether half of the places bend: breakpoints that all look like a curve by chance are few."""
    return bool((bend > BENT).mean() >= BENT_PLACES_SHARE)


def _curved(bend: Float[np.ndarray, " P"], longer: Float[np.ndarray, " P"]) -> bool:
    """Whether bends over a step and over one `CURVE_STEP_RATIO` times as long are those of a curve."""
    return bool(_alike(bend, longer)[bend > BENT].mean() >= GROWING_PLACES_SHARE)


def _alike(bend: Float[np.ndarray, " P"], longer: Float[np.ndarray, " P"]) -> Bool[np.ndarray, " P"]:
    """At which places these grow as a curve's do."""
    return np.asarray(np.abs(longer - CURVE_STEP_RATIO**2 * bend) <= GROWTH * CURVE_STEP_RATIO**2 * bend)


def _shorter_too(look: _Look, step: float, bend: Float[np.ndarray, " P"], longer: Float[np.ndarray, " P"]) -> bool:
    """Whether places that bend like a curve over `step` and one `CURVE_STEP_RATIO` times as long do so over one as much
    shorter, where that would be seen: a breakpoint that did by chance lies beside. Queries: `2 CURVE_PLACES`, or
    none."""
    told = _alike(bend, longer) & (bend > 2 * CURVE_STEP_RATIO**2 * BENT)
    return not told.any() or bool(_alike(look.at(step / CURVE_STEP_RATIO), bend)[told].mean() >= GROWING_PLACES_SHARE)


def _chords_bend(look: _Look, rng: np.random.Generator) -> bool | None:
    """Whether chords without a breakpoint bend where they are long, though their halves are straight to the answers'
    errors.

    What is straight in both halves and in the middle is straight, but for a breakpoint that is hardly seen; a curve
    bends by six times as many standard deviations over twice the length. None where nothing is told, as answers hardly
    move or a curve would have been seen.
    Queries: `CHORDS CHORD_POINTS`; none where answers are so exact that a curve would have been seen.
    """
    oracle = look.oracle
    if look.clear(look.apart):
        return None
    x, away = _places(oracle, CHORDS, rng)
    away *= np.minimum(look.apart * np.geomspace(CHORD_SHORTEST, CHORD_LONGEST, CHORDS), 2 * CURVE_LONGEST_STEP)[
        :, None
    ]
    # Evenly spaced points of a line would be rounded with a rhythm, which is no noise.
    along = (np.arange(CHORD_POINTS) + rng.uniform(-0.5, 0.5, CHORD_POINTS)) / CHORD_POINTS - 0.5
    y = oracle(oracle.nearest((x[:, None] + along[:, None] * away[:, None]).reshape(-1, oracle.n)))
    y = y.reshape(CHORDS, CHORD_POINTS, -1).astype(float)
    rounding = np.maximum(oracle.resolution * np.abs(y).max(axis=1), 1e-300)
    error = np.maximum(np.median(_bends(along, y, 4, 3), axis=1) / 0.6745, 0.3 * rounding)
    halves: Float[np.ndarray, "c s"] | None = None
    straight = bent = 0
    for width in CHORD_WINDOWS:
        bend = (_bends(along, y, width, 2) / error[:, None]).max(axis=2)
        if halves is not None:
            # The windows of half this length at its beginning, middle and end.
            within = np.stack([halves[:, at : at + 2 * bend.shape[1] : 2] for at in range(0, 5, 2)])
            rise = np.abs(y[:, width - 1 :] - y[:, : 1 - width])[:, :: (width - 1) // 4]
            moves = (rise > MOVES * width * rounding[:, None]).any(axis=2)
            seen = moves & (within < HALVES).all(axis=0)
            straight, bent = straight + int(seen.sum()), bent + int((seen & (bend > BENDS)).sum())
        halves = bend
    return bent > CURVED * straight if straight >= COUNTED else None


def _bends(
    along: Float[np.ndarray, " p"], y: Float[np.ndarray, "c p m"], width: int, degree: int
) -> Float[np.ndarray, "c s m"]:
    """How far answers in windows are from polynomials of less than this degree, on the side of this degree. In units in
    which independent errors of standard deviation 1 give 1."""
    bends = []
    for start in range(0, len(along) - width + 1, max((width - 1) // 4, 1)):
        at = along[start : start + width]
        powers = np.vander((at - at.mean()) / np.ptp(at), degree + 1, increasing=True)
        bends.append(np.linalg.qr(powers)[0][:, -1] @ y[:, start : start + width])
    return np.asarray(np.abs(np.stack(bends, axis=1)))


def _places(
    oracle: Oracle, count: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "P n"], Float[np.ndarray, "P n"]]:
    """Places, and a direction of the length of a typical input at each."""
    x = oracle.sample(count, rng)
    if oracle.within is not None:
        # Room on both sides.
        x = (x + oracle.middle) / 2
    x = oracle.nearest(x)
    away = rng.standard_normal(x.shape)
    typical = float(np.sqrt(np.mean((x - x.mean(axis=0)) ** 2))) or 1.0
    return x, away * typical / np.sqrt(np.mean(away**2, axis=1, keepdims=True))


class _Look:
    """Places, a direction at each, and the answers in the middle.

    `shortest`: step over which rounding is seen alone. `unit`: how many times its declared value the rounding is.
    `apart`: distance between breakpoints, as far as it is known.
    """

    unit: float = 1.0
    apart: float = 2 * CURVE_LONGEST_STEP

    def __init__(self, oracle: Oracle, rng: np.random.Generator) -> None:
        self.oracle, self.shortest = oracle, min(CURVE_FIRST_STEP, float(np.sqrt(oracle.resolution)))
        self.x, self.away = _places(oracle, CURVE_PLACES, rng)
        self.y = oracle(self.x)
        self.unit = max(1.0, float(np.median(self.at(self.shortest))))

    def clear(self, step: float) -> bool:
        """Whether chords so long would have shown a curve of any strength to speak of."""
        return step**2 > CHORD_SQUARE_ENOUGH * self.oracle.resolution * self.unit

    def at(self, step: float) -> Float[np.ndarray, " P"]:
        """Second differences over this step, in units of what rounding makes of them. Queries: `2 CURVE_PLACES`."""
        behind = self.oracle.nearest(self.x - step * self.away)
        ahead = self.oracle.nearest(self.x + step * self.away)
        low, high = np.split(self.oracle(np.concatenate([behind, ahead])), 2)
        bend = low + high - 2 * self.y
        slope = high - low
        # Where questions are rounded the middle is not quite in the middle.
        off = np.abs(behind + ahead - 2 * self.x).sum(axis=1) / np.maximum(np.abs(ahead - behind).sum(axis=1), 1e-300)
        size = np.abs(self.y).max(axis=0) + np.median(np.abs(slope), axis=0) / (2 * step)
        rounding = self.oracle.resolution * size + off[:, None] * np.abs(slope)
        rounding = np.maximum(rounding, 1e-300)
        return np.asarray((np.abs(bend) / rounding).max(axis=1) / self.unit)
