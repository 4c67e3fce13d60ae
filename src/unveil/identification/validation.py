"""validate: a network held against fresh answers: where users ask, further out, and where neurons switch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from unveil.blackbox.domain import SINGLE, Within
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.rounding import Rounding, intact, weights
from unveil.identification.fitting.affine_part import affine_part
from unveil.whitebox.network import Network

# Queries of a check: this share of what the reading asked, between these. A neuron that is on for one usual input in a
# thousand shows itself to the most of them; the fewest are enough for what the further points show.
SHARE, FEWEST, MOST = 0.03, 100, 2000
# In a box no point lies further out than others, so that only many show what is rare.
SHARE_IN_BOX, FEWEST_IN_BOX = 0.2, 500
# Behind a first layer a neuron may be off, or on, at nearly all inputs: with two hidden layers or more.
FEWEST_DEEP = 300
# A network that carries an affine part stands in for neurons that switch somewhere further out, if anywhere.
FEWEST_WITH_AFFINE_PART = 600
# How far out points lie besides the usual ones, in usual lengths: every neuron of a first layer switches there.
FURTHER = (3.0, 30.0)
# Shares of the points: usual ones, those further out (at corners, where there is a box), those where neurons switch;
# the rest are unusual ones. Of one hidden layer, and of several, behind which rare neurons show at these above all.
SHARES, SHARES_DEEP = (0.4, 0.3, 0.15), (0.3, 0.2, 0.15)
# Points from which the most unusual ones are climbed to, and steps of the way.
POOL, CLIMB = 1000, 30
# At these one feature is to be large: alone at half of them; at the others beside a second one as often as not, and the
# rest may be active by as little as this weighs against them.
LIGHTEST = 0.05
# Errors so many times the median one are not like the others.
TAIL = 30.0
# Errors at usual points and beside hyperplanes, in units of the answers' rounding there, that a fit to answers with few
# digits leaves at most: its own error and the rounding made 5 at 100 points and 8 at 4,000; a missing neuron 4 to 500.
UNEXPLAINED = 8.0
# Answers within so many of their roundings are the same.
EQUAL = 4.0
# Of the points, whose answers must have digits for anything to be known.
LEAST = 0.05
# Distance from a hyperplane, in standard deviations of the preactivation: on either side of it.
ACROSS = 0.5


@dataclass(frozen=True)
class Validation:
    """How far a network is from the oracle at points that it has never met.

    Attributes:
        usual: Largest error at points as a user would draw them, relative to the spread of the answers there.
        further: Largest error at the other points, relative to the spread of the answers at points like them.
        tail: The largest error of all in units of the median error among points like it. Rounding makes ten of it; a
            neuron that is missing thousands.
        points: How many answers with digits it rests on.
        wrong: Points whose error is neither rounding nor like that of the others, usual ones first.
        roundings: The largest error at usual points and beside hyperplanes, in units of the answer's rounding there; 0
            where it was not measured.
    """

    usual: float
    further: float
    tail: float
    points: int
    wrong: Float[np.ndarray, "W n"]
    roundings: float = 0.0

    @property
    def residual(self) -> float:
        """The larger of the two errors."""
        return max(self.usual, self.further)


def how_many(oracle: Oracle, network: Network | None = None) -> int:
    """Queries that checking a network is worth, after what was asked so far.

    Args:
        oracle: What was asked.
        network: What is to be checked.
    """
    share, fewest = (SHARE, FEWEST) if oracle.within is None else (SHARE_IN_BOX, FEWEST_IN_BOX)
    if network is not None and len(network.layers) > 2:
        fewest = max(fewest, FEWEST_DEEP)
    if network is not None and any(affine_part(network)):
        fewest = max(fewest, FEWEST_WITH_AFFINE_PART)
    return int(np.clip(share * oracle.ledger.asked, fewest, MOST))


def validate(  # noqa: PLR0913 - what counts as rounding is a share of the spread, or known of each answer
    network: Network,
    oracle: Oracle,
    count: int,
    rng: np.random.Generator,
    fine: float = 0.0,
    ask: Callable[[np.ndarray], np.ndarray] | None = None,
    noise: Rounding | None = None,
) -> Validation:
    """Hold a network against fresh answers.

    Two fifths of the points are as a user would draw them. Three tenths lie 3 and 30 times as far out, or, in a
    box, at its corners: neurons that are hardly ever on among the usual ones are on for many of these. The rest lies on
    both sides of hyperplanes of the network's own neurons, where a neuron that does not exist or is active on the other
    side shows itself, and where one neuron of a layer is active and the others are not (`mixtures`). Of two hidden
    layers and more a third are such points: a neuron behind the first may show nowhere else.

    Where answers are not all rounded alike (`Oracle.uneven`) errors count for as much as that leaves of them.
    Of log-ratios that have run out of digits (`Oracle.widest`) only that is held against the network: its own must be
    large there, too. If hardly any others are left, nothing is known, and the errors are infinite.

    Args:
        network: What was found.
        oracle: What it should be.
        count: Queries.
        rng: Draws all points.
        fine: Errors that count as rounding, relative to the spread of the answers.
        ask: Through what to ask; by default the oracle itself.
        noise: How exact answers with few digits are: then what is beyond `UNEXPLAINED` roundings at usual points or
            beside hyperplanes is wrong, too, and not put down to them, however small beside the spread.

    Queries: `count`
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
        if float(np.ptp(answers, axis=0).max()) <= EQUAL * float(oracle.rounding(answers).max()):
            spread = float(np.abs(answers).max()) or 1.0  # all are the same
        apart = np.abs(network(x) - answers)
        off = (apart * weights(oracle.uneven, answers, usual)).max(axis=1)
        errors[-1] = max(errors[-1], _finite(float(off.max()) / spread))
        typical = max(float(np.median(off)), 1e-300)
        tails.append(_finite(float(off.max()) / typical))
        # A network that is wrong at most points has no typical error to hold others against.
        strange = ~(off <= fine * spread) & ((off > TAIL * typical) | (typical > fine * spread))
        if noise is not None and not noise.exact and number in (0, beside):
            rounded = oracle.step > 0 or oracle.mantissa < SINGLE
            last = oracle.rounding(answers)
            unit = np.maximum(noise.unit(x, answers, last if rounded else None), last)
            times = (apart / unit).max(axis=1)
            roundings = max(roundings, _finite(float(times.max())))
            strange |= ~(times <= UNEXPLAINED)
        many = np.flatnonzero(strange)
        wrong.append(x[many[np.argsort(-off[many], kind="stable")]])
    if rests < LEAST * len(y):
        errors[1] = np.inf
    return Validation(errors[1], max(errors[2:], default=0.0), max(tails), rests, np.concatenate(wrong), roundings)


