"""Deeper: what a reading behind the first layer has so far, handed from step to step, and what it is held to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np
from jaxtyping import Float

from unveil.blackbox.line import Line
from unveil.identification.check_points import FURTHER, unusual_everywhere
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.output_layer import AffineMap, Asked, Unsigned
from unveil.identification.piecewise_linear.behind import Behind
from unveil.identification.piecewise_linear.critical_point import CriticalPoint, points_of, row_space
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.layer_candidates import Views
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import explained, local
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Setup
from unveil.identification.piecewise_linear.sign_recovery import dependent
from unveil.whitebox.network import Network

RARE_SWITCH_SCALES = (1.0, 3.0, 10.0)  # how far out, in typical inputs, neurons may switch that hardly do so nearby
CLIMBING_POINTS = 2000  # points from which the most unusual ones are climbed to


@dataclass(frozen=True)
class Points:
    """Draws inputs."""

    frame: Frame  # where a user would
    far: float  # how far lines reach, in typical inputs; points stay well inside
    rng: np.random.Generator  # draws

    def usual(self, count: int) -> Float[np.ndarray, "count n"]:
        """Points as a user would draw them, and from somewhat further out."""
        x = self.frame.sample(count, self.rng)
        scales = np.minimum([1.0, 1.0, 2.0, 4.0], max(1.0, self.far / 10))
        return x * self.rng.choice(scales, size=(count, 1)) if self.frame.free else x

    def out(self, count: int, scale: float) -> Float[np.ndarray, "count n"]:
        """Points so many times as far out as a user would draw them, if lines reach there."""
        x = self.frame.sample(count, self.rng)
        return x * min(scale, max(1.0, self.far / 10)) if self.frame.free else x

    def unusual(self, network: Network, count: int) -> Float[np.ndarray, "count n"]:
        """Points where a neuron behind one of the hidden layers that is rarely active would be so."""
        pool = self.frame.sample(CLIMBING_POINTS, self.rng)
        scales = FURTHER if self.far >= 10 * FURTHER[-1] else (FURTHER[0], FURTHER[0])
        return unusual_everywhere(network, count, pool, self.rng, self.frame.within, scales)


def refuting(
    asked: Asked, network: Network, points: Points, fine: float, outside: bool
) -> tuple[Float[np.ndarray, "N n"], Float[np.ndarray, "N m"]] | None:
    """Fresh points and answers some of which disagree, None where all agree: a few first, as many do not tell more.

    `asked`: answers questions, and keeps these however many there are. `fine`: errors allowed, in units of the largest
    answer. `outside`: whether it should agree far out, too. Queries: at most a third of the parameters per output, 100
    to 1,000.
    """
    checks = int(np.clip(parameters(network) / (3 * network.m), 100, 1000))
    for count in (30, 70, checks - 100):
        if count:
            part = 3 * count // 8
            far = points.out(part if outside else 0, FURTHER[-1])
            odd = points.unusual(network, part)
            x = asked.oracle.nearest(np.concatenate([odd, far, points.usual(count - len(odd) - len(far))]))
            y = asked.oracle(x)
            asked.hold(x, y)
            if np.abs(network(x) - y).max() >= fine * np.abs(y).max():
                return x, y
    return None


LONGEST_LINE_REACH = 300.0  # how far lines reach, in typical inputs
FAR_CHECKS = 8  # how often a network that is right nearby is still held against answers from far out
# How often critical points are held against neurons before a reading ends that explains fewer than half of them.
MOST_COMPARISONS = 1_000_000
UNMERGED = 500  # critical points of which none begins a neuron, after which a reading ends
# Most critical points that no neuron explains, and share of all, where nearly everything is explained.
MOST_OPEN_POINTS, OPEN_POINTS_SHARE = 2, 0.15
# A critical point of a deeper layer is one of this reading if the layers before pass on so much of its normal.
PASSED_ON = 0.9


@dataclass(frozen=True)
class Candidates:
    """What may be neurons of the layer being read."""

    views: Views | None = None  # the critical points behind the layers read that these come from
    held: int = 0  # of how many critical points these are, the first ones
    merged: tuple[Neuron, ...] = ()  # what may explain them
    neurons: tuple[Neuron, ...] = ()  # those of them that were met wherever they should have been
    # those of these met so often that a search for their unknown weights is worth it while others are missing
    certain: tuple[Neuron, ...] = ()
    alone: tuple[Neuron, ...] = ()  # those met once
    open: int = 0  # how many critical points none of `neurons` explains
    # how often each unknown weight, of the neuron with this key and so many known ones, was looked for
    tried: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    proven: frozenset[int] = frozenset()  # keys of neurons that a nearly right network calls for
    # how often a set of them (keys, and bits of how many critical points each was met at) was taken for the whole
    # layer, but is not
    refuted: frozenset[frozenset[tuple[int, int]]] = frozenset()
    # what explained some of the answers last: whole neurons (keys, and how many known weights), and the fit
    explained: tuple[frozenset[tuple[int, int]], Unsigned, np.ndarray] | None = None
    # the network fitted to the last digits, and which neurons it has (keys) with how many known weights
    fitted: tuple[frozenset[tuple[int, int]], Network] | None = None

    def with_given(self, neurons: Sequence[Neuron]) -> Candidates:
        """With neurons read in another way."""
        return replace(self, merged=(*self.merged, *neurons))


@dataclass(frozen=True)
class Deeper:
    """What was read so far behind the first layer."""

    points: Points  # draws inputs, and knows where they may be
    fine: float  # errors of the last network's answers, in units of the largest one
    layers: list[AffineMap]  # read whole, signs settled; never changed in place
    error: float  # of the rows of these layers
    lines: tuple[Line, ...]  # searched
    seen: tuple[CriticalPoint, ...]  # critical points of deeper layers
    stations: tuple[Station, ...]  # where derivatives were measured
    right: Float[np.ndarray, "R n"]  # where what was read explains the answers
    wrong: Float[np.ndarray, "W n"]  # where it does not
    examined: frozenset[CriticalPoint] = frozenset()  # critical points that were held against the layers read before
    candidates: Candidates = field(default_factory=Candidates)  # for the layer being read
    last: bool = False  # whether that is known to be the last hidden one
    # whether neurons of the layer before depend on each other: where they are active together, nothing tells their
    # weights apart
    parallel: bool = False
    barren: int = 0  # lines in a row that showed nothing new
    turn: int = 0  # lines in all
    patience: int = FAR_CHECKS  # how often a network that is right nearby is still held against answers from far out
    work: int = 0  # how often a critical point was held against a neuron of the layer being read
    network: Network | None = None  # the best so far
    explained: float = 0.0  # largest share of the answers that neurons met so far explained
    residual: float = np.inf  # its largest error on what was asked; infinite where it fails on fresh points
    before: Deeper | None = None  # what was read when the last of these layers was taken for whole
    doubted: int = 0  # how many critical points no neuron explained when that was last doubted

    @classmethod
    def begun(
        cls,
        setup: Setup,
        frame: Frame,
        layer: AffineMap,
        found: LayerFound,
        given: list[Neuron],
        stations: list[Station],
    ) -> Deeper:
        """Behind a first layer, with lines no further out than `LONGEST_LINE_REACH`."""
        given = [replace(n, key=-1 - i) for i, n in enumerate(given)]
        # Each was followed across most of the layer before.
        proven = frozenset(n.key for n in given) if len(layer[0]) > frame.d else frozenset[int]()
        seen = []
        for one in points_of(frame, found.bent):
            span = row_space(local([layer], one.x)[1])
            normal = span @ (span.T @ one.normal)
            size = float(np.linalg.norm(normal))
            if size > PASSED_ON:
                error = one.error + float(np.sqrt(1 - min(size, 1.0) ** 2))
                seen.append(replace(one, normal=normal / size, error=error))
        return cls(
            points=Points(frame, min(setup.far, LONGEST_LINE_REACH), setup.probe.rng),
            fine=setup.fine,
            layers=[layer],
            error=max(float(found.straight.error.max()), 1e-12),
            lines=tuple(found.searched),
            seen=tuple(seen),
            stations=(*found.stations(frame), *stations),
            right=found.at[:0],
            wrong=found.at[:0],
            parallel=len(layer[0]) <= frame.d and bool(dependent(layer[0]).any()),
            candidates=Candidates(proven=proven).with_given(given),
        )

    @property
    def frame(self) -> Frame:
        """Where inputs may be."""
        return self.points.frame

    def known(self, probe: Probe) -> Behind:
        """What was read, as a search goes by it."""
        return Behind(probe, self.frame, self.layers, [np.full(len(b), self.error) for _, b in self.layers])

    @property
    def follows(self) -> bool:
        """Whether neurons are followed across the layer before: behind a first one wider than the input or with
        parallel rows no critical point tells all weights."""
        wide = len(self.layers[0][1]) > self.frame.d
        return len(self.layers) == 1 and self.frame.free and (self.parallel or wide)

    @property
    def spent(self) -> bool:
        """Whether critical points of too many neurons stand against each other: deeper ones, not of this layer. Or none
        begins a neuron, as where many more neurons are active than an input has coordinates."""
        crowded = self.work > MOST_COMPARISONS and 2 * self.candidates.open > len(self.seen)
        return crowded or (len(self.seen) > UNMERGED and not self.candidates.merged)

    @property
    def nearly(self) -> bool:
        """Whether nearly everything met is explained."""
        return self.last or self.few_open

    @property
    def few_open(self) -> bool:
        """Whether hardly any critical point is without a neuron."""
        return self.candidates.open <= max(MOST_OPEN_POINTS, OPEN_POINTS_SHARE * len(self.seen))

    @property
    def unexplained(self) -> list[int]:
        """Critical points that no neuron explains."""
        explained = {i for n in self.candidates.neurons for i in n.members}
        return [i for i in range(len(self.seen)) if i not in explained]

    def ending(self, layer: AffineMap) -> Deeper:
        """With this layer taken for the last hidden one: nothing is left for another."""
        every = enumerate(zip(*layer, strict=True))
        neurons, old = tuple(Neuron.given(*each, self.error, key=-1 - i) for i, each in every), self.candidates
        candidates = Candidates(views=old.views, held=old.held, neurons=neurons, tried=old.tried).with_given(neurons)
        return replace(self, candidates=candidates, last=True)

    def behind(self, layer: AffineMap) -> Deeper:
        """Behind one more layer; what it explains of the critical points is left out."""
        layers = [*self.layers, layer]
        theirs = explained(layers, np.array([each.x for each in self.seen]).reshape(-1, layers[0][0].shape[1]))
        seen = tuple(compress(self.seen, ~theirs))
        return replace(
            self,
            layers=layers,
            seen=seen,
            candidates=Candidates(),
            wrong=self.wrong[:0],
            barren=0,
            explained=0.0,
            work=0,
            last=False,
            parallel=False,
            before=self,
            doubted=0,
        )

    def reopened(self) -> Deeper:
        """Before the layer read last was taken for whole, with all that was met since."""
        assert self.before is not None
        old = set(self.before.seen)
        return replace(
            self.before,
            lines=self.lines,
            seen=(*self.before.seen, *(each for each in self.seen if each not in old)),
            stations=self.stations,
            network=self.network,
            residual=self.residual,
            patience=self.patience,
            turn=self.turn,
            barren=0,
            work=0,
        )
