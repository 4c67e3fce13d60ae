"""The other side of adversarial examples: a large change of the input that hardly changes the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from unveil.one_line import one_line
from unveil.outcome import BadInput, UnveilError
from unveil.whitebox.box import Box
from unveil.whitebox.lookalike import Model, Walk, one_point
from unveil.whitebox.network import Network, must_be_known
from unveil.whitebox.polytope import Optimum, Polytope, farthest
from unveil.whitebox.within import box

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@one_line
@dataclass(frozen=True)
class LargeChange:
    """An input far from x to which the network answers almost the same.

    Attributes:
        z: (n,), in the box.
        x: (n,).
        epsilon: How much any logit was allowed to change.
        change: 1-norm of `z - x`: a lower bound on what is possible.
        most: What the box would allow if the network were constant: an upper bound.
        difference: Largest absolute change of a logit, by our own evaluation in float64; above `epsilon` by what a
            linear programme leaves, some 1e-10 of the logits, if at all.
        moves: How often the search crossed into another linear region.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> found = uv.large_change(network, np.array([0.5, 0.5, 0.25]), 1e-6)
        >>> found.change > 0.1  # so far an input moves while the features move by a millionth at most
        True
    """

    z: Float[np.ndarray, " n"]
    x: Float[np.ndarray, " n"]
    epsilon: float
    change: float
    most: float
    difference: float
    moves: int

    def plot(self) -> Figure:
        """x, and the input far from it with almost the same answers."""
        from unveil.pictures import inputs

        return inputs({"x": self.x, "changed": self.z})

    @property
    def manipulation(self) -> float:
        """Share of the box's room that could be gone: 0 none, 1 all of it."""
        return self.change / self.most if self.most else 0.0

    def check(self, model: Model) -> float:
        """Largest change of an answer of the original model; `model` takes (N, n) and gives (N, m) logits."""
        answers = np.asarray(model(np.stack([self.x, self.z])), dtype=np.float64)
        return float(np.abs(answers[1] - answers[0]).max())


def large_change(
    network: Network,
    x: np.ndarray,
    epsilon: float,
    *,
    within: Box = (0.0, 1.0),
    towards: Sequence[np.ndarray] = (),
    moves: int = 10,
) -> LargeChange:
    """Find a change of x as large as possible, in the 1-norm, that changes every logit by at most epsilon.

    The largest change is the maximum of a convex function, which no method finds surely. Inside one linear region it
    is climbed by linear programmes: go as far as possible along the signs of a direction, take the signs of what was
    gone, repeat; the change never shrinks. Then the faces that stand in the way are crossed. So the result is a lower
    bound.

    Args:
        network: Piecewise linear; a softmax on top is left out.
        x: One input.
        epsilon: Largest change of any logit, at least 0.
        within: Lowest and highest legal value, for all inputs or for each.
        towards: Inputs in whose direction to start, besides those of the farthest and the nearest corner of the box.
        moves: How many times to cross into another linear region at most, per start.

    Raises:
        BadInput: Wrong shapes, x outside the box, a negative epsilon, or a network that is not piecewise linear.
        UnveilError: No linear programme could be solved.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> found = uv.large_change(network, np.array([0.5, 0.5, 0.25]), 1e-6)
        >>> found.change > 0.1  # so far an input moves while the features move by a millionth at most
        True
    """
    must_be_known(network)
    start = one_point(network, x, "x")
    low, high = box(within, start, "x")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise BadInput("within= must be finite here: without a box the largest change may be infinite")
    if not 0 <= epsilon < np.inf:
        raise BadInput(f"epsilon must be a finite number of at least 0; got {epsilon}")
    corner = np.where(high - start > start - low, 1.0, -1.0)
    signs = [corner, -corner]
    for target in towards:
        signs.append(np.where(one_point(network, target, "a direction") >= start, 1.0, -1.0))
    walk = Walk(network, start, len(network.layers) - 1, (low, high), epsilon)
    best, crossed, failure = None, 0, UnveilError("no direction to start in")
    for sign in signs:
        try:
            found, moved = walk.search(_Climb(start, sign), moves, maximise=True)
        except UnveilError as error:
            failure = error
            continue
        if best is None or found.value > best.value:
            best, crossed = found, moved
    if best is None:
        raise failure
    logits = network.logits(np.stack([start, best.z]))
    return LargeChange(
        best.z,
        start,
        float(epsilon),
        float(np.abs(best.z - start).sum()),
        float(np.maximum(high - start, start - low).sum()),
        float(np.abs(logits[1] - logits[0]).max()),
        crossed,
    )


class _Climb:
    """Linear programmes along the signs of what was gone so far, until the signs stay."""

    def __init__(self, start: np.ndarray, sign: np.ndarray) -> None:
        self.start, self.sign = start, sign

    def __call__(self, polytope: Polytope) -> Optimum:
        best: Optimum | None = None
        for _ in range(20):
            found = farthest(polytope, self.sign)
            gone = found.z - self.start
            change = float(np.abs(gone).sum())
            if best is not None and change <= best.value * (1 + 1e-6):
                break
            best = Optimum(found.z, change, np.inf, found.pressure)
            sign = np.where(np.abs(gone) > 1e-9, np.sign(gone), self.sign)
            if np.array_equal(sign, self.sign):
                break
            self.sign = sign
        assert best is not None
        return best