def contradicted(
    said: Float[np.ndarray, "N c"], answers: Float[np.ndarray, "N c"], widest: float
) -> Float[np.ndarray, " N"]:
    """By how much of `widest` a network falls short of log-ratios that exceed it; 0 where by less than half.

    How far they exceed it says nothing: 1 - p is 0 for many an odds, and a probability at its floor may be smaller.

    Args:
        said: Log-ratios that the network gives.
        answers: Those of the oracle, some of which differ by `widest` or more.
        widest: See `Oracle.widest`.
    """
    ours, theirs = (np.column_stack([each, np.zeros(len(each))]) for each in (said, answers))
    top = theirs.argmax(axis=1)[:, None]
    ours, theirs = (each - np.take_along_axis(each, top, axis=1) for each in (ours, theirs))
    floored = theirs < -0.9 * widest
    short = np.where(floored, 1 + ours / widest, 0.0).max(axis=1)
    return np.where(short > 0.5, short, 0.0)


def switching(network: Network, x: Float[np.ndarray, "N n"], rng: np.random.Generator) -> Float[np.ndarray, "N n"]:
    """The points moved to just beside hyperplanes of random hidden neurons, on either side.

    Args:
        network: Whose neurons.
        x: Points to start from.
        rng: Picks neurons and sides.
    """
    x = x.copy()
    hidden = network.layers[:-1]
    if not hidden:
        return x
    spread = [z.std(axis=0) + 1e-300 for z in network.preactivations(x, -2)]
    depth = rng.integers(len(hidden), size=len(x))
    neuron = np.array([rng.integers(hidden[d].neurons) for d in depth], dtype=int)
    side = rng.choice([-ACROSS, ACROSS], size=len(x))
    for level in range(len(hidden)):
        some = np.flatnonzero(depth == level)
        if not len(some):
            continue
        goal = side[some] * spread[level][neuron[some]]
        # A first layer's hyperplane is met at once; a deeper one bends on the way.
        for _ in range(1 if level == 0 else 6):
            sums = network.preactivations(x[some], level)
            z = sums[level][np.arange(len(some)), neuron[some]]
            slope = _slopes(network, level, sums, np.eye(hidden[level].neurons)[neuron[some]])
            size = np.maximum((slope**2).sum(axis=1), 1e-300)
            step = ((goal - z) / size)[:, None] * slope
            x[some] += np.where(np.isfinite(step), step, 0.0)
    return x


