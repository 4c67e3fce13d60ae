"""Beginning: what the students of one run begin as: shapes behind what was read, and a training of each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from unveil.blackbox.oracle import Oracle
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.fitting.output_layer import with_output
from unveil.identification.fitting.robust import rms, trimmed_rms
from unveil.identification.fitting.training import BATCH, FEWEST_BATCHES, free_network, train
from unveil.identification.surrogate.run import Known, Run, Wanted, widened, with_free
from unveil.identification.surrogate.shapes import (
    BEHIND_ROWS,
    BEHIND_SEVERAL,
    FREE_NEURONS,
    SEVERAL_MORE,
    UNKNOWN_WIDTHS,
    USUAL_SHAPES,
    shapes,
)
from unveil.identification.surrogate.students import FEW_PARAMETERS, Told
from unveil.identification.surrogate.work import of_gradient, of_gradient_of
from unveil.whitebox.network import Network

STUDENT_BATCHES = (3000, 300)  # batches of stochastic gradients at the start, and where least squares do not cost more
# Where several layers are unknown least squares get nowhere before many of them: the best student is trained on, in
# batches so many times as large.
MANY_BATCHES, LARGER_BATCH_FACTOR = 30_000, 4
# Share of the work that all students may be trained for, and of what that leaves that the best one is trained on for.
TRAINED, TRAINED_ON = 0.5, 0.95
LONG_TRAINING_SHARE = 0.2  # the same of students behind layers that were read, together
# A network that leaves less than this share of the answers' deviation lacks nothing but neurons or digits.
WELL = 0.01


class Beginning(Run):
    """One run on values, as far as its students' beginning.

    `told`: answers to fit to. `held`: answers that no student is fitted to. `deep`: several layers were read, all of
    the neurons that usual inputs switch. `blind`: several more lie behind, and stochastic gradients do most. `anew`:
    least squares got nowhere near behind what was read.
    """

    def __init__(self, method: Wanted, oracle: Oracle, rng: np.random.Generator) -> None:
        super().__init__(method, oracle, rng)
        nothing = np.empty((0, oracle.m))
        self.told = self.held = Told(np.empty((0, oracle.n)), nothing, nothing)
        self.best = method.known.network
        self.deep = self.blind = self.anew = False

    def _begun(self) -> list[Network]:
        """Students of several shapes after a short training, the best ones of them."""
        known = self.method.known
        read = known.network if known.network is not None and len(known.network.layers) > 1 else None
        if read is not None and self._well(read):
            return self._with_free(read)
        # One that is far off may lack a layer, and then no fit mends it: it is kept only as the best so far.
        behind = self._tried(known)
        # Rows that are none do harm: what was read is not begun with where a free student is nearer.
        free = self._tried(Known()) if self.anew and (known.layers or known.rows is not None) else []
        begun = [*behind, *free]
        begun.sort(key=lambda network: rms(network, *self.held[:3]))
        if read is not None and not self.anew and rms(read, *self.held[:3]) < rms(begun[0], *self.held[:3]):
            return self._with_free(read)
        if self.blind:
            first = len(known.layers) if any(begun[0] is each for each in behind) else 0
            return [self._trained(begun[0], first, MANY_BATCHES, TRAINED_ON, LARGER_BATCH_FACTOR * BATCH)]
        return self._trained_long(begun[: max(self.method.students, len(BEHIND_SEVERAL) * self.deep)])

    def _trained_long(self, begun: list[Network]) -> list[Network]:
        """Students after a long training of the layers behind those read, one after the other until one is nearly
        right; that one alone then.

        Such layers are few parameters, which cost little in gradients, and too many for normal equations: no rounds of
        least squares lead out of where a short training leaves them. `begun`: the best one first.
        """
        first = len(self.method.known.layers)
        if not first or self.deep or parameters(Network(begun[0].layers[first:])) <= FEW_PARAMETERS:
            return begun
        out = list[Network]()
        for i, each in enumerate(begun):
            after = self._trained(each, first, MANY_BATCHES, LONG_TRAINING_SHARE / (len(begun) - i))
            out.append(min(each, after, key=lambda one: rms(one, *self.held[:3])))
            if self._well(out[-1]):
                return out[-1:]
        return out

    def _tried(self, known: Known) -> list[Network]:
        """Students of several shapes behind what is known, after a short training."""
        x, h, y = self.told.x, self.told.x, self.told.y
        layers, rows = widened(known, 0 if self.deep else FREE_NEURONS, x, self.rng)
        for layer in layers:
            h = layer(h)
        begun, wide = list[Network](), self._shapes(h.shape[1], 0 if rows is None else len(rows[0]), known)
        for i, widths in enumerate(wide):
            network = free_network(layers, rows, widths, x, self.oracle.m, self.rng, self.method.activation)
            network = Network(with_output(network.layers[:-1], x, y).layers, self.oracle.shape)
            tail = Network(network.layers[len(layers) :])
            steps = STUDENT_BATCHES[parameters(tail) <= FEW_PARAMETERS]
            trial = self._trained(network, len(layers), steps, TRAINED / (len(wide) - i))
            # Where most of what lies behind was read too, a short training is a step back.
            begun.append(min(network, trial, key=lambda each: rms(each, *self.held[:3])))
        return begun

    def _with_free(self, read: Network) -> list[Network]:
        """What was read; neurons that it lacks need not disturb those that it has: the others begin with some that send
        nothing on."""
        return [read, *(with_free(read, FREE_NEURONS, self.told.x, self.rng) for _ in range(self.method.students - 1))]

    def _trained(self, network: Network, first: int, steps: int, share: float, batch: int = BATCH) -> Network:
        """A network after stochastic gradients on the layers from `first` on, for a share of the work that is left at
        most. `steps`: batches at most. `batch`: answers in each."""
        each = batch * of_gradient(Network(network.layers[first:]))
        steps = self.work.times(each, steps, share)
        if steps < FEWEST_BATCHES:
            return network
        self.work.done += steps * each
        x, y, counts, _ = self.told
        return train(network, x, y, self.rng, first=first, steps=steps, counts=counts, batch=batch)

    def _shapes(self, last: int, rows: int, known: Known) -> list[tuple[int, ...]]:
        """Hidden widths behind the layers that are known, one per student or more."""
        if self.method.widths is not None:
            rest = self.method.widths[len(known.layers) :]
            wide = tuple(max(1, int(np.ceil(self.method.factor * width))) for width in rest)
            return [wide] * self.method.students
        if self.deep:
            return shapes(BEHIND_SEVERAL, last, rows)
        least, most = UNKNOWN_WIDTHS
        if self.blind:  # few inputs say nothing about how many neurons a deep network has
            return shapes(SEVERAL_MORE, last if known.layers else most, rows)
        # Most of a layer of which rows were read is known: what lies behind it is the output, or one more.
        size = last if known.layers else int(np.clip(last, least, most))
        return shapes(BEHIND_ROWS if rows else USUAL_SHAPES, size, rows)

    def _well(self, network: Network) -> bool:
        """Whether a network is so near that what it lacks is a neuron or some digits, not a layer."""
        _, y, counts, _ = self.held
        spread = float(np.sqrt(((counts * (y - y.mean(axis=0))) ** 2).mean())) or 1.0
        return trimmed_rms(network, *self.held) <= WELL * spread

    def _spread(self) -> float:
        return float((self.held.y - self.held.y.mean(axis=0)).std()) or 1.0

    def _gradient(self) -> float:
        """Numbers multiplied per answer by one gradient of the largest student."""
        known = self.method.known
        last = known.layers[-1].neurons if known.layers else self.oracle.n
        sizes = [(last, *widths, self.oracle.m) for widths in self._shapes(last, 0, known)]
        return max(of_gradient_of(sum(a * b for a, b in pairwise(each)), sum(each[1:])) for each in sizes)
