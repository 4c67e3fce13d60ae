"""Boxes in raw units: inputs of very different widths are read in units of their own, and told in the caller's."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import assert_rate, random_weights
from unveil.blackbox.row_span import in_own_units
from unveil.identification.along_few import settled_in_units
from unveil.identification.box_units import in_shown_units, in_units, of_inputs
from unveil.identification.method import Identification


def raw(seed: int) -> tuple[uv.Network, np.ndarray, np.ndarray]:
    """A network of six inputs whose typical sizes lie between 1e-3 and 1e4, and the box they are in."""
    rng = np.random.default_rng(seed)
    (rows, bias), *rest = random_weights((6, 5, 2), rng, bias=0.3)
    size = 10 ** rng.permutation(np.linspace(-3, 4, 6))
    middle = size * rng.standard_normal(6)
    rows = rows / size
    return uv.Network.from_weights([(rows, bias - rows @ middle), *rest]), middle - 3 * size, middle + 3 * size


def test_a_network_in_raw_units_is_read_in_its_box() -> None:
    whole = []
    for seed in range(3):
        net, low, high = raw(seed)
        asked: list[np.ndarray] = []

        def answer(x: np.ndarray, net: uv.Network = net, asked: list[np.ndarray] = asked) -> np.ndarray:
            asked.append(x)
            return net(x)

        oracle = uv.as_oracle(answer, shape=6, within=(low, high))
        rng = np.random.default_rng(seed)
        found = uv.identify(oracle, rng=rng)
        x = np.concatenate(asked)
        assert (x >= low).all()
        assert (x <= high).all()
        assert found.queries <= oracle.ledger.asked
        whole.append(found.outcome is uv.Outcome.complete)
        if found.outcome is uv.Outcome.complete:
            assert found.network is not None
            x = rng.uniform(low, high, (500, 6))
            assert np.abs(found.network(x) - net(x)).max() < 1e-8
            assert uv.compare(found.network, net, x).missing == 0
    assert_rate(whole, 0.75)


def test_a_network_in_raw_units_is_read_around_examples() -> None:
    whole = []
    for seed in range(5):
        net, low, high = raw(seed)
        examples = np.random.default_rng(seed + 50).normal((low + high) / 2, (high - low) / 6, (40, 6))
        found = uv.identify(uv.as_oracle(net.logits, shape=6), rng=np.random.default_rng(seed), x=examples)
        whole.append(found.outcome is uv.Outcome.complete)
        if whole[-1]:
            assert found.network is not None
            said, told = net.logits(examples), found.network.logits(examples)
            assert np.abs(told - said).max() < 1e-8 * np.ptp(said)
            assert uv.compare(found.network, net, examples).missing == 0
    assert_rate(whole, 0.8)


def test_examples_tell_units_where_these_are_not_those_of_the_questions() -> None:
    oracle, rng = uv.as_oracle(lambda x: x, shape=3), np.random.default_rng(0)
    like = rng.standard_normal((50, 3))
    assert in_own_units(oracle, like) is None
    assert in_own_units(oracle, 1e3 * like[:9]) is None  # too few
    assert in_own_units(uv.as_oracle(lambda x: x, shape=3, within=(-9, 9)), like * 1e-3) is None  # the box tells
    for examples in (1e3 * like, 1e-3 * like, like + 100, like * [1, 1, 50]):
        unit = in_own_units(oracle, examples)
        assert unit is not None
        inside = in_units(examples, unit)
        assert inside is not None
        assert np.allclose(inside.mean(axis=0), 0, atol=1e-9)
        assert np.allclose(inside.std(axis=0), 1)
        assert in_own_units(unit, inside) is None
        assert np.allclose(unit(inside), examples)


def test_rows_and_networks_of_the_unit_box_become_those_of_the_inputs() -> None:
    net, low, high = raw(0)
    unit = in_own_units(uv.as_oracle(net.logits, shape=6, within=(low, high)), None)
    assert unit is not None
    y = np.random.default_rng(0).uniform(-1, 1, (20, 6))
    x = (low + high) / 2 + y * (high - low) / 2
    moved = in_units(x, unit)
    assert moved is not None
    assert np.allclose(moved, y)
    inside = random_weights((6, 4, 2), np.random.default_rng(1), bias=0.3)
    stats = {"rows_read": inside[0], "layers_read": list(inside), "rows_partial": inside[1]}
    found = of_inputs(Identification(uv.Network.from_weights(inside), uv.Outcome.complete, 0, 0.0, "", (), stats), unit)
    assert found.network is not None
    assert np.allclose(found.network(x), uv.Network.from_weights(inside)(y))
    sums = y @ inside[0][0].T + inside[0][1]
    for rows, bias in (found.stats["rows_read"], found.stats["layers_read"][0]):
        assert np.allclose(x @ rows.T + bias, sums)
    # What lies behind the first layer has no units of inputs.
    for rows, bias in (found.stats["rows_partial"], found.stats["layers_read"][1]):
        assert rows is inside[1][0]
        assert bias is inside[1][1]


def test_a_box_of_like_widths_is_left_as_it_is() -> None:
    assert in_own_units(uv.as_oracle(lambda x: x, shape=2, within=(np.zeros(2), np.array([1.0, 50.0]))), None) is None
    assert in_own_units(uv.as_oracle(lambda x: x, shape=2), None) is None
    assert in_own_units(uv.as_oracle(lambda x: x, shape=2, within=(0, 1), grid=1 / 255), None) is None


def test_weights_of_light_inputs_are_fitted_where_all_matter_alike() -> None:
    """Read at inputs of size 1, in float32, they are off by a part of the others; no second reading is needed."""

    def never(*_: object, **__: object) -> Identification:
        raise AssertionError("it was read again")

    for seed in range(4):
        rng = np.random.default_rng(seed)
        (rows, bias), *rest = random_weights((12, 8, 3), rng, bias=0.5)
        size = np.append(np.ones(9), np.full(3, 300.0))
        truth = uv.Network.from_weights([(rows / size, bias), *rest])
        near = uv.Network.from_weights([(rows / size + 1e-6 * rng.standard_normal(rows.shape), bias), *rest])
        oracle = uv.as_oracle(lambda x, truth=truth: truth(x).astype(np.float32), shape=12)
        found = Identification(near, uv.Outcome.complete, 0, 1e-6, "critical points", (), {})
        asked = oracle.ledger.asked
        again = in_shown_units(found, oracle, never, settled_in_units, rng)
        x = size * rng.standard_normal((1000, 12))
        spread = truth(x).std()
        assert again.outcome is uv.Outcome.complete
        assert again.queries == oracle.ledger.asked - asked
        assert again.network is not None
        assert np.abs(near(x) - truth(x)).max() > 1e-4 * spread
        assert np.abs(again.network(x) - truth(x)).max() < 2e-5 * spread


def test_weights_of_light_inputs_are_measured_again_by_longer_steps_where_answers_are_exact() -> None:
    """Read at inputs of size 1 they are as exact as the others are, which is not enough where all matter alike."""

    def never(*_: object, **__: object) -> Identification:
        raise AssertionError("it was read again")

    for seed in range(4):
        rng = np.random.default_rng(seed)
        (rows, bias), *rest = random_weights((16, 8, 6, 1), rng, bias=0.5)
        size = np.append(np.ones(11), np.full(5, 3000.0))
        truth = uv.Network.from_weights([(rows / size, bias), *rest])
        light = size > 1
        near = uv.Network.from_weights([(rows / size + 1e-9 * light * rng.standard_normal(rows.shape), bias), *rest])
        oracle = uv.as_oracle(truth, shape=16)
        found = Identification(near, uv.Outcome.complete, 0, 1e-9, "critical points", (), {})
        again = in_shown_units(found, oracle, never, settled_in_units, rng)
        x = size * rng.standard_normal((1000, 16))
        spread = truth(x).std()
        assert again.outcome is uv.Outcome.complete
        assert again.network is not None
        assert np.abs(near(x) - truth(x)).max() > 1e-7 * spread
        assert np.abs(again.network(x) - truth(x)).max() < 1e-9 * spread
        # About six questions for each weight and place.
        assert again.queries < 3000
