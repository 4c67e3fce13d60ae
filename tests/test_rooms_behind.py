"""Rooms of the piecewise-linear reading, each begun with what is known: candidates, last layer, whole fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_gradients, relu_net, single
from tests.test_deeper_neurons import of_neuron, of_third_layer
from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.rounding import Rounding, rounding
from unveil.identification.fitting.output_layer import Asked, after
from unveil.identification.piecewise_linear.behind_first_layer import read_behind
from unveil.identification.piecewise_linear.deeper_layers import close
from unveil.identification.piecewise_linear.deeper_state import Candidates, Deeper
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer_from_points import (
    _more_behind,
    by_evidence,
    merge_points,
    reopened,
)
from unveil.identification.piecewise_linear.neuron import Neuron, same_hyperplane
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading import read_inputs
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.traced_layers import (
    Traced,
    _behind,
    _last,
    _with,
    first_sums,
    trace_layers,
)
from unveil.identification.piecewise_linear.whole_fit import WHOLE_FIT_PER_PARAMETER, finish_exact, fit_is_cheap
from unveil.whitebox.network import Network

SEEDS = range(5)


class Begun:
    """A reading of an exact network that knows the first layer."""

    def __init__(self, seed: int, sizes: tuple[int, ...]) -> None:
        self.rng = np.random.default_rng(seed)
        self.weights: Weights = random_weights(sizes, self.rng, bias=0.5)
        self.truth = Network.from_weights(self.weights)
        self.n, self.m = sizes[0], sizes[-1]
        self.log = Asked(uv.as_oracle(relu_net(self.weights), self.n, budget=100_000))
        self.frame = Frame.of_input(self.n, None)
        noise = rounding(self.log, self.frame.sample(4, self.rng), self.log.oracle.resolution, self.rng)
        self.probe = Probe(self.log, noise, self.rng)
        self.setup = Setup(self.probe, self.log, 100.0, 24, 8)
        rows, bias = self.weights[0]
        size = np.linalg.norm(rows, axis=1)
        self.layer = (rows / size[:, None], bias / size)
        count = len(size)
        planes = Hyperplanes(*self.layer, np.ones((count, self.m)), np.full(count, 1e-12), np.zeros((count, self.n)))
        self.first = LayerFound.nothing(self.frame, self.m).with_straight(planes)
        x = self.frame.sample(12, self.rng)
        self.stations = [Station(*each, 0.0) for each in zip(x, relu_gradients(self.weights, x), strict=True)]

    def deeper(self) -> Deeper:
        return Deeper.begun(self.setup, self.frame, self.layer, self.first, [], [])

    def off(self, network: Network) -> float:
        x = 2 * self.rng.standard_normal((500, self.n))
        y = self.truth(x)
        return float(np.abs(network(x) - y).max() / np.abs(y).max())


def turned(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each unit row from the nearest other, up to sign."""
    rows, others = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (rows, others))
    return np.minimum(
        np.linalg.norm(rows[:, None] - others, axis=2), np.linalg.norm(rows[:, None] + others, axis=2)
    ).min(axis=1)


