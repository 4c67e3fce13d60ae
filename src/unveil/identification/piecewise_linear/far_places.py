"""Windows, confirm: hyperplanes looked for again far from where they were met, at places that had no part in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.probe import Probe

# How far, in typical inputs, a hyperplane is looked for again: far enough that most of the other neurons have switched.
FAR_PLACE_SIZE = 3.0
BETWEEN = 16  # other hyperplanes behind which a place is far enough
# A window's half width, in expected errors and in roundings of the answers, which differ from place to place by several
# times; standard deviations from which on answers bend; how far beside it the control window is, in half widths; and
# by what factor answers must bend more in one of both.
WINDOW, ROUNDINGS, BEND, CONTROL_WINDOW_DISTANCE, CONTROL_BEND_FACTOR = 1.75, 60.0, 8.0, 4.0, 2.0
# Half widths of a window at most, as a share of how far it is from where the hyperplane was met: two hyperplanes at an
# angle of so much are told apart there.
ANGLE = 0.05
# Points of a bounded region between which places on a hyperplane are looked for, and steps of a walk along it.
REGION_POINTS, PLANE_WALK_STEPS = 300, 20


@dataclass(frozen=True)
class Windows:
    """Short ways across hyperplanes, one each, where these are expected far from where they were met."""

    probe: Probe  # asks
    x: Float[np.ndarray, "K n"]  # the middle of each
    sigma: Float[np.ndarray, "K m"]  # standard deviations of the answers there
    half: Float[np.ndarray, "K n"]  # half of each
    widths: tuple[float, ...]  # so many times as wide ones are looked at
    told: Bool[np.ndarray, " K"]  # whether these are so short that a hyperplane at an angle of `ANGLE` is not met

    @classmethod
    def far(
        cls,
        probe: Probe,
        frame: Frame,
        others: Hyperplanes,
        planes: Hyperplanes,
        widths: tuple[float, ...] = (1.0,),
    ) -> Windows:
        """On the way from where each was met to a place anywhere on it, as soon as that is far enough; of exact
        answers, for which windows are short all over, there.

        A deeper neuron's hyperplane has bent when `BETWEEN` others lie behind. The nearer the place, the more of what
        bends the answers there is what was seen, and the shorter the window for what is not known of the normal, in
        which another hyperplane might be met; but what rounding asks for is told from a hyperplane at an angle only
        further out. Queries: none, or two per place where roundings differ, one of exact answers.
        """
        x = anywhere_on(frame, planes, probe.rng)
        way = np.linalg.norm(frame.values(x) - frame.values(planes.at), axis=1)
        part = np.ones(len(x))
        if not probe.noise.exact:
            strength = _strength(planes, probe.sigma(planes.at)) / max(widths)
            part = np.maximum(_behind(frame, others, planes, x), _told_from(frame, planes, way, strength))
        x = planes.at + part[:, None] * (x - planes.at)
        sigma = probe.sigma(x)
        strength = _strength(planes, sigma)
        away = part * way
        half = WINDOW * planes.error * away / np.sqrt(frame.d) + ROUNDINGS / strength
        step = np.minimum(half, away)[:, None] * (planes.rows @ frame.V.T)
        return cls(probe, x, sigma, step, widths, max(widths) * half <= ANGLE * away)

    def bends(self) -> Float[np.ndarray, " K"]:
        """How much answers bend in each of these, in standard deviations. Queries: `3 K`"""
        return self._size(self._asked(0.0, 1.0), 2)

    def met(self) -> tuple[Bool[np.ndarray, " K"], Bool[np.ndarray, " K"], Bool[np.ndarray, " K"]]:
        """In which of these answers bend that do not in a window beside, the other way round, and which tell.

        Rounding differs from place to place, by as much as it is known: what it makes of both windows is alike. Where
        answers stay as they are in all, nothing of the neuron gets through. Queries: `6 K` per width
        """
        met, other, moves = np.zeros((3, len(self.x)), dtype=bool)
        for width in self.widths:
            y = self._asked(0.0, width), self._asked(CONTROL_WINDOW_DISTANCE * max(self.widths), width)
            here, beside = (self._size(each, 2) for each in y)
            met |= here > np.maximum(BEND, CONTROL_BEND_FACTOR * beside)
            other |= beside > np.maximum(BEND, CONTROL_BEND_FACTOR * here)
            moves |= np.maximum(*(self._size(each, 1) for each in y)) > BEND
        return met, other, self.told & moves

    def _asked(self, middle: float, width: float) -> Float[np.ndarray, "3 K m"]:
        x, half = self.x + middle * self.half, width * self.half
        return self.probe.ask(np.concatenate([x - half, x, x + half])).reshape(3, *self.sigma.shape)

    def _size(self, y: Float[np.ndarray, "3 K m"], order: int) -> Float[np.ndarray, " K"]:
        """Largest difference of this order of the answers in a window, in standard deviations."""
        return np.asarray(np.sqrt(((np.diff(y, n=order, axis=0) / self.sigma) ** 2).mean(axis=2)).max(axis=0))


def _strength(planes: Hyperplanes, sigma: Float[np.ndarray, "K m"]) -> Float[np.ndarray, " K"]:
    """How much the derivatives jump, per length, in standard deviations of the answers."""
    return np.asarray(np.maximum(np.sqrt(((planes.jump / sigma) ** 2).mean(axis=1)), 1e-300))


def _behind(
    frame: Frame, others: Hyperplanes, planes: Hyperplanes, x: Float[np.ndarray, "K n"]
) -> Float[np.ndarray, " K"]:
    """The part of the way to these places behind which `BETWEEN` others lie."""
    before, after = others.sums(frame, planes.at), others.sums(frame, x)
    crossed = np.divide(before, before - after, out=np.ones_like(before), where=before * after < 0)
    if crossed.shape[1] <= BETWEEN:
        return np.ones(len(x))
    # In the middle between two of them.
    nearest = np.partition(crossed, (BETWEEN - 1, BETWEEN), axis=1)
    return np.asarray(nearest[:, BETWEEN - 1 : BETWEEN + 1].mean(axis=1))


def _told_from(
    frame: Frame, planes: Hyperplanes, way: Float[np.ndarray, " K"], strength: Float[np.ndarray, " K"]
) -> Float[np.ndarray, " K"]:
    """The part of the way behind which a window tells a hyperplane from one at an angle of `ANGLE`; all where none
    does."""
    left = ANGLE - WINDOW * planes.error / np.sqrt(frame.d)
    return np.asarray(np.minimum(ROUNDINGS / np.maximum(strength * np.maximum(left, 0) * way, 1e-300), 1.0))


def on_plane(frame: Frame, planes: Hyperplanes, rng: np.random.Generator) -> Float[np.ndarray, "K n"]:
    """A random point of the region on each hyperplane, by a walk along it from where it was met."""
    rows = planes.rows
    if frame.free:
        x = FAR_PLACE_SIZE * rng.standard_normal(planes.at.shape)
    else:
        x = planes.at.copy()
        for _ in range(PLANE_WALK_STEPS):
            step = rng.standard_normal((len(x), frame.lift.shape[1])) @ frame.lift.T
            step -= np.einsum("kd,kd->k", rows, step @ frame.M.T)[:, None] * (rows @ frame.V.T)
            low, high = frame.room(x, step)
            size = 4 * FAR_PLACE_SIZE * np.sqrt(step.shape[1]) / np.linalg.norm(step, axis=1)
            low, high = np.clip(low, -size, 0), np.clip(high, 0, size)
            x = x + (low + (high - low) * rng.uniform(0.1, 0.9, len(x)))[:, None] * step
    z = np.einsum("kd,kd->k", rows, frame.values(x)) + planes.bias
    return np.asarray(x - z[:, None] * (rows @ frame.V.T))


def anywhere_on(frame: Frame, planes: Hyperplanes, rng: np.random.Generator) -> Float[np.ndarray, "K n"]:
    """A point of the region on each hyperplane that has nothing to do with where it was met.

    A bounded region is convex: between a point of it on one side and one on the other lies one on the hyperplane. Where
    all drawn lie on one side, and where the region is everything, `on_plane`.
    """
    if frame.free:
        return on_plane(frame, planes, rng)
    pool = frame.sample(REGION_POINTS, rng)
    z = planes.sums(frame, pool)
    out = planes.at.copy()
    for i in range(len(planes)):
        up, down = np.flatnonzero(z[:, i] > 0), np.flatnonzero(z[:, i] < 0)
        if len(up) and len(down):
            a, b = rng.choice(up), rng.choice(down)
            part = z[a, i] / (z[a, i] - z[b, i])
            out[i] = (1 - part) * pool[a] + part * pool[b]
    lonely = np.flatnonzero((out == planes.at).all(axis=1))
    if len(lonely):
        out[lonely] = on_plane(frame, planes[lonely], rng)
    return out


PLACES_PER_ROUND, FAR_ROUNDS = 16, 8  # places looked at per hyperplane and round, and rounds at most
# Windows, in units of what errors and rounding ask for: of sharpened rows errors are stated too small at times.
WINDOW_WIDTHS = 1.0, 4.0
EACH = 6 * len(WINDOW_WIDTHS) * PLACES_PER_ROUND  # queries of a round per hyperplane
# Share of the places, beyond what is met beside, at which a hyperplane of the first layer is seen at least; one of a
# deeper layer is where it was predicted only while the neurons that feed it stay as they were.
SEEN_PLACES_SHARE = 0.75
EARLY_DECISION_SIGMAS = 2.5  # standard deviations that the share must be away from this for an early decision


@dataclass(frozen=True)
class Confirmed:
    """What looking again at fresh places has shown."""

    # of each hyperplane, the share of places at which it was met, beyond what is met beside it
    share: Float[np.ndarray, " k"]
    places: Float[np.ndarray, " k"]  # at how many it was looked for

    @property
    def there(self) -> Bool[np.ndarray, " k"]:
        """Which hyperplanes are confirmed."""
        return np.asarray((self.places > 0) & (self.share >= SEEN_PLACES_SHARE))


def confirm(probe: Probe, frame: Frame, planes: Hyperplanes, others: Hyperplanes, most: float = np.inf) -> Confirmed:
    """Look for first-layer hyperplanes at fresh places: each must bend the answers where it is predicted.

    `others`: hyperplanes that are known, these among them. `most`: queries at most; the first hyperplanes come first.
    Returns the share of places at which each was met, of those that tell. Hyperplanes that do not cross the legal box
    have no places, nor have those that the queries did not suffice for; those of a single coordinate are points, and
    there. Queries: `EACH` per hyperplane and round, at most `FAR_ROUNDS` rounds; two more per place where roundings
    differ.
    """
    if frame.d == 1:
        return Confirmed(np.ones(len(planes)), np.ones(len(planes)))
    each = EACH + (0 if probe.noise.own is None else 2 * PLACES_PER_ROUND)
    hits, beside, places = np.zeros((3, len(planes)))
    open_ = np.flatnonzero(_crosses(frame, planes.rows, planes.bias))
    for _ in range(FAR_ROUNDS):
        open_ = open_[: int(min(most / each, len(open_)))]
        if not len(open_):
            break
        most -= each * len(open_)
        here = planes[np.repeat(open_, PLACES_PER_ROUND)]
        windows = Windows.far(probe, frame, others, here, WINDOW_WIDTHS)
        met, other, telling = windows.met()
        hits[open_] += (met & telling).reshape(-1, PLACES_PER_ROUND).sum(axis=1)
        beside[open_] += (other & telling).reshape(-1, PLACES_PER_ROUND).sum(axis=1)
        places[open_] += telling.reshape(-1, PLACES_PER_ROUND).sum(axis=1)
        share, doubt = _shares(hits[open_], beside[open_], places[open_])
        open_ = open_[np.abs(share - SEEN_PLACES_SHARE) < EARLY_DECISION_SIGMAS * doubt]
    return Confirmed(_shares(hits, beside, places)[0], places)


def _shares(
    hits: Float[np.ndarray, " k"], beside: Float[np.ndarray, " k"], places: Float[np.ndarray, " k"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """The share of places at which something is met that is not met beside, and its standard deviation."""
    count = np.maximum(places, 1)
    p, q = hits / count, beside / count
    alone = np.maximum(1 - q, 1 / count)
    p_, q_ = (hits + 1) / (count + 2), (beside + 1) / (count + 2)
    doubt = np.sqrt((p_ * (1 - p_) + q_ * (1 - q_) * ((1 - p) / alone) ** 2) / count) / alone
    return (p - q) / alone, doubt


def _crosses(frame: Frame, rows: Float[np.ndarray, "k d"], bias: Float[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """Which hyperplanes have legal inputs on both sides."""
    if frame.within is None:
        return np.ones(len(rows), dtype=bool)
    low, high = (np.broadcast_to(end, rows.shape[1:]) for end in frame.within)
    up, down = np.maximum(rows, 0), np.minimum(rows, 0)
    most, least = up @ high + down @ low + bias, up @ low + down @ high + bias
    return np.asarray((most > 0) & (least < 0))
