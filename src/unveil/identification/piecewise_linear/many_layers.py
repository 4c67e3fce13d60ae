"""read_many_layers: one layer after the other from sightings measured once, where a line meets deeper neurons most."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from unveil.identification.fitting.output_layer import (
    EVERYTHING,
    AffineMap,
    Asked,
    Unsigned,
    ending_of_most,
    explain,
)
from unveil.identification.piecewise_linear.layer_candidates import Candidate
from unveil.identification.piecewise_linear.layer_choice import Chosen, choose
from unveil.identification.piecewise_linear.layer_step import LayerStep, ManyLayers
from unveil.identification.piecewise_linear.missed_in_layers import ROUGH, with_missed
from unveil.identification.piecewise_linear.sightings import Sightings

# Lines before any layer is read, and for each neuron of the first one more; rounds for each layer.
LINES, ROUNDS = 20, 6
BARREN = 2  # rounds in a row without another neuron, or answer explained, after which a layer is as whole as it will be
# Derivatives that must have been able to contradict a layer, and the share that may do so when nothing more is found.
TELLING, CONTRADICT = 30, 0.1
FEW = 0.02  # a smaller share is that of a neuron which hardly any input switches: it is not looked for any longer
# A layer that explains more of the answers is the last one; what a round that gains something makes of the share that
# is not.
LAST, LESS = 0.9, 0.8
NEAR = 100  # answers that are not explained near which unknown weights are looked for
PER_UNKNOWN, BESIDES = 6, 200  # fresh answers per unknown of a fit, and besides


def read_many_layers(sightings: Sightings, asked: Asked, most_layers: int) -> Iterator[ManyLayers]:
    """Layers behind the first one, as long as derivatives show that they are whole.

    `sightings`: none yet; its probe asks in the coordinates of what the first layer's neurons see. `asked`: keeps fresh
    answers; nothing yet. `most_layers`: hidden layers at most. Yields what was read, before the first layer and after
    every one. Queries: those of `LINES + d` lines, and of `ROUNDS` times twice `MORE d` for each layer at most.
    """
    state = ManyLayers(sightings.with_random(LINES + sightings.d), [(np.eye(sightings.d), np.zeros(sightings.d))])
    yield state
    kept, opened = state, dict[int, AffineMap]()
    missed: ManyLayers | None = None
    while len(state.layers) < most_layers:
        step, best, barren = LayerStep.of(state), None, 0
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
                if not len(bad):
                    return
                # Most that is wrong at first is so for rare neurons before.
                if missed and barren < BARREN and number < ROUNDS - 1:
                    step = replace(step.towards(bad), near=bad[:NEAR])
                    continue
                more = missed if missed and state.explained <= missed.explained else with_missed(state, asked)
                yield more
                if more is missed or more.explained <= state.explained:
                    return
                missed, state = more, replace(more, explained=LAST)
                break
            trial = _Trial.of(step)
            barren = 0 if best is None or len(trial.layer[1]) > len(best.layer[1]) else barren + 1
            best = trial if best is None or trial.rank >= best.rank else best
            layer, whole = best.step.completed_by_sums(best.chosen) if best.told else (best.layer, False)
            done = number == ROUNDS - 1 or barren >= BARREN
            done |= bool(best.told and ((barren and best.contradicted <= FEW) or (whole and not best.contradicted)))
            had = opened.get(len(state.layers) + 1)
            if done and best.told and best.contradicted <= CONTRADICT and (had is None or not _same(layer, had)):
                state = replace(step.state, layers=[*state.layers, layer], partial=None)
                if had is not None and len(had[1]) < len(layer[1]):
                    # What lies behind it was read without that neuron.
                    opened = {depth: old for depth, old in opened.items() if depth < len(state.layers)}
                yield state
                break
            if done:
                depth = len(state.layers)
                kept = kept if len(kept.layers) > depth else replace(step.state, partial=step.partial)
                if depth == 1 or depth in opened:
                    yield kept
                    return
                # The lines searched since may have met a neuron that is missing from the layer before, or a weight.
                opened[depth] = state.layers[-1]
                state = replace(step.state, layers=state.layers[:-1])
                break
            step = step.looked((trial.right, trial.wrong))
        else:
            return


def _same(layer: AffineMap, other: AffineMap) -> bool:
    """Whether two layers have the same neurons, in any order."""
    one, two = (np.column_stack(each) for each in (layer, other))
    return one.shape == two.shape and bool((np.abs(one[:, None] - two).max(axis=2).min(axis=1) < ROUGH).all())


@dataclass(frozen=True)
class _Trial:
    """What a round made of a layer."""

    step: LayerStep  # the round
    chosen: Chosen  # its candidates taken for the layer
    layer: AffineMap  # these, signs settled
    right: Float[np.ndarray, "R d"]  # where the layer could have been contradicted, and was not
    wrong: Float[np.ndarray, "W d"]  # where it was
    told: bool  # whether enough could have contradicted it

    @classmethod
    def of(cls, step: LayerStep) -> _Trial:
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
