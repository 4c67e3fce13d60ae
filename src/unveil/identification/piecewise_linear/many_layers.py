"""read_many_layers: one layer after the other from sightings measured once, where a line meets deeper neurons most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.output_layer import (
    EVERYTHING,
    AffineMap,
    Asked,
    Unsigned,
    after,
    ending_of_most,
    explain,
)
from unveil.identification.piecewise_linear.completeness import leaks
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer_candidates import Candidate, Views, candidates
from unveil.identification.piecewise_linear.layer_choice import MET, Chosen, choose
from unveil.identification.piecewise_linear.sightings import Sightings
from unveil.identification.piecewise_linear.weight_completion import complete_weights, places
from unveil.identification.piecewise_linear.weights_from_sums import weights_from_sums
from unveil.whitebox.network import Network

# Lines before any layer is read, and for each neuron of the first one more; rounds for each layer; lines of each kind
# in a round for each neuron of the first.
LINES, ROUNDS, MORE = 20, 6, 0.5
BARREN = 2  # rounds in a row without another neuron, or answer explained, after which a layer is as whole as it will be
# Places where unknown weights are looked for at once, other breakpoints near them at most, and how often.
AT_ONCE, OTHERS, TIMES = 24, 20, 3
# Points and directions among which these places are chosen, near and around the critical points of each neuron.
ANYWHERE, BESIDE, NEARBY = 150, 12, 0.1
# Places where a layer is asked whether a neuron is missing, of so many times as many where no unknown weight matters.
LOOKS, AMONG = 300, 4
# Derivatives that must have been able to contradict a layer, and the share that may do so when nothing more is found.
TELLING, CONTRADICT = 30, 0.1
FEW = 0.02  # a smaller share is that of a neuron which hardly any input switches: it is not looked for any longer
# A layer that explains more of the answers is the last one; errors of answers that are explained; what a round that
# gains something makes of the share that is not.
LAST, ROUGH, LESS = 0.9, 1e-6, 0.8
PER_UNKNOWN, BESIDES = 6, 200  # fresh answers per unknown of a fit, and besides
# A line from a point that is not explained ends at one of so many that are and have much the same neurons active.
NEAREST = 6


@dataclass(frozen=True)
class ManyLayers:
    """What was read."""

    sightings: Sightings  # what all lines showed
    layers: list[AffineMap]  # behind the first one, signs settled; the first of the list is that one in its own values
    partial: AffineMap | None = None  # rows and biases of the next one, of which some may be missing, up to sign
    # from the first layer's values on, if the answers end behind what was read; else None
    network: Network | None = None
    explained: float = 0.0  # share of fresh answers that it explains

    @property
    def open(self) -> bool:
        """Whether the network does not explain all answers."""
        return self.explained < 1.0


def read_many_layers(sightings: Sightings, asked: Asked, most_layers: int) -> Iterator[ManyLayers]:
    """Layers behind the first one, as long as derivatives show that they are whole.

    `sightings`: none yet; its probe asks in the coordinates of what the first layer's neurons see. `asked`: keeps fresh
    answers; nothing yet. `most_layers`: hidden layers at most. Yields what was read, before the first layer and after
    every one. Queries: those of `LINES + d` lines, and of `ROUNDS` times twice `MORE d` for each layer at most.
    """
    state = ManyLayers(sightings.with_random(LINES + sightings.d), [(np.eye(sightings.d), np.zeros(sightings.d))])
    yield state
    kept, opened = state, dict[int, int]()
    while len(state.layers) < most_layers:
        step, best, barren = _Step.of(state), None, 0
        for number in range(ROUNDS):
            step = step.with_candidates().completed()
            state = replace(state, sightings=step.state.sightings, partial=step.partial)
            if not step.found:
                step = step.looked(None)
                continue
            ended, bad = _ended(state, step.found, asked)
            if ended.explained > LAST:
                barren = 0 if 1 - ended.explained < LESS * (1 - state.explained) else barren + 1
                state = ended
                yield state
                if not len(bad) or barren >= BARREN:
                    return
                step = step.towards(bad)
                continue
            trial = _Trial.of(step)
            barren = 0 if best is None or len(trial.layer[1]) > len(best.layer[1]) else barren + 1
            best = trial if best is None or trial.rank >= best.rank else best
            done = number == ROUNDS - 1 or barren >= BARREN
            layer, whole = best.step.completed_by_sums(best.chosen) if best.told else (best.layer, False)
            if whole and (not best.contradicted or (barren and best.contradicted <= FEW)):
                done = True
            if done and best.told and best.contradicted <= CONTRADICT:
                layers = [*state.layers, layer]
                state = replace(step.state, layers=layers, partial=None)
                had = opened.get(len(layers))
                if had is not None and had >= len(best.layer[1]):
                    # Nothing had been missing from it.
                    yield replace(kept, sightings=state.sightings)
                    return
                if had is not None:
                    # What lies behind it was read without that neuron.
                    opened = {depth: count for depth, count in opened.items() if depth < len(layers)}
                yield state
                break
            if done:
                depth = len(state.layers)
                kept = kept if len(kept.layers) > depth else replace(step.state, partial=step.partial)
                if depth == 1 or depth in opened:
                    yield kept
                    return
                # The lines searched since may have met a neuron that is missing from the layer before.
                opened[depth] = len(state.layers[-1][1])
                state = replace(step.state, layers=state.layers[:-1])
                break
            step = step.looked((trial.right, trial.wrong))
        else:
            return


@dataclass(frozen=True)
class _Trial:
    """What a round made of a layer."""

    step: _Step  # the round
    chosen: Chosen  # its candidates taken for the layer
    layer: AffineMap  # these, signs settled
    right: Float[np.ndarray, "R d"]  # where the layer could have been contradicted, and was not
    wrong: Float[np.ndarray, "W d"]  # where it was
    told: bool  # whether enough could have contradicted it

    @classmethod
    def of(cls, step: _Step) -> _Trial:
        """By derivatives and deeper normals, and by how answers change where the layer does not."""
        chosen = choose(step.state.sightings, step.views, step.state.layers, step.found)
        layer, right, wrong = step.leaking(chosen)
        right, wrong = np.concatenate([right, chosen.right]), np.concatenate([wrong, chosen.wrong])
        return cls(step, chosen, layer, right, wrong, len(chosen.right) >= TELLING)

    @property
    def contradicted(self) -> float:
        """The share of what could have contradicted it that does."""
        return len(self.wrong) / max(len(self.right) + len(self.wrong), 1)

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """The better the larger; of equals the later one was asked more."""
        return self.told, self.contradicted <= CONTRADICT, self.contradicted <= FEW, len(self.layer[1])


@dataclass(frozen=True)
class _Step:
    """One layer being read."""

    state: ManyLayers  # what was read before
    views: Views  # critical points behind it
    found: list[Candidate]  # candidates
    old: int  # how many views these come from
    tried: Counter[tuple[int, int]]  # how often each unknown weight was looked for, by what was known of its neuron

    @classmethod
    def of(cls, state: ManyLayers) -> _Step:
        """Before any candidate."""
        return cls(state, Views.of(state.sightings, state.layers), [], 0, Counter())

    @property
    def lines(self) -> int:
        """Lines of each kind in a round."""
        return max(2, int(MORE * self.state.sightings.d))

    @property
    def trusted(self) -> list[Candidate]:
        """Candidates met nearly wherever they should be."""
        return [one for one in self.found if one.should >= 6 and one.were >= MET * one.should]

    @property
    def partial(self) -> AffineMap | None:
        """Rows and biases of these."""
        some = [one for one in self.trusted if one.whole]
        return (np.array([one.weights for one in some]), np.array([one.bias for one in some])) if some else None

    def with_candidates(self) -> _Step:
        """From all that was seen so far."""
        sightings, layers = self.state.sightings, self.state.layers
        views = Views.of(sightings, layers)
        found = candidates(sightings.lines, views, layers, self.found, self.old)
        return replace(self, views=views, found=found, old=len(views.which))

    def completed(self) -> _Step:
        """With unknown weights looked for where they have just begun to matter."""
        step = self
        for _ in range(TIMES):
            some = [one for one in step.trusted if not one.whole]
            seen = step._met_at(some) if some else []
            if not seen:
                break
            state = replace(step.state, sightings=step.state.sightings.with_points(seen))
            step = replace(step, state=state).with_candidates()
        return step

    def _met_at(self, some: list[Candidate]) -> list:  # type: ignore[type-arg]
        sightings, layers = self.state.sightings, self.state.layers
        rng, d = sightings.probe.rng, sightings.d
        neurons = [one.neuron(self.views) for one in some]
        base = np.concatenate([sightings.unusual(ANYWHERE), sightings.usual(ANYWHERE)])
        near = np.concatenate([rng.choice(np.flatnonzero(one.members), BESIDE) for one in some])
        beside = sightings.x[self.views.which[near]] + NEARBY * rng.standard_normal((len(near), d))
        direction = np.concatenate([rng.standard_normal(base.shape), self.views.normal[near]])
        everywhere, base = Frame.of_input(d, None), np.concatenate([base, beside])
        there = places(layers, neurons, base, direction, self.tried, OTHERS, everywhere)[:AT_ONCE]
        if not there:
            return []
        self.tried.update((place.neuron, place.unknown) for place in there)
        return complete_weights(sightings.probe, layers, neurons, there, everywhere)[0]

    def leaking(self, chosen: Chosen) -> tuple[AffineMap, np.ndarray, np.ndarray]:
        """The layer, and where it explains how answers change and where not. Queries: `2 LOOKS`."""
        sightings, side, use = self.state.sightings, chosen.side, chosen.use
        W, b = np.array([one.weights for one in self.found]), np.array([one.bias for one in self.found])
        layer = (W * side[:, None])[use], (b * side)[use]
        x = np.empty((0, sightings.d))
        if not use.any():
            return layer, x, x
        x = np.concatenate([sightings.unusual(AMONG * LOOKS), sightings.usual(AMONG * LOOKS)])
        unknown = np.array([~one.known for one in self.found])[use].any(axis=0)
        x = x[~(after(self.state.layers, x)[:, unknown] > 0).any(axis=1)]
        x = sightings.probe.rng.permutation(x)
        return layer, *leaks(sightings.probe, self.state.layers, layer, x, LOOKS, 1e-9)

    def completed_by_sums(self, chosen: Chosen) -> tuple[AffineMap, bool]:
        """The layer with unknown weights that derivatives tell, and whether all are."""
        side, use = chosen.side, chosen.use
        found = weights_from_sums(self.state.sightings, self.state.layers, self.found, side, use)
        W, b = np.array([one.weights for one in found]), np.array([one.bias for one in found])
        whole = all(one.whole for one, used in zip(found, use, strict=True) if used)
        return ((W * side[:, None])[use], (b * side)[use]), whole

    def looked(self, told: tuple[np.ndarray, np.ndarray] | None) -> _Step:
        """With lines from where the layer is wrong to where it is right, and others."""
        step = self
        if told is not None and len(told[0]) and len(told[1]):
            step = step.towards(told[1], told[0])
        return replace(step, state=replace(step.state, sightings=step.state.sightings.with_random(step.lines)))

    def towards(self, wrong: Float[np.ndarray, "W d"], right: Float[np.ndarray, "R d"] | None = None) -> _Step:
        """With lines from some of these points to explained ones at which much the same neurons are active."""
        sightings, layers = self.state.sightings, self.state.layers
        rng = sightings.probe.rng
        right = sightings.usual(LOOKS) if right is None else right
        start = wrong[rng.integers(len(wrong), size=self.lines)]
        there = _pattern(layers, right)
        nearest = [np.argsort((_pattern(layers, x[None]) != there).sum(axis=1))[:NEAREST] for x in start]
        end = right[[rng.choice(each) for each in nearest]]
        return replace(self, state=replace(self.state, sightings=sightings.between(start, end)))


def _pattern(layers: list[AffineMap], x: Float[np.ndarray, "N d"]) -> np.ndarray:
    """Which neurons of these layers are active."""
    out = []
    for W, b in layers:
        z = x @ W.T + b
        out.append(z > 0)
        x = np.maximum(z, 0)
    return np.concatenate(out, axis=1)


def _ended(state: ManyLayers, found: list[Candidate], asked: Asked) -> tuple[ManyLayers, Float[np.ndarray, "B d"]]:
    """With the network whose last hidden layer these are, as far as they explain fresh answers, and where they do not.
    Queries: `PER_UNKNOWN` per unknown of the fit, and `BESIDES`."""
    rows, bias, known = (np.array([getattr(one, name) for one in found]) for name in ("weights", "bias", "known"))
    rng, d = state.sightings.probe.rng, state.sightings.d
    need = PER_UNKNOWN * (sum(rows.shape) + 1 + int((~known).sum())) + BESIDES - sum(map(len, asked.x))
    if need > 0:
        x = rng.standard_normal((need, d)) * rng.choice([1.0, 1.0, 3.0], size=(need, 1))
        asked.keep(x, state.sightings.probe.ask(x))
    size = float(np.sqrt(d))
    unsigned, solution, fits = explain(Unsigned(state.layers, rows, bias, known), asked, size, ROUGH)
    share = float(fits.mean())
    if share <= max(LAST, state.explained):
        return replace(state, explained=max(share, state.explained)), asked.all()[0][~fits]
    x, y = asked.all()
    # Where a rare neuron is missing answers obey another law, and would be spread over all weights.
    right = fresh_answers(asked)
    right.keep(x[fits], y[fits])
    network = ending_of_most(unsigned, solution, right, size, ROUGH)
    return replace(state, network=network, explained=share), x[~fits]


def fresh_answers(asked: Asked) -> Asked:
    """Where answers in these coordinates are kept, apart from others."""
    return Asked(asked.oracle, most=EVERYTHING)
