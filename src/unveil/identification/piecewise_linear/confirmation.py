"""confirm: whether hyperplanes that were read are there, at places that had no part in finding them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from unveil.identification.piecewise_linear.far_places import Windows
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.probe import Probe

PLACES, ROUNDS = 16, 8  # places looked at per hyperplane and round, and rounds at most
# Windows, in units of what errors and rounding ask for: of sharpened rows errors are stated too small at times.
WIDTHS = 1.0, 4.0
EACH = 6 * len(WIDTHS) * PLACES  # queries of a round per hyperplane
# Share of the places, beyond what is met beside, at which a hyperplane of the first layer is seen at least; one of a
# deeper layer is where it was predicted only while the neurons that feed it stay as they were.
SHARE = 0.75
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


def confirm(probe: Probe, frame: Frame, planes: Hyperplanes, others: Hyperplanes, most: float = np.inf) -> Confirmed:
    """Look for first-layer hyperplanes at fresh places: each must bend the answers where it is predicted.

    `others`: hyperplanes that are known, these among them. `most`: queries at most; the first hyperplanes come first.
    Returns the share of places at which each was met, of those that tell. Hyperplanes that do not cross the legal box
    have no places, nor have those that the queries did not suffice for. Queries: `EACH` per hyperplane and round, at
    most `ROUNDS` rounds; two more per place where roundings differ.
    """
    each = EACH + (0 if probe.noise.own is None else 2 * PLACES)
    hits, beside, places = np.zeros((3, len(planes)))
    open_ = np.flatnonzero(_crosses(frame, planes.rows, planes.bias))
    for _ in range(ROUNDS):
        open_ = open_[: int(min(most / each, len(open_)))]
        if not len(open_):
            break
        most -= each * len(open_)
        here = planes[np.repeat(open_, PLACES)]
        windows = Windows.far(probe, frame, others, here, WIDTHS)
        met, other, telling = windows.met()
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


def _crosses(frame: Frame, rows: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Which hyperplanes have legal inputs on both sides."""
    if frame.within is None:
        return np.ones(len(rows), dtype=bool)
    low, high = (np.broadcast_to(end, rows.shape[1:]) for end in frame.within)
    up, down = np.maximum(rows, 0), np.minimum(rows, 0)
    most, least = up @ high + down @ low + bias, up @ low + down @ high + bias
    return np.asarray((most > 0) & (least < 0))
