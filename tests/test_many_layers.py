"""Many layers from sightings measured once: normals, candidates, signs and weights are the network's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import unveil as uv
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import Rounding, rounding
from unveil.identification.fitting.output_layer import Asked, after
from unveil.identification.piecewise_linear import reading
from unveil.identification.piecewise_linear.derivative_sums import Sums
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplane_walks import entering
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes
from unveil.identification.piecewise_linear.layer import finished, layer_steps, many_deeper
from unveil.identification.piecewise_linear.layer_candidates import Views, candidates, told_twice
from unveil.identification.piecewise_linear.layer_choice import Here
from unveil.identification.piecewise_linear.layer_step import ManyLayers
from unveil.identification.piecewise_linear.many_layers import crowded
from unveil.identification.piecewise_linear.missed_in_layers import SHUT, with_missed
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import Moves
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading import _settled
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.sightings import Sightings, runs
from unveil.identification.piecewise_linear.sign_recovery import by_sparsity
from unveil.identification.piecewise_linear.weights_from_sums import weights_from_sums

from .helpers import Weights, random_weights, relu_net

SEEDS = range(3)
D = 6


def network(seed: int, depth: int = 4) -> tuple[list, Probe]:
    """Layers in the coordinates of what the first one's neurons see, and a probe that asks there."""
    rng = np.random.default_rng(seed)
    weights: Weights = random_weights((D, *[D] * depth, 1), rng, bias=0.3)
    layers = [(np.eye(D), np.zeros(D)), *weights[1:]]
    net = relu_net(layers)
    noise = rounding(net, rng.standard_normal((8, D)), 1e-16, rng)
    return layers, Probe(net, noise, rng)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Of two directions, up to sign."""
    return float(1 - abs(one @ other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def known(layer: tuple[np.ndarray, np.ndarray], rng: np.random.Generator) -> tuple[list[Neuron], np.ndarray]:
    """The neurons of a layer as candidates, each turned at random, and the sides that are right."""
    W, b = layer
    side = rng.choice([-1.0, 1.0], len(W))
    size = np.linalg.norm(W, axis=1)
    none = np.zeros((W.shape[1] + 1,) * 2)
    found = [
        Neuron(s * row / n, s * c / n, np.ones(len(row), dtype=bool), (), none)
        for row, c, s, n in zip(W, b, side, size, strict=True)
    ]
    return found, side


@pytest.mark.parametrize("seed", SEEDS)
def test_sightings_are_critical_points_with_the_network_s_own_normals(seed: int) -> None:
    layers, probe = network(seed)
    seen = Sightings.none(probe, D).with_random(4)
    assert len(seen.x) > 20
    off = np.full(len(seen.x), np.inf)
    for depth in range(len(layers) - 1):
        W, b = layers[depth]
        before = Moves.of(layers[:depth], seen.x)
        h = before.h
        z = (h @ W.T + b) / np.linalg.norm(W, axis=1) / (1 + np.linalg.norm(h, axis=1))[:, None]
        for i, j in zip(*np.nonzero(np.abs(z) < 1e-8), strict=True):
            normal = W[j] @ before.move[i]
            if np.linalg.norm(normal) > 1e-9:
                off[i] = min(off[i], apart(normal, seen.normal[i]))
    assert (off < 1e-10).mean() > 0.98  # of a few two neurons are zero at once


@pytest.mark.parametrize("seed", SEEDS)
def test_candidates_met_wherever_they_should_be_are_neurons_of_the_layer(seed: int) -> None:
    layers, probe = network(seed)
    seen = Sightings.none(probe, D).with_random(12)
    views = Views.of(seen, layers[:1])
    found = candidates(seen.lines, views, layers[:1], [], 0)
    W, b = layers[1]
    trusted = [one for one in found if one.whole and one.should >= 8 and one.were == one.should]
    assert trusted
    for one in trusted:
        truth = np.column_stack([W, b])
        assert min(apart(each, one.theta) for each in truth) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_sums_tell_the_sides_of_a_layer_that_is_whole(seed: int) -> None:
    layers, probe = network(seed)
    rng = np.random.default_rng(seed)
    found, side = known(layers[1], rng)
    seen = Sightings.none(probe, D).with_random(8)
    sums = Sums.of(layers[:1], found, seen.at, seen.slope, seen.doubt * np.sqrt(D))
    use = np.ones(D, dtype=bool)
    tells, wrong = sums.judged(side, use)
    assert tells.sum() > 20
    assert not wrong.any()
    assert (sums.turned(use) == side).all()
    # Without one of its neurons the layer is contradicted.
    use[0] = False
    assert sums.judged(side, use)[1].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_places_between_which_only_layers_before_switch_tell_more_together(seed: int) -> None:
    layers, probe = network(seed, depth=5)
    found, side = known(layers[3], np.random.default_rng(seed))
    seen = Sightings.none(probe, D).with_random(16)
    alone = Sums.of(layers[:3], found, seen.at, seen.slope, seen.doubt * np.sqrt(D))
    sums, use = Sums.along(layers[:3], found, seen), np.ones(D, dtype=bool)
    (before, _), (tells, wrong) = alone.judged(side, use), sums.judged(side, use)
    assert tells.mean() > before.mean()
    assert not wrong.any()
    # Every place is one of a run, and none of two.
    assert sorted(set(runs(seen, layers[:3]).ravel().tolist())) == list(range(len(seen.at)))
    contradicted = [sums.judged(side, use & (np.arange(D) != i))[1].sum() for i in range(D)]
    assert sum(count > 0 for count in contradicted) >= D // 2


def test_a_vector_that_few_neurons_make_up_tells_the_sides_of_all() -> None:
    # Behind several layers most vectors tell nothing with wrong sides: turning one neuron after the other goes astray.
    right = {"few": 0, "turned": 0}
    for seed, depth in product(range(6), (2, 3, 4)):
        layers, probe = network(seed, depth=5)
        found, side = known(layers[depth], np.random.default_rng(seed))
        seen = Sightings.none(probe, D).with_random(16)
        sums, use = Sums.along(layers[:depth], found, seen), np.ones(D, dtype=bool)
        truth = sums.score(side, use)
        right["few"] += sums.score(sums.by_few(use, probe.rng), use) >= truth
        right["turned"] += sums.score(sums.turned(use), use) >= truth
    assert right["few"] >= 17
    assert right["few"] > right["turned"]


def test_shares_in_sums_tell_sides_but_where_unknown_weights_add_anything() -> None:
    # Four values that are all positive, four candidates along one each, positive at the first two places only.
    eye, blind, z = np.eye(4), np.zeros((4, 4), dtype=bool), np.ones((4, 4))
    z[2:] = -1
    seen = Moves(np.ones((4, 4)), np.stack([eye] * 4), np.full(4, 4))
    vectors = np.array([[eye[0] + eye[1]], [eye[0] - eye[1]], [eye[2]], [eye[2]]])
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    sums = Sums(z[:, :4], seen, vectors, np.full(4, 1e-12), z, np.stack([eye] * 4), blind, np.ones((4, 4), dtype=bool))
    use = np.ones(4, dtype=bool)
    assert np.sign(sums.votes(use))[:3].tolist() == [1, 1, -1]
    # Where it is on one side only, and has no share, it is active on the other.
    assert np.sign(sums.among(slice(2)).votes(use)).tolist() == [1, 1, -1, -1]
    # The first two places tell nothing where a weight that is not known counts.
    blind[:2, 3] = True
    assert np.sign(sums.votes(use))[:3].tolist() == [1, 1, -1]
    assert sums.votes(use)[0] == sums.among(slice(2, 4)).votes(use)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unknown_weight_follows_from_derivatives(seed: int) -> None:
    layers, probe = network(seed)
    rng = np.random.default_rng(seed)
    found, side = known(layers[1], rng)
    whole = found[2]
    without = np.arange(D) != 1
    weights = np.where(without, whole.weights, 0)
    size = np.linalg.norm(weights)
    found[2] = replace(whole, weights=weights / size, bias=whole.bias / size, known=without)
    seen = Sightings.none(probe, D)
    told = weights_from_sums(seen, layers[:1], found, side, np.ones(D, dtype=bool))
    assert told[2].whole
    assert np.allclose(told[2].theta, whole.theta, atol=1e-7)


def test_a_weight_that_shuts_a_neuron_off_is_replaced_by_one_that_does() -> None:
    layers, _ = network(0)
    layers[1][0][2, 1] = -100.0
    rng = np.random.default_rng(0)
    net = relu_net(layers)
    probe = Probe(net, rounding(net, rng.standard_normal((8, D)), 1e-16, rng), rng)
    found, side = known(layers[1], rng)
    without = np.arange(D) != 1
    weights = np.where(without, found[2].weights, 0)
    size = np.linalg.norm(weights)
    found[2] = replace(found[2], weights=weights / size, bias=found[2].bias / size, known=without)
    told = weights_from_sums(Sightings.none(probe, D), layers[:1], found, side, np.ones(D, dtype=bool))[2]
    assert told.whole
    x = np.abs(rng.standard_normal((1000, D)))
    assert (side[2] * (x @ told.weights + told.bias) < 0).mean() > 0.98


@pytest.mark.parametrize("seed", SEEDS)
def test_normals_of_a_neuron_tell_its_side_and_those_of_deeper_ones_that_they_are_sums(seed: int) -> None:
    layers, probe = network(seed)
    rng = np.random.default_rng(seed)
    seen = Sightings.none(probe, D).with_random(16)
    views = Views.of(seen, layers[:1])
    found, side = known(layers[1], rng)
    zero = np.abs(views.seen.h @ np.array([one.weights for one in found]).T + [one.bias for one in found]) < 1e-9
    found = [replace(one, members=tuple(views.which[each])) for one, each in zip(found, zero.T, strict=True)]
    # What none of the layer's neurons explains is a deeper one's.
    found, side = [*found, replace(found[0], members=tuple(views.which[~zero.any(axis=1)]))], np.append(side, 1.0)
    here, layer = Here(seen, views, layers[:1], found), np.arange(D + 1) < D
    tells, own = here.at_own(D, side, layer)
    assert tells.sum() > 5
    assert not own.any()
    sums = here.gathered()
    assert here.own_side(D, sums, side, layer) == 0
    told = [here.own_side(i, sums, side, layer & (np.arange(D + 1) != i)) for i in range(D)]
    assert any(told)
    assert all(up in (0, right) for up, right in zip(told, side[:D], strict=True))


def test_the_sides_are_told_where_hardly_any_place_tells_them() -> None:
    # Two of four values move: a place tells only where one of the six neurons behind is active alone.
    rng = np.random.default_rng(1)
    layers = [(np.eye(D), np.zeros(D)), (rng.standard_normal((2, D)), np.ones(2)), *random_weights((2, D, 1), rng)]
    layers[2] = (layers[2][0], 0.3 * rng.standard_normal(D))
    net = relu_net(layers)
    probe = Probe(net, rounding(net, rng.standard_normal((8, D)), 1e-16, rng), rng)
    found, side = known(layers[2], rng)
    seen = Sightings.none(probe, D).with_random(4)
    here = Here(seen, Views.of(seen, layers[:2]), layers[:2], found)
    few = here.gathered()
    sums, _ = here.told_apart(np.ones(D, dtype=bool))
    every = np.ones(D, dtype=bool)
    assert sums.judged(side, every)[0].sum() >= few.judged(side, every)[0].sum()
    assert not sums.judged(side, every)[1].any()


def test_a_weight_counts_where_critical_points_of_two_lines_tell_the_same() -> None:
    weight = np.array([[0.3], [0.3 + 1e-9], [0.3], [0.3], [0.7], [0.9]])
    unknown, line = np.array([1, 1, 2, 1, 1, 1]), np.array([4, 5, 6, 4, 7, 8])
    agree = np.array([True, True, True, True, True, False])
    # The third is another weight; the fourth lies on the first one's line, and agrees with the second.
    assert told_twice(unknown, weight, line, agree).tolist() == [True, True, False, True, False, False]
    assert not told_twice(unknown, weight, np.full(6, 4), agree).any()


def test_signs_of_more_neurons_than_coordinates_are_not_told_by_chance() -> None:
    rng = np.random.default_rng(0)
    k, d = 14, 4
    rows = rng.standard_normal((k, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    sides = rng.choice([-1.0, 1.0], k)
    z = -sides * np.abs(rng.standard_normal((1, k)))
    z[0, :3] *= -1
    slope = rng.standard_normal((1, 2, 3)) @ rows[:3]
    told = by_sparsity(rows, z, slope, 1e-8)
    assert told is not None
    assert (told == sides).all()
    # Of 364 sets one comes as close as 1e-4 to any derivative of one output once in some thirty times.
    assert by_sparsity(rows, z, slope[:, :1], 1e-4) is None


def rare_neuron_put(seed: int) -> bool:
    """Whether a neuron active at 1.5 % of usual inputs is put where it belongs, and explains the answers there."""
    rng = np.random.default_rng(seed)
    layers: Weights = [(np.eye(D), np.zeros(D)), *random_weights([D] * 4 + [1], rng, bias=0.3)]
    x = rng.standard_normal((4000, D))
    W, b = layers[2]
    b[0] = -np.quantile(after(layers[:2], x) @ W[0], 0.985)
    net = relu_net(layers)
    probe = Probe(net, rounding(net, rng.standard_normal((8, D)), 1e-16, rng), rng)
    without = [*layers[:2], (W[1:], b[1:]), (layers[3][0][:, 1:], layers[3][1]), *layers[4:]]
    state = ManyLayers(Sightings.none(probe, D).with_random(6), without[:-2], network=uv.Network.from_weights(without))
    found = with_missed(state, Asked(uv.as_oracle(net, D)))
    assert found.network is not None
    x = rng.standard_normal((4000, D))
    wrong, before = (np.abs(each(x) - net(x))[:, 0] > 1e-6 for each in (found.network, relu_net(without)))
    assert wrong.sum() < before.sum()
    if wrong.sum() > 0.1 * before.sum() or found.layers[2][0].shape != (D, D):
        return False
    # Its weights are right but for those of values that are never positive where it is active.
    row, bias = (each[-1] for each in found.layers[2])
    told = np.append((row != 0) & (row > -SHUT), True)
    return bool(told.sum() > 2 and apart(np.append(row, bias)[told], np.append(W[0], b[0])[told]) < 1e-9)


def test_rare_neurons_are_put_into_their_layers_from_answers_that_the_others_get_wrong() -> None:
    assert sum(rare_neuron_put(seed) for seed in range(8)) >= 5


@pytest.mark.parametrize("many", [False, True])
def test_rows_of_deeper_neurons_are_not_kept_among_the_first_layer_s(many: bool) -> None:
    # It lies in the span of the first layer's rows: where it is taken for one of them that was not met, derivatives do
    # not tell that one is missing.
    for seed in range(4):
        rng = np.random.default_rng(seed)
        weights = random_weights((12, *[8] * 8, 1), rng, bias=0.5)
        ask = Asked(uv.as_oracle(relu_net(weights), shape=12))
        noise = rounding(ask, rng.standard_normal((8, 12)), 1e-16, rng)
        setup, frame = Setup(Probe(ask, noise, rng), ask, 50.0, 24, 8), Frame.of_input(12, None)
        found = finished(layer_steps(setup.probe, frame, far=50.0, most_lines=4))
        rows = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
        true = (np.abs(found.rows @ rows.T) > 1 - 1e-9).any(axis=1)
        least = np.abs(found.bent.rows @ rows.T).max(axis=1).argsort()
        # So many of them that lines seem to meet few of deeper layers for each of the first.
        count = max(len(line.t) for line in found.searched) // 4 if many else 1
        some = found.straight[np.flatnonzero(true)[:3]]
        planted = replace(found, straight=Hyperplanes.joined([some, found.bent[least[:count]]]))
        if many:
            # Each of the others is met on several lines.
            again = Hyperplanes.joined([found.bent] * 4)
            planted = replace(planted, bent=again, bent_maybe=np.zeros(len(again), dtype=bool))
        assert crowded(planted) != many
        assert many_deeper(planted)
        state = _settled(setup, Reading(frame, planted, ask), 0)
        assert len(state.found) == len(some)
        assert (np.abs(state.found.rows @ rows.T).max(axis=1) > 1 - 1e-9).all()
        assert state.lacking


def test_a_first_line_that_shows_nothing_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # Answers are the same at all points far out: a line may lie out there with both ends and what is between.
    weights = random_weights((80, 6, 1), np.random.default_rng(0), bias=0.5)
    search, reaches = reading.search, list[float]()

    def first_short(ask: Asked, frame: Frame, noise: Rounding, rng: np.random.Generator, far: float) -> Line | None:
        reaches.append(far if reaches else 1e-9)
        return search(ask, frame, noise, rng, reaches[-1])

    monkeypatch.setattr(reading, "search", first_short)
    found = uv.identify(uv.as_oracle(relu_net(weights), 80), uv.CriticalPoints(), rng=np.random.default_rng(1))
    assert len(reaches) == 2
    assert found.outcome is uv.Outcome.complete
    # Along few directions a hyperplane's normal is cheap.
    assert found.stats["directions"] < 80


@pytest.mark.parametrize("seed", SEEDS)
def test_walks_along_a_hyperplane_end_where_one_more_value_matters(seed: int) -> None:
    layers, _ = network(seed)
    rng = np.random.default_rng(seed)
    found, _ = known(layers[2], rng)
    one, unknown = found[0], 1
    blind = np.arange(D) == unknown
    one = replace(one, weights=np.where(blind, 0, one.weights), known=~blind)
    x, normal = entering(layers[:2], one, unknown, 2 * rng.standard_normal((60, D)))
    assert len(x) > 5

    def seen(x: np.ndarray) -> np.ndarray:
        return after(layers[:2], x) @ one.weights + one.bias

    assert (after(layers[:2], x)[:, unknown] > 0).all()
    assert np.abs(seen(x)).max() < 1e-6
    # It grows along the normal as fast as along any direction.
    step = 1e-7 * normal
    along = (seen(x + step) - seen(x - step)) / 2e-7
    aside = rng.standard_normal(x.shape)
    aside = 1e-7 * (aside - (aside * normal).sum(axis=1, keepdims=True) * normal)
    assert np.median(along) > 0
    assert np.median(np.abs(seen(x + aside) - seen(x - aside)) / along) < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_one_candidate_more_is_judged_where_it_may_be_active(seed: int) -> None:
    layers, probe = network(seed)
    rng = np.random.default_rng(seed)
    found, side = known(layers[1], rng)
    found[2] = replace(found[2], known=np.arange(D) != 1)
    seen = Sightings.none(probe, D).with_random(8)
    sums = Sums.of(layers[:1], found, seen.at, seen.slope, seen.doubt * np.sqrt(D))
    for i in range(D):
        without = np.arange(D) != i
        for up in (1.0, -1.0):
            turned = np.where(without, side, up * side)
            now = sums.judged_with(i, turned, np.ones(D, dtype=bool), sums.judged(turned, without))
            whole = sums.judged(turned, np.ones(D, dtype=bool))
            assert all((one == other).all() for one, other in zip(now, whole, strict=True))


def test_what_was_read_along_few_directions_is_kept_where_the_budget_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    oracle = uv.as_oracle(relu_net(random_weights((80, 6, 1), rng, bias=0.5)), 80, budget=100_000)
    ask = Asked(oracle)
    noise = rounding(ask, rng.standard_normal((8, 80)), 1e-16, rng)
    setup, frame = Setup(Probe(ask, noise, rng), ask, 50.0, 24, 8), Frame.of_input(80, None)
    start = reading._first_line(setup, frame)
    assert start is not None
    directions = reading.Directions.along(start, rng)
    assert directions is not None
    many = ManyLayers(Sightings.none(setup.probe, 6), [(np.eye(6), np.zeros(6))])

    def stopped(inner: Setup, frame: Frame, line: Line) -> Iterator[Reading]:
        yield Reading.begun(inner, frame)
        if behind:
            yield replace(Reading.begun(inner, frame), many=many)
        inner.oracle(rng.standard_normal((int(oracle.ledger.left) + 1, directions.few.shape[1])))

    monkeypatch.setattr(reading, "read_network", stopped)
    inner = reading._along(setup, directions)
    behind = True
    before = oracle.ledger.budget
    state, end = reading._read_along(inner, directions, start)
    assert state.many is many
    assert isinstance(end, uv.BudgetExceeded)
    # What it takes to read it along all inputs is left.
    assert oracle.ledger.budget == before
    assert oracle.ledger.left >= 80 * directions.few.shape[1]
    behind = False
    with pytest.raises(uv.BudgetExceeded):
        reading._read_along(inner, directions, start)
