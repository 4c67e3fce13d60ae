"""Critical points of deeper neurons and what is merged from them, against networks whose weights are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, random_weights, relu_gradients, relu_net
from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.design import telling
from unveil.identification.fitting.output_layer import Asked, agreement
from unveil.identification.piecewise_linear.behind import Behind
from unveil.identification.piecewise_linear.critical_point import (
    CriticalPoint,
    along,
    along_line,
    measure_normals,
    met,
    passed_on,
    zeros,
)
from unveil.identification.piecewise_linear.deeper_layers import read_deeper
from unveil.identification.piecewise_linear.deeper_state import Deeper
from unveil.identification.piecewise_linear.derivative_sums import HELD, Sums
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.expected_breakpoints import Ways
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer_candidates import Views, candidates
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.partial_network import local
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Setup
from unveil.identification.piecewise_linear.weight_completion import FIRM, complete_weights, places


def of_neuron(weights: Weights, i: int, count: int, rng: np.random.Generator) -> list[CriticalPoint]:
    """Exact critical points of the second layer's neuron i where random lines cross its hyperplane."""
    (W, b), (V, c) = weights[:2]
    out: list[CriticalPoint] = []
    while len(out) < count:
        base, direction = rng.standard_normal((2, W.shape[1]))
        t, h = along([(W, b)], base, direction, -3.0, 3.0)
        for at in zeros(t, h @ V[i : i + 1].T + c[i])[0]:
            x = base + at * direction
            normal = local([(W, b)], x)[1].T @ V[i]
            out.append(CriticalPoint(x, normal / np.linalg.norm(normal), 1e-12, np.ones(1)))
    return out[:count]


def of_third_layer(weights: Weights, count: int, rng: np.random.Generator) -> list[CriticalPoint]:
    """The same of the third layer's first neuron, as they are seen behind the first layer."""
    first, second, (rows, bias) = weights[:3]
    out: list[CriticalPoint] = []
    while len(out) < count:
        base, direction = rng.standard_normal((2, first[0].shape[1]))
        t, h = along([first, second], base, direction, -3.0, 3.0)
        for at in zeros(t, h @ rows[:1].T + bias[:1])[0]:
            x = base + at * direction
            normal = local([first, second], x)[1].T @ rows[0]
            out.append(CriticalPoint(x, normal / np.linalg.norm(normal), 1e-12, np.ones(1)))
    return out[:count]


def test_a_layer_passes_on_the_normals_behind_it_and_no_others() -> None:
    rng = np.random.default_rng(5)
    first, second, *_ = weights = random_weights((9, 8, 6, 5, 1), rng, bias=0.5)
    rest = (second[0][1:], second[1][1:])
    missing = of_neuron(weights, 0, 60, rng)
    behind = of_third_layer(weights, 30, rng)
    assert {passed_on([first, second], each) for each in behind} == {True, None}
    # Without one of the second layer's neurons its normal is told from those of the third wherever anything is told.
    told = [passed_on([first, rest], each) for each in missing]
    assert told.count(False) > 10
    assert True not in told


def test_values_and_slopes_are_those_of_the_network() -> None:
    weights = random_weights((7, 9, 5, 4), np.random.default_rng(0), bias=0.5)
    for x in np.random.default_rng(1).standard_normal((20, 7)):
        h, J = local(weights[:-1], x)
        W, b = weights[-1]
        assert W @ h + b == pytest.approx(relu_net(weights)(x[None])[0])
        assert pytest.approx(relu_gradients(weights, x[None])[0]) == W @ J


def test_a_line_bends_where_the_network_does() -> None:
    rng = np.random.default_rng(2)
    weights = random_weights((6, 8, 8, 1), rng, bias=0.5)
    net = relu_net(weights)
    base, direction = rng.standard_normal((1, 6)), rng.standard_normal((1, 6))
    noise = rounding(net, rng.standard_normal((4, 6)), 1e-16, rng)
    (breaks,) = line_search(net, base, direction, -20.0, 20.0, noise, rng)
    t, h = along(weights[:-1], base[0], direction[0], -20.0, 20.0)
    # Between the ends every bend of these layers that reaches the answer is there, and nothing else.
    assert all(np.abs(t - each).min() < 1e-9 * (1 + abs(each)) for each in breaks.t)
    middle = (t[1:] + t[:-1]) / 2
    x = base + middle[:, None] * direction
    W, b = weights[-1]
    assert (h[1:] + h[:-1]) / 2 @ W.T + b == pytest.approx(net(x), abs=1e-12)