def unusual(
    network: Network,
    depth: int,
    x: Float[np.ndarray, "pool n"],
    most: Float[np.ndarray, " count"],
    rng: np.random.Generator,
    within: Within | None,
) -> Float[np.ndarray, "count n"]:
    """Points where `mixtures` of the features of layer `depth` are largest: a rare neuron behind it is on there.

    Args:
        network: Whose features.
        depth: Which layer's, from 0.
        x: Points to start from.
        most: Without a box, how long each of the points may be.
        rng: Draws the mixtures.
        within: The legal box, if any.
    """
    count = len(most)
    weights, activation = mixtures(count, network.layers[depth].neurons, rng), network.layers[depth].activation
    x = x[(network.features(x, depth) @ weights.T).argmax(axis=0)]
    narrow = within is None and network.layers[0].neurons < network.n
    walk = _BySums(network, depth, x, most) if narrow else _ByInputs(network, depth, x, most, within)
    state, step = walk.start, most / 6
    sums = walk.sums(state)
    best = np.einsum("ck,ck->c", activation.value(sums[-1]), weights)
    for _ in range(CLIMB):
        on = walk.moved(state, _first_slopes(network, depth, sums, weights * activation.slope(sums[-1])), step)
        there = walk.sums(on)
        reached = np.einsum("ck,ck->c", activation.value(there[-1]), weights)
        better = reached > best
        best[better] = reached[better]
        for held, new in zip((*state, *sums), (*on, *there), strict=True):
            held[better] = new[better]
        step *= np.where(better, 1.2, 0.5)
    return walk.points(state)


@dataclass(frozen=True)
class _ByInputs:
    """Points that climb, as inputs: within a box, or through a first layer that is wider than they are long."""

    network: Network
    depth: int
    x: Float[np.ndarray, "count n"]
    most: Float[np.ndarray, " count"]
    within: Within | None

    @property
    def start(self) -> tuple[np.ndarray, ...]:
        return (self.x.copy(),)

    def sums(self, state: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        return self.network.preactivations(state[0], self.depth)

    def moved(
        self, state: tuple[np.ndarray, ...], back: Float[np.ndarray, "count k"], step: Float[np.ndarray, " count"]
    ) -> tuple[np.ndarray, ...]:
        up = back @ self.network.layers[0].dense()
        y = state[0] + step[:, None] * up / np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-300)
        if self.within is not None:
            return (np.clip(y, *self.within),)
        return (y * np.minimum(1, self.most / np.maximum(np.linalg.norm(y, axis=1), 1e-300))[:, None],)

    def points(self, state: tuple[np.ndarray, ...]) -> Float[np.ndarray, "count n"]:
        return state[0]