def test_neurons_are_sure_by_the_settings_that_they_were_met_in() -> None:
    given = Neuron.given(np.array([0.6, 0.8]), 0.1, 1e-9)
    merged = replace(given, before=None, members=(0, 1))
    cases = [  # the neuron, how often it should have been met and was, in how many settings
        (given, 10, 10, 1, "perhaps"),
        (given, 10, 10, 2, "sure"),
        (merged, 10, 10, 1, "perhaps"),
        (merged, 10, 10, 3, "perhaps"),
        (merged, 10, 10, 4, "sure"),
        (merged, 10, 8, 9, ""),
        (replace(merged, members=(0,)), 10, 10, 9, ""),
        (replace(merged, known=np.array([True, False])), 10, 10, 9, ""),
    ]
    for neuron, should, were, settings, expected in cases:
        met = replace(neuron, should=should, were=were, settings=settings)
        told = dict(zip(("sure", "perhaps"), by_evidence([met]), strict=True))
        assert "".join(name for name, those in told.items() if those) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_critical_points_become_the_last_hidden_layer(seed: int) -> None:
    one = Begun(seed, (8, 6, 4, 1))
    seen = tuple(p for i in range(4) for p in of_neuron(one.weights, i, 9, one.rng))
    base, direction, low, high = one.frame.lines(8, 100.0, one.rng)
    lines = line_search(one.probe.ask, base, direction, low, high, one.probe.noise, one.rng)
    begun = replace(one.deeper(), seen=seen, lines=tuple(lines), stations=tuple(one.stations))
    state = merge_points(one.setup, begun)
    neurons = state.candidates.neurons
    assert len(neurons) == 4
    size = np.linalg.norm(one.weights[0][0], axis=1)
    # Behind unit rows the second layer's weights are as many times as large.
    rows = np.concatenate([one.weights[1][0] * size, one.weights[1][1][:, None]], axis=1)
    known = np.array([n.known for n in neurons])
    for n in neurons:
        true = rows * np.append(n.known, True)
        assert turned(np.append(n.weights, n.bias)[None], true)[0] < 1e-7
    assert known.mean() > 0.8
    if known.all():
        assert state.few_open
    # No step changes what was handed to it; nothing met leaves nothing to merge.
    assert begun.candidates.neurons == ()
    assert merge_points(one.setup, one.deeper()).candidates.neurons == ()


def test_a_layer_is_not_the_last_where_most_of_what_is_left_is_passed_on() -> None:
    one = Begun(0, (9, 8, 6, 5, 1))
    second = one.weights[1]
    behind = of_third_layer(one.weights, 20, one.rng)
    foreign = [replace(each, normal=one.rng.permutation(each.normal)) for each in behind]
    begun = replace(one.deeper(), layers=[one.weights[0]])
    explained = tuple(of_neuron(one.weights, 0, 20, one.rng))
    for seen, more in ((behind, True), (foreign, False), ([*behind[:5], *foreign], False), ((), False)):
        assert _more_behind(replace(begun, seen=(*explained, *seen)), second) == more


def test_a_layer_is_opened_again_for_a_neuron_of_it_and_for_none_behind_it() -> None:
    for_its_own, for_deeper = [], []
    for seed in range(8):
        one = Begun(seed, (10, 7, 5, 4, 1))
        rows, bias = one.weights[1]
        lacking = rows[:4] * np.linalg.norm(one.weights[0][0], axis=1), bias[:4]
        base, direction, low, high = one.frame.lines(12, 100.0, one.rng)
        lines = line_search(one.probe.ask, base, direction, low, high, one.probe.noise, one.rng)
        seen = [p for i in range(4) for p in of_neuron(one.weights, i, 10, one.rng)]
        begun = replace(one.deeper(), seen=tuple(seen), lines=tuple(lines), stations=tuple(one.stations))
        closed = begun.behind(lacking)
        assert not closed.seen
        h = after(one.weights[:2], one.frame.sample(99, one.rng))
        switching = one.weights[2][0], -np.median(h @ one.weights[2][0].T, axis=0)
        behind = tuple(of_third_layer([*one.weights[:2], switching], 12, one.rng))
        late = tuple(of_neuron(one.weights, 4, 12, one.rng))
        again = reopened(replace(closed, seen=(*behind, *late)))
        for_its_own.append(len(again.layers) == 1)
        # All that was met is there again, once.
        assert set(again.seen) == {*behind, *late, *(seen if for_its_own[-1] else ())}
        assert len(again.seen) == len(set(again.seen))
        kept = reopened(replace(closed, seen=behind))
        for_deeper.append(len(kept.layers) == 1)
        # What was looked at in vain is not again, before twice as much was met.
        assert for_deeper[-1] or (kept.doubted == 12 and reopened(kept) is kept)
        assert reopened(replace(begun, seen=late)).before is None
    assert sum(for_its_own) >= 7
    assert not any(for_deeper)