@pytest.mark.parametrize("sizes", [(12, 10, 6, 1), (8, 14, 6, 1)])
def test_critical_points_through_half_of_the_neurons_become_all_weights(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    weights = random_weights(sizes, rng, bias=0.5)
    points = [s for i in range(sizes[2]) for s in of_neuron(weights, i, 8, rng)]
    order = rng.permutation(len(points))
    views = Views.of_points(weights[:1], [points[k] for k in order], 1e-12, None, 0)
    found = candidates(None, views, weights[:1], [], 0)
    V, c = weights[1]
    theta = np.concatenate([V, c[:, None]], axis=1) / np.linalg.norm(V, axis=1, keepdims=True)
    members = 0
    for neuron in (n for n in found if len(n.members) > 1):
        # No neuron's points are mixed with another's.
        (i,) = {int(order[k]) // 8 for k in neuron.members}
        row = theta[i, :-1] * neuron.known
        size = np.linalg.norm(row)
        sign = np.sign(row @ neuron.weights)
        assert sign * neuron.weights == pytest.approx(row / size, abs=1e-8)
        assert sign * neuron.bias == pytest.approx(theta[i, -1] / size, abs=1e-8)
        members += len(neuron.members)
    assert members >= 0.8 * len(points)


@pytest.mark.parametrize(("bias", "told"), [(0.5, True), (0.0, False)])
def test_where_a_hyperplane_is_tells_nothing_where_all_go_through_the_origin(bias: float, told: bool) -> None:
    weights = [(w, bias * b) for w, b in random_weights((8, 6, 4, 1), np.random.default_rng(1), bias=1.0)]
    seen = of_neuron(weights, 0, 20, np.random.default_rng(2))
    assert (Views.of_points(weights[:1], seen, 1e-12, None, 0).exact == told).all()


@pytest.mark.parametrize(("within", "error"), [(None, 1e-12), ((-2.0, 2.0), 1e-12), (None, 1e-5)])
def test_what_is_unknown_is_found_where_it_begins_to_matter(within: tuple[float, float] | None, error: float) -> None:
    frame, rng = Frame.of_input(12, within), np.random.default_rng(4)
    weights = random_weights((12, 10, 6, 1), rng, bias=0.5)
    net, (V, c) = relu_net(weights), weights[1]
    noise = rounding(net, rng.standard_normal((4, 12)), 1e-16, rng)
    row = V[0] / np.linalg.norm(V[0])
    known = np.arange(10) >= 3
    neuron = Neuron(row * known, float(c[0] / np.linalg.norm(V[0])), known, (0,), error**2 * np.eye(11))
    asked = 0

    def ask(x: np.ndarray) -> np.ndarray:
        nonlocal asked
        asked += len(x)
        # Answers elsewhere would be those of the nearest legal inputs, which bend at the walls.
        assert within is None or (np.abs(x) <= within[1]).all()
        return net(x)

    base, direction = rng.standard_normal((2, 200, 12)) * (1.0 if within is None else 0.3)
    there = places(weights[:1], [neuron], base, direction, Counter(), 3, frame)
    assert there
    seen, lines = complete_weights(Probe(ask, noise, rng), weights[:1], [neuron], there, frame)
    assert len(lines) == len(there)
    assert len(seen) == len(there) if within is None else seen
    # A normal that follows from what is known no better than that is measured instead.
    assert asked <= (40 if error < FIRM else 90) * len(there)
    assert all(point.error < FIRM for point in seen)
    assert all(place.unknown < 3 for place in there)
    for point in seen:
        h, J = local(weights[:1], point.x)
        assert V[0] @ h + c[0] == pytest.approx(0, abs=1e-9)
        normal = J.T @ V[0]
        assert abs(normal @ point.normal) == pytest.approx(np.linalg.norm(normal), rel=1e-9)


def test_normals_are_measured_and_neurons_confirmed_along_a_line() -> None:
    rng = np.random.default_rng(5)
    weights = random_weights((12, 10, 6, 1), rng, bias=0.5)
    net, (V, c) = relu_net(weights), weights[1]
    noise = rounding(net, rng.standard_normal((4, 12)), 1e-16, rng)
    base, direction = rng.standard_normal((2, 1, 12))
    (line,) = line_search(net, base, direction, -30.0, 30.0, noise, rng)
    deeper = np.flatnonzero(~met(line, along_line(weights[:1], line)[0]).any(axis=1))
    seen = measure_normals(Probe(net, noise, rng), weights[:1], line, deeper).points
    assert seen
    for point in seen:
        h, J = local(weights[:1], point.x)
        i = int(np.abs(V @ h + c).argmin())
        normal = J.T @ V[i]
        assert abs(normal @ point.normal) == pytest.approx(np.linalg.norm(normal), rel=1e-7)
    size = np.linalg.norm(V, axis=1)
    true = [Neuron.given(V[i] / size[i], float(c[i] / size[i]), 1e-12) for i in range(6)]
    false = Neuron.given(*(lambda v: (v / np.linalg.norm(v), 0.3))(rng.standard_normal(10)), 1e-12)
    *firm, stray = Ways.of(weights[:1], [line], 0.0).confirmed([*true, false])
    assert all(one.should == one.were for one in firm)
    assert sum(one.should for one in firm) == len(deeper)
    assert stray.should > 0
    assert stray.were == stray.settings == stray.lines == 0
    assert all(one.settings <= one.were for one in firm)
    assert all(one.lines == (one.were > 0) for one in firm)
    # Where answers stand still no neuron shows: none is missed there.
    still = replace(line, slope=np.zeros_like(line.slope))
    *theirs, none = Ways.of(weights[:1], [still], 0.0).confirmed([*true, false])
    assert none.should == 0
    assert [one.were for one in theirs] == [one.were for one in firm]


def test_most_points_agree_whatever_the_others_say() -> None:
    rng = np.random.default_rng(6)
    F, true = rng.standard_normal((200, 20)), rng.standard_normal((20, 2))
    y = F @ true
    y[:60] += rng.standard_normal((60, 2))
    solution, off = agreement(F, y)
    assert solution == pytest.approx(true, abs=1e-8)
    assert (off[60:] < 1e-9).all()
    assert (off[:60] > 1e-6).all()


def test_points_are_chosen_where_the_fit_is_loose() -> None:
    rng = np.random.default_rng(7)
    known = rng.standard_normal((50, 10))
    known[:, 7:] = 0
    pool = rng.standard_normal((300, 10))
    pool[:290, 7:] = 0
    chosen = telling(known, pool, 20, 1e4)
    assert set(chosen) <= set(range(290, 300))
    assert np.linalg.matrix_rank(pool[chosen[:3], 7:]) == 3


def test_a_derivative_contradicts_neurons_only_beyond_its_error() -> None:
    rng = np.random.default_rng(4)
    weights = random_weights((8, 6, 3, 1), rng, bias=0.5)
    # Where all of the first layer is active the derivative mixes all rows of the second: one missing shows.
    x = np.linalg.pinv(weights[0][0]) @ (np.ones(6) - weights[0][1])
    slope = relu_gradients(weights, x[None])[0]
    neurons = [Neuron.given(*each, 1e-9) for each in zip(*weights[1], strict=True)]
    active = int((weights[1][0] @ np.ones(6) + weights[1][1]).argmax())
    others = [one for i, one in enumerate(neurons) if i != active]
    off = slope + 1e-4 * np.abs(slope).max() * rng.standard_normal(slope.shape)
    error = 1e-4 * float(np.abs(slope).max())

    def told(measured: np.ndarray, sigma: float, which: list[Neuron], exact: bool = True) -> tuple[int, int]:
        sums = Sums.of_stations(weights[:1], which, [Station(x, measured, sigma)], HELD[exact])
        tells, wrong = sums.judged(None, np.ones(len(which), dtype=bool))
        return int((tells & ~wrong).sum()), int(wrong.sum())

    assert told(slope, 0.0, neurons) == (1, 0)
    assert told(slope, 0.0, others) == (0, 1)
    # What it has along directions in which the first layer does not move is an error, whatever was expected.
    inside = off @ np.linalg.pinv(weights[0][0]) @ weights[0][0]
    assert told(inside, 0.0, neurons) == (0, 1)
    # Of exact ones a vague one tells nothing.
    for sigma in (0.0, error):
        assert told(off, sigma, neurons) == told(off, sigma, others) == (0, 0)
    # With its error it does not contradict them; what is missing still shows.
    assert told(off, error, neurons, False) == (1, 0)
    assert told(off, error, others, False) == (0, 1)


def test_rows_with_an_error_are_met_where_that_error_puts_them() -> None:
    rng = np.random.default_rng(6)
    weights = random_weights((8, 6, 3, 1), rng, bias=0.5)
    neurons = [Neuron.given(*each, 1e-12) for each in zip(*weights[1], strict=True)]
    ask = Asked(uv.as_oracle(relu_net(weights), 8, budget=20_000))
    frame = Frame.of_input(8, None)
    noise = rounding(ask, frame.sample(4, rng), ask.oracle.resolution, rng)
    (line,) = line_search(ask, *frame.lines(1, 100.0, rng), noise, rng)
    rough = [(weights[0][0] + 1e-5 * rng.standard_normal((6, 8)), weights[0][1])]
    for layers, error, all_met in ((weights[:1], 0.0, True), (rough, 0.0, False), (rough, 1e-5, True)):
        met = Ways.of(layers, [line], error).confirmed(neurons)
        assert any(one.should > 0 for one in met)
        assert all(one.should == one.were for one in met) == all_met


@pytest.mark.parametrize("seed", range(3))
def test_critical_points_of_lines_are_those_that_nothing_known_explains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = random_weights((10, 8, 6, 1), rng, bias=0.5)
    (W, b), (V, c), _ = weights
    frame = Frame.of_input(10, None)
    asked = Asked(uv.as_oracle(relu_net(weights), 10, budget=50_000))
    probe = Probe(asked, rounding(asked, frame.sample(4, rng), asked.oracle.resolution, rng), rng)
    lines = frame.lines(3, 100.0, rng)
    neurons = [
        Neuron.given(row / n, float(k / n), 1e-12) for row, k, n in zip(V, c, np.linalg.norm(V, axis=1), strict=True)
    ]

    def left(rows: np.ndarray, error: float, known: list[Neuron]) -> np.ndarray:
        """Values of the second layer at what is left of these lines."""
        behind = Behind(probe, frame, [(rows, b)], [np.full(8, error)])
        found, points, stations = behind.searched(lines, known)
        assert len(found) == 3
        assert len(stations) >= len(points)
        x = np.array([point.x for point in points]).reshape(-1, 10)
        return np.abs(np.maximum(x @ W.T + b, 0) @ V.T + c)

    assert not len(left(W, 0.0, neurons))
    some = left(W, 0.0, neurons[:3])
    assert len(some) > 0
    assert set(some.argmin(axis=1)) <= {3, 4, 5}
    assert some.min(axis=1).max() < 1e-8
    # Rows that are off explain their own breakpoints where that is known of them.
    off = W + 1e-6 * rng.standard_normal(W.shape)
    assert left(off, 0.0, neurons[:0]).min(axis=1).max() > 1e-3
    assert left(off, 1e-6, neurons[:0]).min(axis=1).max() < 1e-8


def test_no_step_changes_a_state_that_was_handed_on() -> None:
    weights = random_weights((8, 6, 4, 1), np.random.default_rng(8), bias=0.5)
    rng, frame = np.random.default_rng(9), Frame.of_input(8, None)
    ask = Asked(uv.as_oracle(relu_net(weights), 8, budget=20_000))
    noise = rounding(ask, frame.sample(4, rng), ask.oracle.resolution, rng)
    size = np.linalg.norm(weights[0][0], axis=1)
    rows, bias = weights[0][0] / size[:, None], weights[0][1] / size
    planes = Hyperplanes(rows, bias, np.ones((6, 1)), np.full(6, 1e-12), np.zeros((6, 8)))
    first = LayerFound.nothing(frame, 1).with_straight(planes)
    setup = Setup(Probe(ask, noise, rng), ask, 100.0, 24, 8)
    (line,) = line_search(ask, *frame.lines(1, 100.0, rng), noise, rng)
    x = frame.sample(3, rng)
    stations = [Station(*each, 0.0) for each in zip(x, relu_gradients(weights, x), strict=True)]
    begun = Deeper.begun(setup, frame, (first.rows, first.bias), first, [], stations)
    states = list(read_deeper(setup, replace(begun, lines=(line,)), 24))
    assert states[-1].residual < 1e-7
    # Counts only grow, and what an earlier state had met is the beginning of what a later one has, layer by layer.
    for before, after in pairwise(states):
        assert after.turn > before.turn
        assert after.lines[: len(before.lines)] == before.lines
        if len(after.layers) == len(before.layers):
            assert len(after.seen) >= len(before.seen)
            assert after.seen[: len(before.seen)] == before.seen
    truth = uv.Network.from_weights(weights)
    assert states[-1].network is not None
    assert states[-1].network(x) == pytest.approx(truth(x), abs=1e-9)


def test_a_complete_result_does_not_say_that_neurons_are_missing() -> None:
    """Of few digits what was read of a layer may turn out to be all of it: then nothing says otherwise."""
    for seed in range(2):
        net = relu_net(random_weights((8, 6, 5, 2), np.random.default_rng(seed), bias=0.3))
        oracle = uv.as_oracle(lambda x, net=net: net(x).astype(np.float32), shape=8)
        found = uv.identify(oracle, rng=np.random.default_rng(seed))
        assert found.outcome is not uv.Outcome.complete or not any("not all" in why for why in found.why)


def test_a_layer_whose_only_neuron_could_be_a_deeper_one_is_that_neuron(rng: np.random.Generator) -> None:
    weights = random_weights((4, 2, 1, 1), rng, bias=0.5)
    (row,), (bias,) = weights[1]
    only = Neuron.given(row / np.linalg.norm(row), bias / np.linalg.norm(row), 1e-9)
    x = 2 * rng.standard_normal((200, 4))
    slopes = relu_gradients(weights, x)
    stations = [Station(at, slope, 1e-12) for at, slope in zip(x, slopes, strict=True) if slope.any()]
    sums = Sums.of_stations(weights[:1], [only], stations, HELD[True])
    chosen = sums.made_up(np.ones(1, dtype=bool), 1.0)
    assert chosen.use.all()
    assert chosen.side == np.sign(row @ only.weights)
    assert not len(chosen.wrong)