@dataclass(frozen=True)
class _BySums:
    """The same by what the first layer sees of them, which is all that counts on the way: a point is a share of where
    it began, and so much of every row."""

    network: Network
    depth: int
    x: Float[np.ndarray, "count n"]
    most: Float[np.ndarray, " count"]

    @cached_property
    def gram(self) -> Float[np.ndarray, "k k"]:
        """Products of the rows."""
        rows = self.network.layers[0].dense()
        return np.asarray(rows @ rows.T)

    @property
    def start(self) -> tuple[np.ndarray, ...]:
        """Sums without biases, squared lengths, shares of the beginning, and of the rows."""
        seen = self.x @ self.network.layers[0].dense().T
        return seen, (self.x**2).sum(axis=1), np.ones(len(self.x)), np.zeros_like(seen)

    def sums(self, state: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        first = self.network.layers[0]
        z = state[0] + first.bias
        if not self.depth:
            return [z]
        return [z, *self.network.after(0).preactivations(first.activation.value(z), self.depth - 1)]

    def moved(
        self, state: tuple[np.ndarray, ...], back: Float[np.ndarray, "count k"], step: Float[np.ndarray, " count"]
    ) -> tuple[np.ndarray, ...]:
        (seen, square, share, rows), up = state, back @ self.gram
        size = np.maximum(np.einsum("ck,ck->c", back, up), 0)
        far = np.divide(step, np.sqrt(size), out=np.zeros_like(size), where=size > 0)
        square = square + 2 * far * np.einsum("ck,ck->c", back, seen) + far**2 * size
        part = np.minimum(1, self.most / np.sqrt(np.maximum(square, 1e-300)))
        seen, rows = (part[:, None] * (old + far[:, None] * new) for old, new in ((seen, up), (rows, back)))
        return seen, part**2 * square, part * share, rows

    def points(self, state: tuple[np.ndarray, ...]) -> Float[np.ndarray, "count n"]:
        _, _, share, rows = state
        return np.asarray(share[:, None] * self.x + rows @ self.network.layers[0].dense())


def mixtures(count: int, k: int, rng: np.random.Generator) -> Float[np.ndarray, "count k"]:
    """Weights of features whose sum, where it is largest, shows rare neurons behind them.

    A neuron that is on for some input at all has a positive weight, and if it hardly ever is, most others are negative:
    it is on where one or two features are active and the others are not, or hardly. One that is hardly ever off is so
    by a negative weight, at such points likewise. Of every feature in turn they meet rare neurons 3 to 30 times as
    often as points far out do; where a feature never outweighs all others, only those that let these be active a
    little do.

    Args:
        count: How many.
        k: Features.
        rng: Draws them.
    """
    light = np.where(np.arange(count) % 2 == 0, 1.0, LIGHTEST ** rng.random(count))
    weights = np.repeat(-light[:, None], k, axis=1)
    two = (light < 1) & (rng.random(count) < 0.5)
    weights[two, rng.integers(k, size=two.sum())] = rng.random(two.sum())
    one = np.concatenate([rng.permutation(k) for _ in range(-(-count // k))])[:count] if count else np.empty(0, int)
    weights[np.arange(count), one] = 1.0
    return weights


def _slopes(network: Network, depth: int, sums: list[np.ndarray], back: np.ndarray) -> np.ndarray:
    """Gradients by the input of `back @ sums[depth]`, one mixture per point; `sums` are its preactivations."""
    return np.asarray(_first_slopes(network, depth, sums, back) @ network.layers[0].dense())


def _first_slopes(network: Network, depth: int, sums: list[np.ndarray], back: np.ndarray) -> np.ndarray:
    """The same by what the first layer sees."""
    for level in range(depth, 0, -1):
        below = network.layers[level - 1]
        back = np.asarray(back @ network.layers[level].dense()) * below.activation.slope(sums[level - 1])
    return back


def check_points(network: Network, oracle: Oracle, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Legal points, the usual ones first; `count` in all."""
    hidden = len(network.layers) - 1
    usual, far, switched = (int(share * count) for share in (SHARES if hidden < 2 else SHARES_DEEP))
    groups = [oracle.sample(usual, rng)]
    if oracle.within is None:
        each = far // len(FURTHER)
        groups += [oracle.nearest(scale * oracle.sample(each, rng)) for scale in FURTHER]
    else:
        # Corners, some with most coordinates at one end: sums of many inputs are largest there.
        share = rng.choice([0.1, 0.5, 0.9], size=(far, 1))
        low, high = oracle.within
        groups.append(oracle.nearest(np.where(rng.random((far, oracle.n)) < share, high, low)))
    rest = count - sum(map(len, groups))
    odd = rest - switched if hidden else 0
    groups.append(oracle.nearest(switching(network, oracle.sample(rest - odd, rng), rng)))
    if odd:
        pool = oracle.sample(POOL, rng)
        size = float(np.median(np.linalg.norm(pool, axis=1)))
        # What the last layer's neurons are mixed into is the output, which is no neuron that could have been missed.
        behind = max(1, hidden - 1)
        counts = np.bincount(np.arange(odd) % behind, minlength=behind)
        parts = []
        for depth, each in enumerate(counts):
            most = size * np.repeat(FURTHER, (each - each // 2, each // 2))
            parts += [unusual(network, depth, pool, most, rng, oracle.within)] if each else []
        groups.append(oracle.nearest(np.concatenate(parts)))
    return groups


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.inf
