"""A hidden layer of tanh or sigmoid from labels alone: rates over seeds, curves, and what is not read."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

import unveil as uv
from tests.helpers import assert_rate
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.faces import Precision
from unveil.identification.from_labels.pool import Pool
from unveil.identification.from_labels.sigmoidal import is_curved
from unveil.identification.from_labels.transitions import Curve, neurons, two_scales


def net_of(sizes: tuple[int, ...], seed: int, activation: str = "tanh") -> uv.Network:
    rng = np.random.default_rng(seed)
    layers = [
        (1.5 * rng.standard_normal((m, n)) / np.sqrt(n), 0.4 * rng.standard_normal(m)) for n, m in pairwise(sizes)
    ]
    return uv.Network.from_weights(layers, activation=activation)


def oracle_of(net: uv.Network, seed: int, **settings: object) -> uv.Oracle:
    """Labels, the last bits of the logits flipped at random as another processor would."""
    noise = np.random.default_rng(seed)

    def answer(x: np.ndarray) -> np.ndarray:
        y = net(x)
        y = y * (1 + 2.2e-16 * noise.integers(-1, 2, size=y.shape))
        return (y[:, 0] >= 0).astype(int) if net.m == 1 else y.argmax(axis=1)

    return uv.as_oracle(answer, shape=net.n, answers="labels", **settings)


def test_a_sigmoidal_layer_comes_out_whole_with_its_scales() -> None:
    whole: list[bool] = []
    for seed, sizes, kind in ((951, (5, 4, 3), "sigmoid"), (952, (6, 4, 1), "tanh")):
        truth = net_of(sizes, seed, kind)
        oracle = oracle_of(truth, seed)
        before = oracle.ledger.asked
        told = kind if kind == "sigmoid" else None
        found = uv.identify(oracle, rng=np.random.default_rng(seed), activation=told)
        assert found.queries == oracle.ledger.asked - before == sum(found.stats["stages"].values())
        whole.append(found.outcome is uv.Outcome.complete)
        if not whole[-1]:
            continue
        assert found.network is not None
        assert found.network.layers[0].activation.name == kind
        apart = uv.compare(found.network, truth, labels=found.labels)
        whole[-1] = apart.missing == apart.false == 0 and apart.weight_error < 1e-7
    assert_rate(whole, 0.8)


def test_one_curve_tells_both_scales_and_more_of_them_the_biases() -> None:
    good: list[bool] = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        scale, bias = np.exp(rng.uniform(-1, 1, 2)), rng.uniform(-2, 2, 2)
        curves = []
        for labels, b in (((0, 1), 0.7), ((0, 1), 0.7), ((1, 2), -1.4), ((0, 2), 0.4)):
            q = (np.linspace(-6, 6, 41) - bias[1]) / scale[1]
            inside = rng.uniform(-0.9, 0.9) * (1 - min(abs(b), 0.9))
            value = -(inside + b * np.tanh(scale[1] * q + bias[1]))
            kept = np.abs(value) < 0.999
            p = (np.arctanh(value[kept]) - bias[0]) / scale[0]
            curves.append(Curve(np.column_stack([p, q[kept]]), labels))
        first = two_scales(curves[0])
        good.append(first is not None and bool(np.abs(first / scale - 1).max() < 1e-6))
        if first is not None:
            found = neurons(curves, first)
            good.append(found is not None and bool(np.abs(found.bias - bias).max() < 1e-6))
        # A third neuron on one of them is no part of any two.
        strange = curves[0].points + np.column_stack(
            [0.05 * np.tanh(curves[0].points[:, 1] - 1), 0 * curves[0].points[:, 1]]
        )
        assert seed or two_scales(Curve(strange, (0, 1))) is None
    assert_rate(good, 0.9)


def test_flat_boundaries_are_told_from_curved_ones() -> None:
    right: list[bool] = []
    for seed in range(6):
        for kind in ("relu", "tanh"):
            oracle = oracle_of(net_of((7, 6, 3), seed, kind), seed)
            chart, rng = Chart(oracle, np.zeros(7), 1.0, None), np.random.default_rng(seed)
            pool = Pool(Side(chart), chart, 1.5, np.empty((0, 7)), rng)
            pool.draw(64)
            if len(pool.classes) > 1:
                right.append(is_curved(pool, Precision.of(chart.digits), rng) == (kind == "tanh"))
    assert_rate(right, 0.9)


def test_what_is_no_single_sigmoidal_layer_is_not_called_complete() -> None:
    deep = uv.identify(oracle_of(net_of((5, 5, 4, 2), 960), 0), uv.HardLabels(attempts=1), rng=np.random.default_rng(0))
    assert deep.outcome is not uv.Outcome.complete
    boxed = uv.identify(oracle_of(net_of((5, 4, 2), 961), 0, within=(-2, 2)), rng=np.random.default_rng(0))
    assert boxed.outcome is uv.Outcome.check_failed
    assert any("box" in each for each in boxed.why)


def test_a_budget_is_kept_and_directions_found_by_then_are_told() -> None:
    oracle = oracle_of(net_of((6, 4, 3), 962), 0, budget=4000)
    found = uv.identify(oracle, rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.budget_ended
    assert oracle.ledger.asked <= 4000
    assert len(found.stats["directions"]) > 0