def test_a_layer_that_explains_the_answers_is_the_last_one() -> None:
    ended = []
    for seed in SEEDS:
        one = Begun(seed, (10, 6, 3, 2))
        seen = [p for i in range(3) for p in of_neuron(one.weights, i, 14, one.rng)]
        # Points that no neuron explains: it is not merely that nothing is left to look at.
        foreign = [replace(each, normal=one.rng.permutation(each.normal)) for each in seen[:12]]
        base, direction, low, high = one.frame.lines(12, 100.0, one.rng)
        lines = line_search(one.probe.ask, base, direction, low, high, one.probe.noise, one.rng)
        one.log(one.frame.sample(300, one.rng))
        begun = replace(one.deeper(), seen=(*seen, *foreign), lines=tuple(lines), stations=tuple(one.stations))
        state = merge_points(one.setup, begun)
        assert len(state.layers) == 1
        ended.append(state.last)
    assert any(ended)


def test_neurons_close_into_the_network_or_are_found_wanting() -> None:
    closed: list[bool] = []
    for seed in range(6):
        one = Begun(seed, (8, 6, 4, 2))
        size = np.linalg.norm(one.weights[0][0], axis=1)
        layer = (one.weights[1][0] * size, one.weights[1][1])
        one.log(one.frame.sample(300, one.rng))
        state, error = close(one.setup, one.deeper().ending(layer), 1e-7)
        closed.append(error < 1e-9)
        # No network is called better than it is.
        assert state.network is None or one.off(state.network) < max(1e-9, 10 * error)
        assert error > 1e-9 or not len(state.wrong)
        few = (layer[0][:3], layer[1][:3])
        lacking, off = close(one.setup, one.deeper().ending(few), 1e-7)
        # Without one of its neurons it is wrong somewhere, and says so.
        assert off > 1e-6
        assert lacking.network is None or one.off(lacking.network) > 1e-6
    assert sum(closed) >= 5
    # With points met that nothing explains there is nothing to close.
    nothing, off = close(one.setup, replace(one.deeper(), candidates=Candidates(open=9)), 1e-7)
    assert (nothing.network, off) == (None, np.inf)


def test_a_network_without_neurons_is_affine() -> None:
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((2, 4)), rng.standard_normal(2)
    log = Asked(uv.as_oracle(lambda x: x @ w.T + b, 4))
    frame = Frame.of_input(4, None)
    setup = Setup(Probe(log, rounding(log, frame.sample(4, rng), 1e-16, rng), rng), log, 20.0, 24, 8)
    before = log.oracle.ledger.asked
    network = finish_exact(setup, Reading.begun(setup, frame)).network
    assert log.oracle.ledger.asked == before
    assert network is not None
    np.testing.assert_allclose(network.layers[0].dense(), w, atol=1e-9)
    np.testing.assert_allclose(network.layers[0].bias, b, atol=1e-9)
    assert finish_exact(setup, replace(Reading.begun(setup, frame), over=True)).network is None


@pytest.mark.parametrize("seed", SEEDS)
def test_the_last_digits_of_all_weights_are_fitted(seed: int) -> None:
    one = Begun(seed, (6, 5, 2))
    one.log(one.frame.sample(400, one.rng))
    rough = Network.from_weights([(w * (1 + 1e-6 * one.rng.standard_normal(w.shape)), b) for w, b in one.weights])
    state = replace(Reading.begun(one.setup, one.frame), network=rough, error=1e-6)
    done = finish_exact(one.setup, state)
    assert done.network is not None
    assert one.off(rough) > 1e-8 > 1e-11 > one.off(done.network)
    # What is far from the answers is worth no more of them.
    bad = replace(state, error=0.5)
    assert finish_exact(one.setup, bad) is bad


def test_a_fit_of_everything_is_cheap_beside_the_first_layer_along_all_inputs() -> None:
    one = Begun(0, (6, 5, 2))
    state = Reading.begun(one.setup, one.frame).with_found(one.first)
    wide = one.setup._replace(inputs=400)
    # 5 rows of 400 weights, told two at a time: a thousand answers.
    most = int(400 * 5 / WHOLE_FIT_PER_PARAMETER)
    assert fit_is_cheap(wide, state, most)
    assert not fit_is_cheap(wide, state, most + 4)
    assert not fit_is_cheap(one.setup, state, 10)
    assert not fit_is_cheap(wide, replace(state, first=None), 10)


