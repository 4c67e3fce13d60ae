"""read_many_layers: where lines meet far more neurons of deeper layers than of the first, all from one search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import linalg

from unveil.identification.fitting.output_layer import (
    EVERYTHING,
    AffineMap,
    Asked,
    Unsigned,
    ending_of_most,
    explain,
)
from unveil.identification.piecewise_linear.closing import close
from unveil.identification.piecewise_linear.critical_point import across
from unveil.identification.piecewise_linear.derivative_sums import Chosen
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.few_directions import Directions
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.layer_choice import choose
from unveil.identification.piecewise_linear.layer_step import LayerStep, ManyLayers
from unveil.identification.piecewise_linear.missed_in_layers import EXPLAINED_ANSWER_ERROR, with_missed
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sharpening import worst_sharpened
from unveil.identification.piecewise_linear.sightings import Sightings, among_values
from unveil.whitebox.network import Network

# Lines before any layer is read, and for each neuron of the first one more; rounds for each layer.
LINES_AT_START, ROUNDS_PER_LAYER = 20, 6
# Rounds in a row without another neuron, or answer explained, after which a layer is as whole as it will be.
BARREN_ROUNDS = 2
# Derivatives that must have been able to contradict a layer, and the share that may do so when nothing more is found.
TELLING_DERIVATIVES, CONTRADICT = 30, 0.1
# A smaller share is that of a neuron which hardly any input switches: it is not looked for any longer.
SLIGHT_CONTRADICTION = 0.02
# A layer that explains more of the answers is the last one; what a round that gains something makes of the share that
# is not.
FINAL_LAYER_SHARE, LESS = 0.9, 0.8
UNEXPLAINED_SEARCHED = 100  # answers that are not explained near which unknown weights are looked for
PER_UNKNOWN, FIT_ANSWERS_BESIDES = 6, 200  # fresh answers per unknown of a fit, and besides


def read_many_layers(sightings: Sightings, asked: Asked, most_layers: int) -> Iterator[ManyLayers]:
    """Layers behind the first one, as long as derivatives show that they are whole.

    `sightings`: none yet; its probe asks in the coordinates of what the first layer's neurons see. `asked`: keeps fresh
    answers; nothing yet. `most_layers`: hidden layers at most. Yields what was read, before the first layer and after
    every one. Queries: those of `LINES_AT_START + d` lines, and of `ROUNDS_PER_LAYER` times twice
    `LINES_PER_NEURON d` for each layer at most.
    """
    state = ManyLayers(
        sightings.with_random(LINES_AT_START + sightings.d), [(np.eye(sightings.d), np.zeros(sightings.d))]
    )
    yield state
    kept, opened = state, dict[int, AffineMap]()
    missed: ManyLayers | None = None
    while len(state.layers) < most_layers:
        step, best, barren = LayerStep.of(state), None, 0
        for number in range(ROUNDS_PER_LAYER):
            step = step.with_candidates().completed()
            state = replace(state, sightings=step.state.sightings, partial=step.partial)
            if not step.found:
                step = step.looked(None)
                continue
            ended, bad = _ended(state, step.found, asked)
            if ended.explained > FINAL_LAYER_SHARE:
                barren = 0 if 1 - ended.explained < LESS * (1 - state.explained) else barren + 1
                state = ended
                yield state
                if not len(bad):
                    return
                # Most that is wrong at first is so for rare neurons before.
                if missed and barren < BARREN_ROUNDS and number < ROUNDS_PER_LAYER - 1:
                    step = replace(step.towards(bad), near=bad[:UNEXPLAINED_SEARCHED])
                    continue
                more = missed if missed and state.explained <= missed.explained else with_missed(state, asked)
                yield more
                if more is missed or more.explained <= state.explained:
                    return
                missed, state = more, replace(more, explained=FINAL_LAYER_SHARE)
                break
            trial = _Trial.of(step)
            barren = 0 if best is None or len(trial.layer[1]) > len(best.layer[1]) else barren + 1
            best = trial if best is None or trial.rank >= best.rank else best
            layer, whole = best.step.completed_by_sums(best.chosen, step) if best.told else (best.layer, False)
            done = number == ROUNDS_PER_LAYER - 1 or barren >= BARREN_ROUNDS
            # A weight that is given as 0 where it matters is an error of everything behind this layer.
            done |= whole and ((barren > 0 and best.contradicted <= SLIGHT_CONTRADICTION) or not best.contradicted)
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
    return one.shape == two.shape and bool(
        (np.abs(one[:, None] - two).max(axis=2).min(axis=1) < EXPLAINED_ANSWER_ERROR).all()
    )


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
        return cls(step, chosen, layer, right, wrong, len(chosen.right) >= TELLING_DERIVATIVES)

    @property
    def contradicted(self) -> float:
        """The share of what could have contradicted it that does."""
        return len(self.wrong) / max(len(self.right) + len(self.wrong), 1)

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """The better the larger; of equals the later one was asked more."""
        return self.told, self.contradicted <= CONTRADICT, self.contradicted <= SLIGHT_CONTRADICTION, len(self.layer[1])


def _ended(state: ManyLayers, found: list[Neuron], asked: Asked) -> tuple[ManyLayers, Float[np.ndarray, "B d"]]:
    """With the network whose last hidden layer these are, as far as they explain fresh answers, and where they do not.
    Queries: `PER_UNKNOWN` per unknown of the fit, and `FIT_ANSWERS_BESIDES`."""
    rows, bias, known = (np.array([getattr(one, name) for one in found]) for name in ("weights", "bias", "known"))
    rng, d = state.sightings.probe.rng, state.sightings.d
    need = PER_UNKNOWN * (sum(rows.shape) + 1 + int((~known).sum())) + FIT_ANSWERS_BESIDES - sum(map(len, asked.x))
    if need > 0:
        x = rng.standard_normal((need, d)) * rng.choice([1.0, 1.0, 3.0], size=(need, 1))
        asked.keep(x, state.sightings.probe.ask(x))
    size = float(np.sqrt(d))
    unsigned, solution, fits = explain(Unsigned(state.layers, rows, bias, known), asked, size, EXPLAINED_ANSWER_ERROR)
    share = float(fits.mean())
    if share <= max(FINAL_LAYER_SHARE, state.explained):
        return replace(state, explained=max(share, state.explained)), asked.all()[0][~fits]
    x, y = asked.all()
    # Where a rare neuron is missing answers obey another law, and would be spread over all weights.
    right = fresh_answers(asked)
    right.keep(x[fits], y[fits])
    network = ending_of_most(unsigned, solution, right, size, EXPLAINED_ANSWER_ERROR)
    return replace(state, network=network, explained=share), x[~fits]


def fresh_answers(asked: Asked) -> Asked:
    """Where answers in these coordinates are kept, apart from others."""
    return Asked(asked.oracle, most=EVERYTHING)


CROWDED_BREAKPOINTS = 4.5  # breakpoints per line and neuron of the first layer from which on deeper ones are many
# Times that places are looked for, and singular values from which on derivatives tell rows apart.
PLACE_SEARCHES, TOLD_SINGULAR_VALUE = 4, 1e-4
CLEAR_DERIVATIVE_RATIO = 1e7  # derivatives so many times as large as their errors are good enough for that


def crowded(found: LayerFound) -> bool:
    """Whether lines met far more neurons of deeper layers than of the first: there are many layers."""
    return bool(max((len(line.t) for line in found.searched), default=0) > CROWDED_BREAKPOINTS * len(found))


def behind_crowded(setup: Setup, state: Reading) -> Iterator[Reading]:
    """Read on behind a first layer no wider than the input, signs settled, in the coordinates of what it sees.

    Yields what was read, after every layer; the last state is `over`. Queries: those of `worst_sharpened` and
    `read_many_layers`.
    """
    found = worst_sharpened(setup.probe, state.frame, state.found, few=True)
    state = close(setup, state.with_found(found))
    layer, found = state.layer, state.found
    assert layer is not None
    probe = among_values(setup.probe, state.frame, layer)
    asked = fresh_answers(setup.log)
    # What ends behind the first layer explains nothing here.
    state = replace(state, wrong=state.wrong[:0], network=None, error=np.inf)
    for many in read_many_layers(Sightings.none(probe, len(found)), asked, setup.most_layers):
        layers = (layer, *many.layers[1:])
        now = replace(state, layers=layers, partial=many.partial, over=True, spent=True, many=many)
        sizes = [len(each[1]) for each in layers[1:]]
        lines = len(many.sightings.lines)
        told = tuple({"neurons": k, "lines": lines, "bent": 0} for k in sizes)
        now = replace(now, told=(*state.told[:1], *told))
        if many.network is not None:
            behind = [(each.dense(), each.bias) for each in many.network.layers[1:]]
            network = Network.from_weights([layer, *behind])
            # It is the best so far by how many answers it explains: the largest error may stay, far out.
            error = setup.log.error(network, setup.size)
            now = replace(now, network=network, error=error, whole=not many.open, spent=many.open)
        yield now
    if now.network is None:
        text = f"It ended behind layer {len(now.layers)}: derivatives do not tell the next one whole, or its signs."
        yield replace(now, why=(*now.why, text))


def along_all(
    probe: Probe, directions: Directions, layer: AffineMap, many: ManyLayers, frame_lift: Float[np.ndarray, "p d"]
) -> AffineMap | None:
    """The first layer's rows along all inputs, from those along a few directions and derivatives along the others.

    A derivative along the coordinates of what the neurons see is known at many places: it says how much of each row is
    in the derivative there along anything else. `frame_lift`: from what the neurons see to coordinates along the few
    directions. None where derivatives could not be measured, or do not tell all rows. Queries: `n - p + 5` for each of
    about as many places as neurons, over the outputs.
    """
    rows, bias = layer
    seen = many.sightings
    count, m, d = seen.slope.shape
    size = np.linalg.norm(seen.slope.reshape(count, -1), axis=1)
    unit = (seen.slope / np.maximum(size, 1e-300)[:, None, None]).reshape(-1, d)
    x = ((seen.at - bias) @ frame_lift.T) @ (directions.longer * directions.few.T)
    open_ = size > CLEAR_DERIVATIVE_RATIO * seen.doubt
    shares, others = np.empty((0, d)), np.empty((0, directions.others.shape[1]))
    for _ in range(PLACE_SEARCHES):
        # Places whose derivatives say most about what those before left open.
        q = np.linalg.svd(shares, full_matrices=False)[2][: len(shares)] if len(shares) else shares
        left = np.where(np.repeat(open_, m)[:, None], unit - unit @ q.T @ q, 0)
        lack = d - len(q)
        where = np.unique(linalg.qr(left.T, mode="r", pivoting=True)[1][:lack] // m)
        open_[where] = False
        slope, error = derivatives(probe, across(directions.others), x[where], seen.room[where])
        good = np.isfinite(error)
        at = where[good]
        shares = np.concatenate([shares, (seen.slope[at] / size[at, None, None]).reshape(-1, d)])
        others = np.concatenate([others, (slope[good] / size[at, None, None]).reshape(len(at) * m, -1)])
        if np.linalg.matrix_rank(shares, tol=TOLD_SINGULAR_VALUE) == d:
            beyond = np.linalg.lstsq(shares, others, rcond=None)[0]
            return rows @ directions.few.T / directions.longer + beyond @ directions.others.T, bias
    return None
