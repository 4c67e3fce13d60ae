"""Students: networks fitted to the same answers, whose disagreement chooses what is asked next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import parameters, polish
from unveil.identification.fitting.matrix_free import DAMPING, fit
from unveil.identification.fitting.measured import Measured
from unveil.identification.fitting.robust import STRAYS, off, trimmed_rms
from unveil.identification.surrogate.work import of_product
from unveil.whitebox.network import Network

FEW_PARAMETERS = 1500  # parameters up to which the normal equations are written down
# Answers per parameter in each step of least squares, and their limits.
PER_PARAMETER, FEWEST_STEP_ANSWERS, MOST_STEP_ANSWERS = 12.0, 5000, 40_000
# Steps of least squares per round and conjugate gradients in each, for up to so many parameters and for more: steps
# that are solved badly get nowhere.
STEPS_OF_USUAL, OF_MANY, MANY_PARAMETERS = (4, 200), (3, 60), 20_000
BRIEF = (2, 60)  # steps and conjugate gradients of a network that has lost neurons
# Steps where the normal equations are written down, answers per parameter, and the fewest.
STEPS_OF_FEW, PER_ONE_OF_FEW, FEWEST_OF_FEW = 12, 6.0, 500
CONDITIONED = 8192  # answers from which a step of many parameters is conditioned
LEAST_PRODUCTS = 20  # conjugate gradients below which a step is not worth beginning
# Share of a round's answers that are those with the largest errors, of so many times as many: of all there are they
# would be ever rarer ones, and the fit one of what hardly ever happens.
HARD, AMONG = 0.4, 4
# Candidates per question that students choose, and the share of a round's questions that they choose.
CANDIDATES_PER_QUESTION, CHOSEN = 8, 0.5
CANDIDATE_REACHES = (0.3, 1.0, 1.0, 2.0)  # how far out candidates lie, in usual lengths, where there is no box
CANDIDATE_DEVIATION = 0.1  # deviation of candidates about the examples, in units of their own


class Told(NamedTuple):
    """What a model answered."""

    x: np.ndarray  # (N, n) where it was asked
    y: np.ndarray  # (N, m) what it answered
    counts: np.ndarray  # (N, m) what the error of each answer is multiplied by: less where it is less precise
    strays: float = STRAYS  # share of the answers, the worst ones, that are left out where networks are compared

    def some(self, rows: Int[np.ndarray, " k"]) -> Told:
        """These answers alone."""
        return Told(self.x[rows], self.y[rows], self.counts[rows], self.strays)

    def and_(self, other: Told) -> Told:
        """Both."""
        x, y, counts = (np.concatenate(each) for each in zip(self[:3], other[:3], strict=True))
        return Told(x, y, counts, other.strays)


@dataclass(frozen=True)
class Student:
    """A network on its way."""

    network: Network  # as it is now
    damping: float  # of its next step
    best: Network  # the best one on answers it was not fitted to
    error: float  # root mean square error of that there, absolute, but for the worst `STRAYS` of the answers
    measured: Measured | None = None  # what was measured of its weights, which counts beside the answers

    @classmethod
    def begin(cls, network: Network, held: Told, measured: Measured | None = None) -> Student:
        """A student as it starts, held against answers it was not fitted to."""
        return cls(network, DAMPING, network, trimmed_rms(network, *held), measured)

    def again(self, network: Network, damping: float, held: Told) -> Student:
        """The student begun anew as this network, which may have lost neurons: then it is another one than measured."""
        measured = self.measured if network.widths == self.network.widths else None
        return replace(Student.begin(network, held, measured), damping=damping)

    def after(self, network: Network, damping: float, held: Told) -> Student:
        """The student as another network, the better one of both kept."""
        error = trimmed_rms(network, *held)
        best = (network, error) if error < self.error else (self.best, self.error)
        return replace(self, network=network, damping=damping, best=best[0], error=best[1])


def hard_ones(network: Network, told: Told, count: int, rng: np.random.Generator) -> Int[np.ndarray, " count"]:
    """Which answers to fit: the worst of some, and as many others at random as make up the count."""
    if len(told.x) <= count:
        return np.arange(len(told.x))
    some = rng.permutation(len(told.x))[: AMONG * count]
    order = some[np.argsort(-off(network, *told.some(some)[:3]), kind="stable")]
    hard = int(HARD * count)
    return np.sort(np.concatenate([order[:hard], rng.permutation(order[hard:])[: count - hard]]))


def tail_of(network: Network, first: int) -> tuple[int, Network]:
    """The layers from `first` on, or the last one, as a network without a hidden layer has no other; which is first."""
    first = min(first, len(network.layers) - 1)
    return first, Network(network.layers[first:])


def answers_per_step(network: Network, there: int, first: int = 0) -> int:
    """How many of the answers that there are a step of least squares on the layers from `first` on takes."""
    size = parameters(tail_of(network, first)[1])
    each, least = (PER_PARAMETER, FEWEST_STEP_ANSWERS) if size > FEW_PARAMETERS else (PER_ONE_OF_FEW, FEWEST_OF_FEW)
    return int(min(max(each * size / network.m, least), MOST_STEP_ANSWERS, there))


class Steps(NamedTuple):
    """A round of least squares, as it is planned."""

    times: int  # steps at most
    most: int  # products with the Jacobian in each at most; one step where the normal equations are written down
    each: float  # numbers multiplied by each of these
    beside: float  # and in all, once more

    @property
    def cost(self) -> float:
        """Numbers multiplied at most."""
        return self.each * self.times * self.most + self.beside if self.times else 0.0


def planned(network: Network, there: int, first: int = 0, brief: bool = False, allowed: float = np.inf) -> Steps:
    """What a round on the layers from `first` on is to be, and what it costs, told by weights times answers.

    `there`: answers that there are. `brief`: of a network that is right already or not worth more. `allowed`: numbers
    multiplied at most: fewer steps where they cost more, and none where not even one is worth it.
    """
    tail, answers = tail_of(network, first)[1], answers_per_step(network, there, first)
    size = parameters(tail)
    few = size <= FEW_PARAMETERS
    each = (float(size) ** 2 * tail.m if few else of_product(tail)) * answers
    count, most = (
        (STEPS_OF_FEW, 1) if few else BRIEF if brief else STEPS_OF_USUAL if size <= MANY_PARAMETERS else OF_MANY
    )
    # Every step is conditioned by what comes back from each output, of at most so many answers.
    beside = 0.0 if few else count * 2.0 * size * tail.m * min(answers, CONDITIONED)
    times = int(max(0.0, min(count * most, (allowed - beside) / each)))
    if times < (1 if few else LEAST_PRODUCTS):
        return Steps(0, 0, each, beside)
    return Steps(max(1, times // most), min(most, times), each, beside)


def fitted(  # noqa: PLR0913 - one round of a student, by name
    student: Student,
    told: Told,
    noise: float,
    rng: np.random.Generator,
    first: int = 0,
    *,
    brief: bool = False,
    allowed: float = np.inf,
) -> tuple[Network, float, float]:
    """A few damped steps of least squares, on hard answers and others; the next damping, and the numbers multiplied.

    `noise`: deviation of the answers' errors, absolute. `first`, `brief`, `allowed`: as of `planned`; at no cost where
    nothing is worth it.
    """
    network, damping = student.network, student.damping
    plan = planned(network, len(told.x), first, brief, allowed)
    if not plan.times:
        return network, damping, 0.0
    h, y, counts, _ = told.some(hard_ones(network, told, answers_per_step(network, len(told.x), first), rng))
    first, tail = tail_of(network, first)
    for layer in network.layers[:first]:
        h = layer(h)
    if parameters(tail) <= FEW_PARAMETERS:
        polished = polish(tail, h, y, noise=noise, steps=plan.times, weight=counts)
        tail, taken = polished.network, polished.steps
    else:
        # What few answers tell stays as it was measured; of few parameters, as above, answers tell all.
        held = None if student.measured is None else student.measured.behind(first)
        got = fit(
            tail, h, y, noise=noise, steps=plan.times, most=plan.most, damping=damping, counts=counts, measured=held
        )
        tail, damping, taken = got.network, got.damping, got.products
    work = max(plan.each * taken + plan.beside, 1.0)
    return Network((*network.layers[:first], *tail.layers), network.shape), damping, work


def questions(
    oracle: Oracle,
    networks: Sequence[Network],
    count: int,
    rng: np.random.Generator,
    examples: Float[np.ndarray, "E n"] | None = None,
) -> Float[np.ndarray, "count n"]:
    """Legal points to ask next: half as they come, half where the networks disagree most of many.

    `networks`: students; of a single one all points are as they come. `examples`: inputs of the model's use; half of
    all candidates lie about them and between them.
    """
    chosen = int(CHOSEN * count) if len(networks) > 1 else 0
    usual = candidates(oracle, count - chosen, rng, examples)
    if not chosen:
        return usual
    many = candidates(oracle, CANDIDATES_PER_QUESTION * chosen, rng, examples)
    told = np.stack([network(many) for network in networks])
    apart = told.std(axis=0).max(axis=1) / np.maximum(np.linalg.norm(many, axis=1), 1e-300)
    return np.concatenate([usual, many[np.argsort(-apart, kind="stable")[:chosen]]])


def candidates(
    oracle: Oracle, count: int, rng: np.random.Generator, examples: Float[np.ndarray, "E n"] | None = None
) -> Float[np.ndarray, "count n"]:
    """Legal points: as a user would draw them, nearer and further, and about the examples if there are any."""
    x = oracle.sample(count, rng)
    if oracle.within is None:
        x = x * rng.choice(CANDIDATE_REACHES, size=(count, 1))
    if examples is not None and len(examples):
        some = np.flatnonzero(np.arange(count) % 2)
        one, other = (examples[rng.integers(len(examples), size=len(some))] for _ in range(2))
        # Between two examples, mostly near the first, and a little beside it.
        part = rng.random((len(some), 1)) ** 2
        x[some] = one + part * (other - one)
        x[some] += (
            CANDIDATE_DEVIATION
            * examples.std()
            * rng.random((len(some), 1))
            * rng.standard_normal((len(some), oracle.n))
        )
    return oracle.nearest(x)
