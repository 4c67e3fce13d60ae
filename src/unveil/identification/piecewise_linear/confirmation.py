"""confirm: whether hyperplanes that were read are there, at places that had no part in finding them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.layer_membership import BEND, ROUNDINGS, WINDOW, anywhere_on
from unveil.identification.piecewise_linear.probe import Probe

PLACES, ROUNDS = 16, 8  # places looked at per hyperplane and round, and rounds at most
EACH = 12 * PLACES  # queries of a round per hyperplane
# Half widths of the two windows across the predicted position, in units of the shortest that would show the breakpoint:
# behind layers that let less of it through, only the wider one does.
WIDE = 4.0
BESIDE = 2.5  # windows beside it, this many half widths of the wide one away: what is met there is other neurons'
# Share of the places, beyond what is met beside, at which a hyperplane of the first layer is seen at least; one of a
# deeper layer is where it was predicted only while the neurons that feed it stay as they were.
SHARE = 0.75
# Half widths of a window at most, as a share of how far it is from where the hyperplane was met: two hyperplanes at an
# angle of so much are told apart there, and a place where answers need a wider window tells nothing.
ANGLE = 0.05
CLEAR = 2.5  # standard deviations that the share must be away from this for an early decision


@dataclass(frozen=True)
class Confirmed:
    """What looking again at fresh places has shown."""

    # of each hyperplane, the share of places at which it was met, beyond what is met beside it
    share: Float[np.ndarray, " k"]
    places: Float[np.ndarray, " k"]  # at how many it was looked for

    @property
    def there(self) -> Bool[np.ndarray, " k"]:
        """Which hyperplanes are confirmed."""
        return np.asarray((self.places > 0) & (self.share >= SHARE))


def confirm(probe: Probe, frame: Frame, planes: Hyperplanes, most: float = np.inf) -> Confirmed:
    """Look for first-layer hyperplanes at fresh places far apart: each must bend the answers where it is predicted.

    `most`: queries at most; the first hyperplanes come first. Returns the share of places at which each was met. Those
    that do not cross the legal box have no places, nor have those that the queries did not suffice for. Queries: `EACH`
    per hyperplane and round, at most `ROUNDS` rounds; one more per place where roundings differ.
    """
    each = EACH + (0 if probe.noise.own is None else PLACES)
    hits, beside, places = np.zeros((3, len(planes)))
    open_ = np.flatnonzero(_crosses(frame, planes.rows, planes.bias))
    for _ in range(ROUNDS):
        open_ = open_[: int(min(most / each, len(open_)))]
        if not len(open_):
            break
        most -= each * len(open_)
        here = planes[np.repeat(open_, PLACES)]
        x = anywhere_on(frame, here, probe.rng)
        met, other, telling = _bends(probe, frame, x, here)
        hits[open_] += (met & telling).reshape(-1, PLACES).sum(axis=1)
        beside[open_] += (other & telling).reshape(-1, PLACES).sum(axis=1)
        places[open_] += telling.reshape(-1, PLACES).sum(axis=1)
        share, doubt = _shares(hits[open_], beside[open_], places[open_])
        open_ = open_[np.abs(share - SHARE) < CLEAR * doubt]
    return Confirmed(_shares(hits, beside, places)[0], places)


def _shares(hits: np.ndarray, beside: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of places at which something is met that is not met beside, and its standard deviation."""
    count = np.maximum(places, 1)
    p, q = hits / count, beside / count
    alone = np.maximum(1 - q, 1 / count)
    p_, q_ = (hits + 1) / (count + 2), (beside + 1) / (count + 2)
    doubt = np.sqrt((p_ * (1 - p_) + q_ * (1 - q_) * ((1 - p) / alone) ** 2) / count) / alone
    return (p - q) / alone, doubt


def _bends(probe: Probe, frame: Frame, x: np.ndarray, planes: Hyperplanes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At which of these places answers bend across the hyperplane, at which in a window beside it, and which tell."""
    sigma = probe.sigma(x)
    far = np.linalg.norm(x - planes.at, axis=1)
    away = far / np.sqrt(frame.d)
    strength = np.maximum(np.sqrt(((planes.jump / sigma) ** 2).mean(axis=1)), 1e-300)
    half = WINDOW * planes.error * away + ROUNDINGS / strength
    telling = WIDE * half <= ANGLE * far
    half = np.minimum(half, far)
    out = []
    for middle in (0.0, BESIDE * WIDE):
        bent = np.zeros(len(x), dtype=bool)
        centre = x + (middle * half)[:, None] * planes.rows
        for width in (1.0, WIDE):
            second = probe.bend(centre, (width * half)[:, None] * planes.rows)
            bent |= np.sqrt(((second / sigma) ** 2).mean(axis=1)) > BEND
        out.append(bent)
    return out[0], out[1], telling


def _crosses(frame: Frame, rows: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Which hyperplanes have legal inputs on both sides."""
    if frame.within is None:
        return np.ones(len(rows), dtype=bool)
    low, high = (np.broadcast_to(end, rows.shape[1:]) for end in frame.within)
    up, down = np.maximum(rows, 0), np.minimum(rows, 0)
    most, least = up @ high + down @ low + bias, up @ low + down @ high + bias
    return np.asarray((most > 0) & (least < 0))
