"""validate: a network held against fresh answers: where users ask, further out, and where neurons switch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unveil.blackbox.domain import HALF, SINGLE
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding, intact, weights
from unveil.identification.check_points import FURTHER, check_points
from unveil.identification.fitting.affine_part import affine_part
from unveil.whitebox.network import Network

# Queries of a check: this share of what the reading asked, between these. A neuron that is on for one usual input in a
# thousand shows itself to the most of them; the fewest are enough for what the further points show.
CHECK_QUERIES_SHARE, FEWEST, MOST_CHECK_QUERIES = 0.03, 100, 2000
# In a box no point lies further out than others, so that only many show what is rare.
SHARE_IN_BOX, FEWEST_IN_BOX = 0.2, 500
# Behind a first layer a neuron may be off, or on, at nearly all inputs: with two hidden layers or more.
FEWEST_DEEP = 300
# A network that carries an affine part stands in for neurons that switch somewhere further out, if anywhere.
FEWEST_WITH_AFFINE_PART = 600
TAIL = 30.0  # errors so many times the median one are not like the others
# Errors at usual points and beside hyperplanes, in units of the answers' rounding there, that a fit to answers with few
# digits leaves at most: its own error and the rounding made 5 at 100 points and 8 at 4,000; a missing neuron 4 to 500.
UNEXPLAINED = 8.0
EQUAL_ANSWER_ROUNDINGS = 4.0  # answers within so many of their roundings are the same
WHOLE_ANSWERS_SHARE = 0.05  # of the points, whose answers must have digits for anything to be known


@dataclass(frozen=True)
class Validation:
    """How far a network is from the oracle at points that it has never met."""

    usual: float  # largest error at points as a user would draw them, relative to the spread of the answers there
    further: float  # largest error at the other points, relative to the spread of the answers at points like them
    # The largest error of all in units of the median error among points like it. Rounding makes ten of it; a neuron
    # that is missing thousands.
    tail: float
    points: int  # how many answers with digits it rests on
    # points whose error is neither rounding nor like that of the others, usual ones first
    wrong: Float[np.ndarray, "W n"]
    # the largest error at usual points and beside hyperplanes, in units of the answer's rounding there; 0 where it was
    # not measured
    roundings: float = 0.0

    @property
    def residual(self) -> float:
        """The larger of the two errors."""
        return max(self.usual, self.further)


def how_many(oracle: Oracle, network: Network | None = None) -> int:
    """Queries that checking a network is worth, after what was asked so far. `oracle`: what was asked. `network`: what
    is to be checked."""
    share, fewest = (CHECK_QUERIES_SHARE, FEWEST) if oracle.within is None else (SHARE_IN_BOX, FEWEST_IN_BOX)
    if network is not None and len(network.layers) > 2:
        fewest = max(fewest, FEWEST_DEEP)
    if network is not None and any(affine_part(network)):
        fewest = max(fewest, FEWEST_WITH_AFFINE_PART)
    return int(np.clip(share * oracle.ledger.asked, fewest, MOST_CHECK_QUERIES))


def validate(  # noqa: PLR0913 - what counts as rounding is a share of the spread, or known of each answer
    network: Network,
    oracle: Oracle,
    count: int,
    rng: np.random.Generator,
    fine: float = 0.0,
    ask: Callable[[Float[np.ndarray, "N n"]], Float[np.ndarray, "N m"]] | None = None,
    noise: Rounding | None = None,
) -> Validation:
    """Hold a network against fresh answers.

    Two fifths of the points are as a user would draw them. Three tenths lie 3 and 30 times as far out, or, in a box, at
    its corners: neurons that are hardly ever on among the usual ones are on for many of these. The rest lies on both
    sides of hyperplanes of the network's own neurons, where a neuron that does not exist or is active on the other side
    shows itself, and where one neuron of a layer is active and the others are not (`mixtures`). Of two hidden layers
    and more a third are such points: a neuron behind the first may show nowhere else.

    Where answers are not all rounded alike (`Oracle.uneven`) errors count for as much as that leaves of them. Of
    log-ratios that have run out of digits (`Oracle.widest`) only that is held against the network: its own must be
    large there, too. If hardly any others are left, nothing is known, and the errors are infinite. `network`: what was
    found. `oracle`: what it should be. `count`: queries. `rng`: draws all points. `fine`: errors that count as
    rounding, relative to the spread of the answers. `ask`: through what to ask; by default the oracle itself. `noise`:
    how exact answers with few digits are: then what is beyond `UNEXPLAINED` roundings at usual points or beside
    hyperplanes is wrong, too, and not put down to them, however small beside the spread. Queries: `count`.
    """
    groups = check_points(network, oracle, count, rng)
    y = (ask or oracle)(np.concatenate(groups))
    errors, tails, wrong, roundings = [0.0], [0.0], [np.empty((0, oracle.n))], 0.0
    usual = np.median((oracle.uneven or oracle.rounding)(y[: len(groups[0])]), axis=0)
    start, rests = 0, 0
    beside = 1 + (len(FURTHER) if oracle.within is None else 1)
    for number, x in enumerate(groups):
        answers, start = y[start : start + len(x)], start + len(x)
        whole = intact(answers, oracle.widest)
        errors.append(0.0)
        if not whole.all():
            lost = contradicted(network(x[~whole]), answers[~whole], oracle.widest)
            errors[-1] = float(lost.max())
            wrong.append(x[~whole][lost > 0])
        x, answers, rests = x[whole], answers[whole], rests + int(whole.sum())
        if not len(x):
            continue
        spread = float(np.abs(answers - answers.mean(axis=0)).max())
        # What a model loses inside, beyond its answers' last digit, is no difference either.
        lost = oracle.rounding(answers) if noise is None else np.maximum(oracle.rounding(answers), noise.at(x, answers))
        if float(np.ptp(answers, axis=0).max()) <= EQUAL_ANSWER_ROUNDINGS * float(lost.max()):
            spread = float(np.abs(answers).max()) or 1.0  # all are the same
        apart = np.abs(network(x) - answers)
        off = (apart * weights(oracle.uneven, answers, usual)).max(axis=1)
        errors[-1] = max(errors[-1], _finite(float(off.max()) / spread))
        typical = max(float(np.median(off)), 1e-300)
        tails.append(_finite(float(off.max()) / typical))
        # A network that is wrong at most points has no typical error to hold others against.
        strange = ~(off <= fine * spread) & ((off > TAIL * typical) | (typical > fine * spread))
        if noise is not None and not noise.exact and number in (0, beside):
            # A model that computes in half precision loses more inside than its answers' last digit.
            rounded = oracle.step > 0 or HALF < oracle.mantissa < SINGLE
            last = oracle.rounding(answers)
            unit = np.maximum(noise.unit(x, answers, last if rounded else None), last)
            times = (apart / unit).max(axis=1)
            roundings = max(roundings, _finite(float(times.max())))
            strange |= ~(times <= UNEXPLAINED)
        many = np.flatnonzero(strange)
        wrong.append(x[many[np.argsort(-off[many], kind="stable")]])
    if rests < WHOLE_ANSWERS_SHARE * len(y):
        errors[1] = np.inf
    return Validation(errors[1], max(errors[2:], default=0.0), max(tails), rests, np.concatenate(wrong), roundings)


def contradicted(
    said: Float[np.ndarray, "N c"], answers: Float[np.ndarray, "N c"], widest: float
) -> Float[np.ndarray, " N"]:
    """By how much of `widest` a network falls short of log-ratios that exceed it; 0 where by less than half.

    How far they exceed it says nothing: 1 - p is 0 for many an odds, and a probability at its floor may be smaller.
    `said`: log-ratios that the network gives. `answers`: those of the oracle, some of which differ by `widest` or more.
    `widest`: see `Oracle.widest`.
    """
    ours, theirs = (np.column_stack([each, np.zeros(len(each))]) for each in (said, answers))
    top = theirs.argmax(axis=1)[:, None]
    ours, theirs = (each - np.take_along_axis(each, top, axis=1) for each in (ours, theirs))
    floored = theirs < -0.9 * widest
    short = np.where(floored, 1 + ours / widest, 0.0).max(axis=1)
    return np.where(short > 0.5, short, 0.0)


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.inf
