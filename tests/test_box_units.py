"""Boxes in raw units: inputs of very different widths are read in units of their own, and told in the caller's."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import assert_rate, random_weights
from unveil.identification.box_units import in_box_units, in_units, of_inputs
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


def test_rows_and_networks_of_the_unit_box_become_those_of_the_inputs() -> None:
    net, low, high = raw(0)
    unit = in_box_units(uv.as_oracle(net.logits, shape=6, within=(low, high)))
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
    assert in_box_units(uv.as_oracle(lambda x: x, shape=2, within=(np.zeros(2), np.array([1.0, 50.0])))) is None
    assert in_box_units(uv.as_oracle(lambda x: x, shape=2)) is None
    assert in_box_units(uv.as_oracle(lambda x: x, shape=2, within=(0, 1), grid=1 / 255)) is None
