"""The rooms of a ReLU network's reading, against networks whose weights are known: closing a layer, fits, sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_gradients, relu_net, single
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.both_sides import both_sides
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.closing import close
from unveil.identification.piecewise_linear.derivative_sums import HELD, Chosen, Sums
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.fresh_answers import beside
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading import contradicted, lines_to, read_network
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.rows_from_points import usual_on

SIZES = (8, 5, 2)


def begun(weights: Weights, dtype: type, rng: np.random.Generator) -> tuple[Setup, Reading]:
    """The first layer's true hyperplanes with random signs, and derivatives at random places."""
    n = weights[0][0].shape[1]
    log = Asked(uv.as_oracle(relu_net(weights, dtype), n))
    noise = rounding(log, rng.standard_normal((4, n)), log.oracle.resolution, rng)
    setup = Setup(Probe(log, noise, rng), log, 20.0, 24, 8)
    (W, b), (V, _) = weights[:2]
    size = np.linalg.norm(W, axis=1)
    sign = rng.choice([-1.0, 1.0], len(b))
    rows, bias = sign[:, None] * W / size[:, None], sign * b / size
    x = rng.standard_normal((40, n))
    log(x)
    at = -bias[:, None] * rows
    jump = sign[:, None] * (V.T if len(weights) == 2 else np.ones((len(b), weights[-1][0].shape[0]))) * size[:, None]
    frame = Frame.of_input(n, None)
    found = LayerFound.nothing(frame, len(weights[-1][1]))
    found = found.with_straight(Hyperplanes(rows, bias, jump, np.full(len(b), 1e-9), at))
    found = found.with_derivatives(x, relu_gradients(weights, x), np.zeros(len(x)))
    return setup, Reading.begun(setup, frame).with_found(found)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_layer_is_closed_with_its_signs_and_the_network_behind(dtype: type) -> None:
    right = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = single(random_weights(SIZES, rng, bias=0.5))
        setup, state = begun(weights, dtype, rng)
        before = setup.oracle.ledger.asked
        closed = close(setup, state)
        assert closed.layer is not None
        assert closed.network is not None
        assert closed.settled
        # Exact answers that are already paid for are enough.
        assert setup.exact == (setup.oracle.ledger.asked == before)
        truth = uv.Network.from_weights(weights)
        x = rng.standard_normal((100, SIZES[0]))
        off = np.abs(closed.network(x) - truth(x)).max() / truth(x).std()
        same = (np.sign((closed.layer[0] * weights[0][0]).sum(axis=1)) > 0).all()
        right.append(bool(same and off < (1e-9 if setup.exact else 1e-5)))
    assert_rate(right, 0.9)


def test_a_layer_with_another_one_behind_is_not_taken_for_the_last() -> None:
    for dtype in (np.float64, np.float32):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            setup, state = begun(single(random_weights((8, 6, 5, 2), rng, bias=0.5)), dtype, rng)
            closed = close(setup, state)
            # A fit that comes near says that something is missing.
            assert not closed.whole or closed.lacking
            assert closed.error > setup.fine


def test_lines_to_where_a_network_is_wrong_cross_the_neuron_that_it_lacks() -> None:
    crossed = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = random_weights((12, 6, 2), rng, bias=0.5)
        (W, b), (V, c) = weights
        b[0] = -2.5 * np.linalg.norm(W[0])  # active at one usual input in hundreds
        setup, state = begun(weights, np.float64, rng)
        lacking = uv.Network.from_weights([(W[1:], b[1:]), (V[:, 1:], c)])
        assert not len(contradicted(setup, replace(state, network=uv.Network.from_weights(weights), error=0.0)).wrong)
        wrong = contradicted(setup, replace(state, network=lacking, error=0.0)).wrong
        assert len(wrong)
        assert (wrong @ W[0] + b[0] > 0).all()
        for line in lines_to(setup, state.frame, wrong[:5]):
            crossed.append(np.abs((line.points @ W[0] + b[0]) / np.linalg.norm(W[0])).min(initial=1.0) < 1e-9)
    assert_rate(crossed, 0.9)


def test_lines_lead_to_where_few_digits_are_wrong_only_while_rows_are_missing() -> None:
    whole, lacking = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        weights = single(random_weights((12, 6, 5, 1), rng, bias=0.5))
        setup, state = begun(weights, np.float32, rng)
        closed = close(setup, state)  # wrong everywhere: another layer lies behind
        whole.append(not closed.whole and not len(closed.wrong))
        closed = close(setup, state.with_found(state.found.keep(np.arange(6) > 0)))
        lacking.append(not closed.whole and len(closed.wrong) > 0)
    assert_rate(whole, 0.9)
    assert_rate(lacking, 0.9)


def test_states_are_not_changed_by_later_ones() -> None:
    rng = np.random.default_rng(0)
    weights = random_weights((6, 5, 4, 1), rng, bias=0.5)
    log = Asked(uv.as_oracle(relu_net(weights), 6))
    noise = rounding(log, rng.standard_normal((4, 6)), log.oracle.resolution, rng)
    states = list(read_network(Setup(Probe(log, noise, rng), log, 100.0, 24, 8), Frame.of_input(6, None)))
    counts = [len(state.found) for state in states]
    assert counts[0] == 0
    assert max(counts) == 5
    assert states[-1].first is not None
    assert len(states[-1].first) == 5
    assert states[-1].network is not None
    assert states[-1].network.widths[0] == 5
    x = rng.standard_normal((200, 6))
    assert np.abs(states[-1].network(x) - relu_net(weights)(x)).max() < 1e-8


