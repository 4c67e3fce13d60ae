"""Hyperplanes are confirmed at fresh places: the first layer's everywhere, those of deeper layers nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_elsewhere, relu_net, single
from unveil.blackbox.rounding import Rounding, rounding
from unveil.identification.fitting.balance import but_for_one, by_balance
from unveil.identification.fitting.output_layer import Asked, with_linear_part
from unveil.identification.piecewise_linear.critical_points import CriticalPoints, _Attempt
from unveil.identification.piecewise_linear.far_places import EACH, anywhere_on, confirm
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.open_parameters import unknown_weights, with_switches, with_weights
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.validation import FEWEST_WITH_AFFINE_PART, affine_part, how_many, validate


def rare_in_a_box(seed: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.random.Generator]:
    """One hidden layer in [0, 1] as training makes it: a third of it on, a third off, nearly everywhere."""
    rng = np.random.default_rng(seed)
    weights = random_weights((20, 9, 4), rng)
    w, b = weights[0]
    middle, reach = w.sum(axis=1) / 2, np.abs(w).sum(axis=1) / 2
    b[:] = -middle + reach * np.repeat([0.0, 0.35, -0.35], 3) * rng.uniform(0.8, 1.0, 9)
    return weights, rng


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_points_on_hyperplanes_are_legal_also_where_these_cut_off_a_corner() -> None:
    rng = np.random.default_rng(0)
    frame = Frame.of_input(30, (0.0, 1.0))
    rows = unit(rng.standard_normal((40, 30)))
    low, high = np.minimum(rows, 0).sum(axis=1), np.maximum(rows, 0).sum(axis=1)
    bias = -(low + 0.03 * (high - low))
    at = np.where(rows < 0, 0.97, 0.03)
    planes = Hyperplanes(rows, bias, np.ones((40, 1)), np.full(40, 1e-9), at)
    x = anywhere_on(frame, planes, rng)
    assert np.abs((x * rows).sum(axis=1) + bias).max() < 1e-12
    assert x.min() >= -1e-12
    assert x.max() <= 1 + 1e-12
    assert np.linalg.norm(x - at, axis=1).min() > 1e-3


def test_rows_of_the_first_layer_are_confirmed_and_what_is_only_there_in_one_place_is_not() -> None:
    """Truth in hand: true rows, the local normals of second-layer neurons, and hyperplanes that are nowhere."""
    true, false = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights = single(random_weights((16, 10, 8, 3), rng, bias=0.3))
        for within in (None, (-1.5, 1.5)):
            (w, b), (v, c) = weights[:2]
            frame = Frame.of_input(16, within)
            ask = Asked(uv.as_oracle(relu_elsewhere(weights, rng, np.float32), 16, within=within))
            noise = rounding(ask, frame.sample(4, rng), ask.oracle.resolution, rng)
            x = frame.sample(8, rng)
            on = x @ w.T + b > 0
            deep = np.einsum("ij,ij,jd->id", v, on, w)
            size = np.linalg.norm(deep, axis=1, keepdims=True)
            # On each of these hyperplanes, within the piece around x, the second layer's neuron would switch.
            step = (np.einsum("ij,ij->i", np.maximum(x @ w.T + b, 0), v) + c)[:, None] * deep / size**2
            seen = x - step
            odd = unit(rng.standard_normal((8, 16)))
            rows = np.concatenate([unit(w), deep / size, odd])
            at = np.concatenate([frame.sample(10, rng), seen, x])
            bias = np.concatenate([b / np.linalg.norm(w, axis=1), -np.einsum("kd,kd->k", rows, at)[10:]])
            jump = np.full((len(rows), 3), 0.2)
            met = Hyperplanes(rows, bias, jump, np.full(len(rows), 1e-5), at)
            again = confirm(Probe(ask, noise, rng), frame, met, met)
            true += again.there[:10].tolist()
            false += again.there[10:].tolist()
    assert_rate(true, 0.95, "true rows confirmed")
    assert_rate([not each for each in false], 0.99, "false rows left out")


@pytest.mark.parametrize("budget", [500, 3000, 20_000])
def test_rows_that_the_budget_does_not_allow_to_meet_again_are_not_told(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    weights = random_weights((16, 10, 8, 3), rng, bias=0.3)
    true, false = unit(weights[0][0]), unit(rng.standard_normal((30, 16)))
    bias = np.append(weights[0][1] / np.linalg.norm(weights[0][0], axis=1), np.zeros(30))
    rows, x = np.concatenate([true, false]), rng.standard_normal((40, 16))
    at = x - ((x * rows).sum(axis=1) + bias)[:, None] * rows
    met = Hyperplanes(rows, bias, np.full((40, 3), 0.2), np.full(40, 1e-9), at)

    def endless(setup: Setup, frame: Frame) -> Iterator[Reading]:
        state = Reading.begun(setup, frame)
        yield state.with_found(LayerFound.nothing(frame, 3).with_straight(met))
        while True:
            setup.log(frame.sample(10, rng))

    monkeypatch.setattr("unveil.identification.piecewise_linear.critical_points.read_inputs", endless)
    oracle = uv.as_oracle(relu_net(weights), 16, budget=budget)
    found = CriticalPoints()(oracle, rng=rng)
    assert found.outcome is uv.Outcome.budget_ended
    assert found.queries <= budget
    told = np.abs(found.stats["rows_read"][0] @ true.T).max(axis=1, initial=0)
    assert (told > 0.999).all()
    # A round costs so much for each; a part of the budget is kept for that at most.
    assert len(told) == 10 if budget > 2 * 40 * EACH else len(told) <= budget // EACH


def test_a_layer_in_a_box_is_read_whole_though_most_of_its_neurons_hardly_ever_switch() -> None:
    whole, none_false = [], []
    for seed in range(3):
        weights, rng = rare_in_a_box(seed)
        oracle = uv.as_oracle(relu_elsewhere(weights, rng), 20, within=(0, 1), budget=60_000)
        found = uv.identify(oracle, rng=rng)
        rows = found.network.layers[0].dense() if found.network is not None else np.empty((0, 20))
        if found.outcome is not uv.Outcome.complete:
            rows = found.stats["rows_read"][0]
        cos = np.abs(unit(rows) @ unit(weights[0][0]).T)
        none_false.append(bool((cos.max(axis=1) > 0.999).all()) or "affine_part" in found.stats)
        whole.append(found.outcome is uv.Outcome.complete)
    assert_rate(none_false, 0.99, "no false rows")
    assert_rate(whole, 0.8, "read whole")


def test_rows_that_carry_an_affine_part_are_told_and_make_the_check_look_further() -> None:
    rng = np.random.default_rng(1)
    weights = random_weights((6, 5, 5, 1), rng, bias=0.5)
    (v, c) = weights[1]
    row, middle = rng.standard_normal(5), 0.3
    pair = (np.concatenate([v, row[None], -row[None]]), np.append(c, [middle, -middle]))
    network = uv.Network.from_weights(
        [weights[0], pair, (np.append(weights[2][0], [[1.0, -1.0]], axis=1), weights[2][1])]
    )
    assert affine_part(network) == [0, 2]
    assert affine_part(uv.Network.from_weights(weights)) == [0, 0]
    oracle = uv.as_oracle(network, 6)
    assert how_many(oracle, network) == FEWEST_WITH_AFFINE_PART
    assert how_many(oracle, uv.Network.from_weights(weights)) < FEWEST_WITH_AFFINE_PART


def test_a_neuron_that_switches_only_far_out_is_not_passed_off_as_an_affine_part() -> None:
    """A second-layer neuron that is on at all usual inputs, and a copy that takes it for affine."""
    caught = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = random_weights((8, 8, 5, 1), rng, bias=0.5)
        (v, c) = weights[1]
        x = rng.standard_normal((20_000, 8))
        h = np.maximum(x @ weights[0][0].T + weights[0][1], 0)
        c[0] = -float((h @ v[0]).min()) + 1e-3  # always on here, off somewhere further out
        w = weights[2][0]
        pair = (np.concatenate([v, -v[:1]]), np.append(c, -c[0]))
        copy = uv.Network.from_weights([weights[0], pair, (np.append(w, -w[:, :1], axis=1), weights[2][1])])
        oracle = uv.as_oracle(relu_net(weights), 8)
        seen = validate(copy, oracle, how_many(oracle, copy), rng)
        caught.append(seen.further > 1e-6)
        assert seen.usual < 1e-12
    assert_rate(caught, 0.9, "copies that are wrong further out")


def test_what_a_neuron_that_is_always_on_stands_for_is_told() -> None:
    """Behind a first layer all weights may be positive: no input tells such a neuron from an affine part."""
    told = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        weights = random_weights((6, 5, 4, 1), rng, bias=0.5)
        (v, c) = weights[1]
        v[0], c[0] = np.abs(v[0]), 0.5
        method = uv.CriticalPoints(attempts=1)
        found = uv.identify(uv.as_oracle(relu_net(weights), 6, budget=30_000), method, rng=rng)
        assert found.network is not None
        x = rng.standard_normal((2000, 6))
        off = float(np.abs(found.network(x) - relu_net(weights)(x)).max())
        said = found.stats.get("affine_part", [0, 0])[1] > 0 or list(found.network.widths) == [5, 4, 1]
        told.append(said and off < 1e-9)
        if found.outcome is uv.Outcome.complete and found.stats.get("affine_part", [0, 0])[1]:
            assert found.residual <= 100 * found.stats["relative_rounding"]
    assert_rate(told, 0.6, "copies of all answers")


@pytest.mark.parametrize("m", [1, 3])
def test_numbers_that_an_affine_part_behind_the_first_layer_hides_are_open(m: int) -> None:
    rng = np.random.default_rng(1)
    weights = random_weights((6, 5, 5, m), rng, bias=0.5)
    (v, c), pair, out = weights[1], rng.standard_normal(5), rng.standard_normal((m, 1))
    layer = (np.concatenate([v, pair[None], -pair[None]]), np.append(c, [0.3, -0.3]))
    last = (np.concatenate([weights[2][0], out, -out], axis=1), np.zeros(m))
    network = uv.Network.from_weights([weights[0], layer, last])
    complete, approximate = uv.Outcome.complete, uv.Outcome.approximate
    noise = Rounding(np.full(m, 1e-16), 1.0, 1e-16, True)
    for within, expected in ((None, approximate), ((0.0, 1.0), complete)):
        attempt = _Attempt(uv.CriticalPoints(), uv.as_oracle(network, 6, within=within), rng)
        assert attempt._open(network, noise, complete) is expected
        assert attempt._open(uv.Network.from_weights(weights), noise, complete) is complete
    # What is measured is never exactly zero.
    holed = [(w.copy(), b) for w, b in weights]
    holed[1][0][2, 3] = 0
    attempt = _Attempt(uv.CriticalPoints(), uv.as_oracle(network, 6), rng)
    assert attempt._open(uv.Network.from_weights(holed), noise, complete) is approximate
    assert "1, given as 0" in attempt.why[0]
    # Of a first layer too, where noisy answers have not told its sides: more neurons than its affine part has numbers.
    (w, b), (v, c) = random_weights((3, 9, 1), rng, bias=0.5)
    wide = uv.Network.from_weights(with_linear_part([(w, b), (v, c)], rng.standard_normal((1, 3))))
    few = uv.Network.from_weights(with_linear_part([(w[:2], b[:2]), (v[:, :2], c)], rng.standard_normal((1, 3))))
    attempt = _Attempt(uv.CriticalPoints(), uv.as_oracle(wide, 3), rng)
    coarse = replace(noise, relative=1e-7)
    assert attempt._open(wide, coarse, complete) is approximate
    assert attempt._open(wide, noise, complete) is attempt._open(few, coarse, complete) is complete


@pytest.mark.parametrize(
    ("true", "open_"),
    [(-0.7, True), (0.0, True), (1e-4, True), (3e-3, False), (0.05, False), (0.6, False), (40.0, False)],
)
def test_a_weight_is_of_no_account_where_its_neurons_are_active_together_nowhere(true: float, open_: bool) -> None:
    rng = np.random.default_rng(3)
    first = random_weights((6, 4, 1), rng, bias=0.5)[0]
    # Two values of which one is zero wherever the other is not, and one more.
    second = (
        np.array([[1.0, -1.0, 0.3, -0.2], [-1.0, 1.0, -0.3, 0.2], [0.5, 0.5, 1.0, -1.0]]),
        np.array([-1.0, -1.0, 0.3]),
    )
    third = np.array([[1.0, true, -0.4], [0.6, 0.8, 0.2]]), np.array([-0.5, 0.1])
    last = rng.standard_normal((2, 2)), np.zeros(2)
    truth = uv.Network.from_weights([first, second, third, last])
    read = third[0].copy()
    read[0, 1] = 0
    network = uv.Network.from_weights([first, second, (read, third[1]), last])
    noise = Rounding(np.full(2, 1e-16), float(np.sqrt(6)), 1e-16, True)
    oracle = uv.as_oracle(truth, 6)
    asked = oracle.ledger.asked
    told, resolved = unknown_weights(network, oracle, noise)
    assert resolved == open_
    assert len(told) == 1
    assert oracle.ledger.asked - asked <= 3
    assert ("active together nowhere" in told[0]) == open_
    # What some place tells is read there, to the last digits but those of a neuron that hardly sees anything.
    told_weight = with_weights(network, oracle, noise, rng).layers[2].dense()[0, 1]
    assert told_weight == (0 if open_ else pytest.approx(true, rel=1e-6))
    # On a grid as well; what lies outside a box cannot be asked, and is not known.
    on_grid = with_weights(network, uv.as_oracle(truth, 6, grid=1e-3), noise, rng).layers[2].dense()[0, 1]
    assert on_grid == (0 if open_ else pytest.approx(true, rel=1e-5))
    assert not unknown_weights(network, uv.as_oracle(truth, 6, within=(-0.01, 0.01)), noise)[1]
    lacking = third[0].copy()
    lacking[1, 2] = 0
    filled = with_weights(uv.Network.from_weights([first, second, (lacking, third[1]), last]), oracle, noise, rng)
    assert filled.layers[2].dense() == pytest.approx(third[0], rel=1e-6)
    # Where both are active somewhere an unknown weight is not, and where nothing may be asked none is looked into.
    both = read.copy()
    both[0, 1], both[1, 1] = true or 1.0, 0
    assert not unknown_weights(uv.Network.from_weights([first, second, (both, third[1]), last]), oracle, noise)[1]
    few = uv.as_oracle(truth, 6, budget=100)
    few.ledger.budget = few.ledger.asked + 2
    assert not unknown_weights(network, few, noise)[1]
    assert unknown_weights(uv.Network.from_weights([first, second, (both + 1, third[1]), last]), oracle, noise) == (
        [],
        True,
    )


def test_signs_are_told_but_for_a_neuron_that_is_always_active() -> None:
    rng = np.random.default_rng(0)
    rows, weight, sign = rng.standard_normal((9, 7)), rng.standard_normal((9, 3)), rng.choice([-1.0, 1.0], 9)
    twice = (sign[:, None] * weight).T @ rows
    one, other = (np.outer(rng.standard_normal(3), rng.standard_normal(7)) for _ in range(2))
    assert by_balance(rows, weight, twice + one, 1e-5) is None
    np.testing.assert_array_equal(but_for_one(rows, weight, twice + one, 1e-5), sign)
    assert but_for_one(rows, weight, twice + one + other, 1e-5) is None
    # Of one output every choice leaves one.
    assert but_for_one(rows, weight[:, :1], twice[:1] + one[:1], 1e-5) is None


@pytest.mark.parametrize("carried", ["by one row", "by two"])
def test_a_neuron_that_is_always_active_gets_its_bias_where_it_switches(carried: str) -> None:
    rng = np.random.default_rng(3)
    weights = random_weights((8, 6, 5, 3), rng, bias=0.5)
    (v, c), (out, end) = weights[1:]
    x = rng.standard_normal((3000, 8))
    seen = np.maximum(x @ weights[0][0].T + weights[0][1], 0) @ v[0]
    c[0] = 1 - seen.min()
    truth = uv.Network.from_weights(weights)
    pair = np.append(c, -c[0]), np.concatenate([v, -v[:1]])
    if carried == "by one row":
        wrong = [weights[0], (v, np.append(c[0] + 2, c[1:])), (out, end - 2 * out[:, 0])]
    else:
        wrong = [weights[0], (pair[1], pair[0]), (np.append(out, -out[:, :1], axis=1), end)]
    found, left = with_switches(uv.Network.from_weights(wrong), uv.as_oracle(truth, 8), x, np.sqrt(8), rng)
    assert left == 0
    assert found.widths == truth.widths
    np.testing.assert_allclose(found.layers[1].bias, c, atol=1e-9)
    np.testing.assert_allclose(found.layers[2].bias, end, atol=1e-9)
    # With no weight below zero it never switches.
    weights[1] = (np.concatenate([np.abs(v[:1]), v[1:]]), np.append(1.0, c[1:]))
    told = uv.Network.from_weights(weights)
    assert with_switches(told, uv.as_oracle(told, 8), x, np.sqrt(8), rng) == (told, 1)


def swapped_after(count: int) -> Callable[[np.ndarray], np.ndarray]:
    """A model that is replaced by another one after so many questions."""
    models = [relu_net(random_weights((6, 4, 2), np.random.default_rng(seed), bias=0.5)) for seed in (0, 1)]
    asked = [0]

    def answer(x: np.ndarray) -> np.ndarray:
        asked[0] += len(x)
        return models[asked[0] > count](x)

    return answer


def test_a_model_that_is_replaced_while_it_is_read_ends_as_changed() -> None:
    # Right after the first look, and while the network read is checked.
    for count in (20, 310):
        oracle = uv.as_oracle(swapped_after(count), 6, budget=20_000)
        found = uv.identify(oracle, uv.CriticalPoints(attempts=1), rng=np.random.default_rng(0))
        assert found.outcome is uv.Outcome.model_changed
        assert found.network is None
    found = uv.identify(uv.as_oracle(swapped_after(10**9), 6, budget=20_000), rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.complete


def test_in_a_box_layers_behind_a_narrow_first_one_are_not_looked_for_where_no_input_leads() -> None:
    # What neurons see cannot be chosen freely there: hyperplanes are not followed; rows of the first layer are told.
    for seed in (99601, 99602):
        rng = np.random.default_rng(seed)
        weights = single(random_weights((20, 12, 10, 8, 3), rng, bias=0.3))
        oracle = uv.as_oracle(relu_elsewhere(weights, rng, np.float32), 20, within=(-1.0, 1.0))
        oracle.ledger.budget = 20_000
        found = uv.CriticalPoints()(oracle, rng=rng)
        likeness = np.abs(unit(found.stats["rows_read"][0]) @ unit(weights[0][0]).T)
        assert (likeness.max(axis=1) > 1 - 1e-4).all()
        assert (likeness.max(axis=0) > 1 - 1e-4).sum() >= 9
