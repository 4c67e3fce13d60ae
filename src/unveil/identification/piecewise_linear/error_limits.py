"""allowed, passes: which errors at fresh points a network that was read may have, by how exact the answers are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from unveil.blackbox.rounding import COARSE, Rounding
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.validation import TAIL, UNEXPLAINED, Validation
from unveil.whitebox.network import Network

# The rounding that was measured counts up to so many times that of the answers' own digits: what is more are
# breakpoints that the measurement met.
CROWDED = 8.0
# Where answers are noisy, the largest error may be `TAIL` times the median one, or this many times their rounding: what
# is more comes from a neuron that is missing.
FLOOR = 100.0
# With fewer than some five digits that is a share of the answers' spread that anyone would notice: there, ten times
# this one, or their rounding.
NOTICED = 1e-3
# Among errors of more than this share of the spread a neuron that makes as much is not seen: nothing is complete there,
# and where they are about all there is, nothing is known.
HIDES, DROWNS = 0.1, 0.5
# Exact answers: errors so many times the median one, and beyond the rounding's, are of numbers that few answers tell:
# more answers like these are asked for; where that is no help other lines are, and the best reading is taken.
STRANGE_ERROR_RATIO = 1e5


def allowed(accept: float, seen: Validation, noise: Rounding, resolution: float) -> tuple[float, bool]:
    """The largest error of a complete result relative to the answers' spread, and whether the errors met are alike.

    `accept`: of `CriticalPoints`. `seen`: what a check saw. `noise`: how exact answers are. `resolution`: of the
    answers' own digits, relative.
    """
    if noise.exact:
        return accept * float(np.sqrt(noise.relative)), True
    relative = min(noise.relative, max(CROWDED * resolution, COARSE))
    return accept * min(100 * relative, max(NOTICED, relative)), seen.tail <= TAIL or seen.residual <= FLOOR * relative


def passes(accept: float, seen: Validation, noise: Rounding, resolution: float) -> bool:
    """Whether all errors are the rounding's. Arguments: those of `allowed`."""
    most, alike = allowed(accept, seen, noise, resolution)
    return seen.residual <= most and alike and seen.roundings <= UNEXPLAINED


def strange(seen: Validation, noise: Rounding) -> bool:
    """Whether exact answers show errors that are not like the others."""
    return noise.exact and seen.residual > FLOOR * noise.relative and seen.tail > STRANGE_ERROR_RATIO


def strays(network: Network, fresh: Asked, noise: Rounding) -> tuple[Float[np.ndarray, "S n"], float]:
    """Where answers with few digits are off by more than `UNEXPLAINED` times their rounding though they were fitted,
    and by how many times at most: one that tells a weight alone, and lies on the wrong side of a hyperplane."""
    if noise.exact or not fresh.x:
        return np.empty((0, network.n)), 0.0
    x, y = fresh.all()
    times = (np.abs(network(x) - y) / noise.at(x, y)).max(axis=1)
    return x[~(times <= UNEXPLAINED)], float(np.nan_to_num(times, nan=np.inf).max())


def few_digits(relative: float) -> bool:
    """Whether answers with this relative rounding have fewer than some five digits."""
    return 100 * relative > NOTICED