def test_every_neuron_of_every_layer_is_met_on_both_sides() -> None:
    rng = np.random.default_rng(6)
    weights = random_weights((30, 14, 9, 6, 3), rng, bias=0.5)
    for depth in range(3):
        weights[depth][1][0] = 3.0 * np.linalg.norm(weights[depth][0][0])  # nearly always active
    network = uv.Network.from_weights(weights)
    x = rng.standard_normal((600, 30))

    def fewest(points: np.ndarray) -> list[int]:
        return [int(min((z > 0).sum(axis=0).min(), (z < 0).sum(axis=0).min())) for z in network.preactivations(points)]

    before, after = fewest(x)[:3], fewest(both_sides(network, x))[:3]
    assert min(before) < 3
    # Later layers' points may be taken from earlier ones'.
    assert all(count >= layer.inputs for count, layer in zip(after, network.layers[:-1], strict=True))


def followed(rows: np.ndarray, bias: np.ndarray) -> list[Neuron]:
    k, q = rows.shape
    return [Neuron(rows[i], float(bias[i]), np.ones(q, dtype=bool), (), 1e-12 * np.eye(q + 1)) for i in range(k)]


@pytest.mark.parametrize("exact", [True, False])
def test_derivatives_are_sums_of_the_active_neurons_of_a_whole_layer_only(exact: bool) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = random_weights((10, 6, 3), rng, bias=0.3)
        (W, b), x = weights[0], rng.standard_normal((60, 10))
        slopes = relu_gradients(weights, x)
        if not exact:
            slopes += 1e-3 * rng.standard_normal(slopes.shape)
        stations = [Station(*each, 1e-12 if exact else 1e-3) for each in zip(x, slopes, strict=True)]
        size, sign = np.linalg.norm(W, axis=1), rng.choice([-1.0, 1.0], 6)
        neurons = followed(sign[:, None] * W / size[:, None], sign * b / size)

        def made_up(neurons: list[Neuron], stations: list[Station] = stations) -> Chosen:
            sums = Sums.of_stations([], neurons, stations, HELD[exact])
            return sums.made_up(np.ones(len(neurons), dtype=bool), 0.95)

        chosen = made_up(neurons)
        assert chosen.use.all()
        assert chosen.side.tolist() == sign.tolist()
        assert len(chosen.right) > 50 >= 10 * len(chosen.wrong)
        assert len(made_up(neurons[1:]).wrong) > 5
        # One that nothing calls for is left out.
        row = rng.standard_normal(10)
        more = made_up([*neurons, *followed(row[None] / np.linalg.norm(row), np.zeros(1))])
        assert more.use.tolist() == [True] * 6 + [False]


@pytest.mark.parametrize("exact", [True, False])
def test_a_derivative_calls_for_the_neurons_without_which_the_others_do_not_make_it_up(exact: bool) -> None:
    called = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = random_weights((10, 6, 3), rng, bias=0.3)
        (W, b), x = weights[0], rng.standard_normal((60, 10))
        slopes = relu_gradients(weights, x) + (0 if exact else 1e-3) * rng.standard_normal((60, 3, 10))
        stations = [Station(*each, 1e-12 if exact else 1e-3) for each in zip(x, slopes, strict=True)]
        size = np.linalg.norm(W, axis=1)
        # One of them twice, and one of which two weights are unknown.
        neurons = followed(np.append(W, W[:1], axis=0) / np.append(size, size[0])[:, None], np.append(b, b[0]) / 2)
        neurons[2] = replace(neurons[2], known=np.arange(10) > 1)
        sums, side = Sums.of_stations([], neurons, stations, HELD[exact]), rng.choice([-1.0, 1.0, 1.0, 1.0], 7)
        use, which = rng.random(7) < 0.9, np.arange(7)
        calls, active = sums.calls(side, use, which)
        tells, wrong = sums.judged(side, use)
        np.testing.assert_array_equal(active, (tells & ~wrong)[:, None] & (sums.z * side > 0))
        for i in which:
            without = sums.judged(side, use & (which != i))[1]
            np.testing.assert_array_equal(calls[:, i], active[:, i] & without)
        called += int(calls.sum())
    assert called > 100


def test_a_reading_keeps_the_better_network() -> None:
    rng = np.random.default_rng(1)
    setup, state = begun(random_weights(SIZES, rng), np.float64, rng)
    one, other = (uv.Network.from_weights(random_weights(SIZES, rng)) for _ in range(2))
    state = state.with_network(one, 0.1)
    assert state.with_network(other, 0.2) is state
    assert state.with_network(other, 0.05).network is other
    assert replace(state, layers=()).first_layer is not None
    assert setup.fine >= 1e-7


def test_points_beside_places_of_hyperplanes_lie_in_the_region_and_on_either_side() -> None:
    rng = np.random.default_rng(7)
    (rows, bias), (behind, offset), _ = random_weights((12, 8, 5, 2), rng, bias=0.5)
    frame = Frame.of_input(12, None).after(rows, bias)
    size = np.linalg.norm(behind, axis=1)
    some = Hyperplanes(behind / size[:, None], offset / size, np.ones((5, 2)), np.full(5, 1e-4), np.zeros((5, 12)))
    pool = frame.sample(400, rng)
    there = [i for i in range(5) if np.ptp(np.sign(some.sums(frame, pool)[:, i])) > 0]
    planes = some[np.array(there)]
    planes = replace(planes, at=usual_on(frame, planes, rng))
    x = beside(frame, planes)
    assert len(there) > 1
    assert (x @ frame.G.T + frame.g >= -1e-9).all()
    z = planes.sums(frame, x).reshape(2, -1, len(there), len(there))
    own = z[:, :, np.arange(len(there)), np.arange(len(there))]
    assert (own[0] < 0).all()
    assert (own[1] > 0).all()