@pytest.mark.parametrize("seed", SEEDS)
def test_behind_a_known_first_layer_the_rest_is_read(seed: int) -> None:
    one = Begun(seed, (8, 6, 4, 1))
    one.log(one.frame.sample(50, one.rng))
    lines = line_search(one.probe.ask, *one.frame.lines(4, 100.0, one.rng), one.probe.noise, one.rng)
    found = one.first
    for line in lines:
        found = found.with_line(line)
    state = replace(Reading.begun(one.setup, one.frame).with_found(found).counted(), layer=one.layer, settled=True)
    last = state
    for last in read_behind(one.setup, state):
        assert [len(w) for w, _ in last.layers[:1]] == [6]
    assert last.network is not None
    assert last.error < 1e-7
    assert one.off(last.network) < 1e-7
    assert last.told[0]["neurons"] == 6
    # With half of the signs open nothing behind is what it seems.
    (unsettled,) = read_behind(one.setup, replace(state, settled=False))
    assert unsettled.over
    assert unsettled.network is None


@pytest.mark.parametrize("seed", SEEDS)
def test_values_of_the_first_layer_are_asked_where_all_of_it_is_active(seed: int) -> None:
    one = Begun(seed, (7, 5, 3, 1))
    probe, positive, usual = first_sums(one.probe, one.frame.after(*one.layer), np.zeros(len(one.layer[1])))
    z = positive.sample(20, one.rng)
    assert z.shape == (20, 5)
    assert (z > 0).all()
    # Usual ones have the covariance that usual inputs give them.
    sums = usual.sample(20_000, one.rng)
    np.testing.assert_allclose(np.cov(sums.T), one.layer[0] @ one.layer[0].T, atol=0.1)
    np.testing.assert_allclose(sums.mean(axis=0), one.layer[1], atol=0.1)
    size = np.linalg.norm(one.weights[0][0], axis=1)
    rest = relu_net([(one.weights[1][0] * size, one.weights[1][1]), one.weights[2]])
    np.testing.assert_allclose(probe.ask(z), rest(z), atol=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_layers_are_traced_from_single_precision(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = single(random_weights((7, 5, 3), rng, bias=0.5))
    probe, frame, usual = few_digits(weights, rng)
    *_, traced = trace_layers(probe, frame, usual, np.zeros(7), 3, lambda: False)
    assert traced.unknown is not None or len(traced.layers) == 2
    read = np.concatenate([part[:, None] if part.ndim == 1 else part for part in traced.unknown or traced.layers[1]], 1)
    rows = np.concatenate([weights[0][0], weights[0][1][:, None]], axis=1)
    assert len(read) >= 3
    assert turned(read, rows).max() < 1e-3
    # Nothing is missing from a layer that counts as whole.
    assert all(share <= 0.02 for share in traced.lacking)
    assert len(traced.lacking) == len(traced.layers) - 1
    # A layer that is not the last leaves something behind.
    begun = Traced.begun(np.zeros(7))
    other = replace(
        begun,
        layers=(*begun.layers, (weights[0][0][:2], weights[0][1][:2])),
        spreads=(*begun.spreads, np.zeros((2, 8, 8))),
    )
    assert not _last(probe, frame, other)
    assert len(list(trace_layers(probe, frame, usual, np.zeros(7), 3, lambda: True))[-1].layers) == 1


def few_digits(weights: Weights, rng: np.random.Generator) -> tuple[Probe, Frame, Frame]:
    """A network of what some neurons sum up, in single precision; where all of these are positive, and anywhere."""
    d = weights[0][0].shape[1]
    net, eye, none = relu_net(weights, np.float32), np.eye(d), np.zeros(d)
    frame = Frame(eye, none, eye, eye, none, eye, none)
    usual = replace(frame, G=eye[:0], g=none[:0], usual=(eye, none))
    size = float(np.median(np.linalg.norm(frame.sample(50, rng), axis=1)))

    def ask(z: np.ndarray) -> np.ndarray:
        return net(np.maximum(z, 0).astype(np.float32)).astype(float)

    return Probe(ask, Rounding(np.full(weights[-1][0].shape[0], 3e-7), size, 3e-7, True), rng), frame, usual


def test_where_first_rows_are_off_their_breakpoints_are_theirs_within_that() -> None:
    rng = np.random.default_rng(3)
    (w, b), last = random_weights((6, 3, 2), rng, bias=0.5)
    probe, frame, usual = few_digits([(w, b), last], rng)
    off = np.array([0.0, 1e-4, 1e-3, 1e-2, 1e-2, 1e-2])
    at = rng.standard_normal((6, 6))
    np.fill_diagonal(at, off)
    # The neuron behind sees what its active neurons see, as far off as these are.
    one = Neuron(
        w[0] / np.linalg.norm(w[0]), float(b[0] / np.linalg.norm(w[0])), np.ones(6, bool), (), np.zeros((7, 7))
    )
    plane = np.abs(rng.standard_normal((40, 6))) + 1
    plane -= (plane @ one.weights + one.bias)[:, None] * one.weights
    plane = plane[(plane > 0.1).all(axis=1)]
    beside = plane + 0.01 * one.weights
    assert len(plane) > 3
    for error, theirs in ((off, True), (np.zeros(6), False)):
        state = Traced.begun(error)
        behind = _behind(probe, usual, state)
        assert behind.explained(at, np.zeros(6), ()).all() == theirs
        assert not behind.explained(plane, np.zeros(len(plane)), ()).any()
        assert behind.explained(plane, np.zeros(len(plane)), (one,)).all()
        assert behind.explained(beside, np.zeros(len(plane)), (one,)).all() == theirs
        # Where all of them are active no error of theirs is felt.
        assert not _behind(probe, frame, state).explained(beside, np.zeros(len(plane)), (one,)).any()


def test_a_neuron_that_is_off_where_all_before_it_are_on_is_found_at_usual_points() -> None:
    found, elsewhere = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        (w, b), last = random_weights((8, 4, 5), rng, bias=0.5)
        # Active where few neurons are.
        w[0], b[0] = -np.abs(w[0]) - 0.3, 1.5
        probe, frame, usual = few_digits(single([(w, b), last]), rng)
        z = frame.sample(4000, rng)
        elsewhere.append((z @ w[0] + b[0] > 0).mean())
        *_, traced = trace_layers(probe, frame, usual, np.zeros(8), 1, lambda: False)
        rows = traced.unknown[0] if traced.unknown is not None else traced.layers[-1][0]
        found.append(turned(w[:1], rows).max() < 0.01)
    assert max(elsewhere) < 0.02
    assert_rate(found, 0.6)


def test_of_a_neuron_followed_twice_the_one_known_better_is_kept() -> None:
    rng = np.random.default_rng(0)
    row = rng.standard_normal(6)

    def followed(weights: np.ndarray, bias: float, known: np.ndarray) -> Neuron:
        return Neuron(weights * known, bias, known, (), np.eye(7))

    every = np.ones(6, bool)
    whole, part = followed(row, 0.1, every), followed(-2 * row, -0.2, np.arange(6) < 4)
    assert _with((part,), whole) == (whole,)
    assert _with((whole,), part) == (whole,)
    # One that is parallel is another one, and so is one of which nothing is known that is known of this.
    for other in (followed(rng.standard_normal(6), 0.1, every), followed(row, 0.9, every)):
        assert _with((whole,), other) == (whole, other)
    assert not same_hyperplane(followed(row, 0.1, np.arange(6) < 1), [whole], 1.0).any()
    assert not len(same_hyperplane(whole, [], 1.0))


def test_many_inputs_are_read_along_a_few_directions_first() -> None:
    one = Begun(1, (66, 5, 1))
    states = list(read_inputs(one.setup, one.frame))
    assert states[0].directions > 0
    last = states[-1]
    assert last.whole
    assert last.network is not None
    assert one.off(last.network) < 1e-8
    assert last.directions == states[0].directions < 66
    few = Begun(1, (6, 5, 1))
    assert all(state.directions == 0 for state in read_inputs(few.setup, few.frame))
