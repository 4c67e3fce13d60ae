"""Gauss-Newton steps from a network that is nearly right, and the points that settle its weights."""

from __future__ import annotations

import numpy as np

from unveil.identification.fitting.gauss_newton import refine, telling_points
from unveil.whitebox.activation import ACTIVATIONS
from unveil.whitebox.network import Layer, Network


def _network(rng: np.random.Generator, widths: tuple[int, ...] = (5, 6, 4, 2)) -> Network:
    kinds = ["relu"] * (len(widths) - 2) + ["identity"]
    return Network(
        tuple(
            Layer(rng.standard_normal((k, n)) / np.sqrt(n), 0.3 * rng.standard_normal(k), ACTIVATIONS[kind])
            for n, k, kind in zip(widths, widths[1:], kinds, strict=False)
        )
    )


def test_one_step_squares_a_small_error_and_leaves_the_layers_before() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = _network(rng)
        x = rng.standard_normal((400, 5))
        moved = [truth.layers[0]] + [
            Layer(a.weights + 1e-7 * rng.standard_normal(a.weights.shape), a.bias, a.activation)
            for a in truth.layers[1:]
        ]
        start = Network(tuple(moved))
        found = refine(start, x, truth(x))
        before, after = (np.abs(each(x) - truth(x)).max() for each in (start, found))
        assert after < 1e-4 * before
        np.testing.assert_array_equal(found.layers[0].weights, truth.layers[0].weights)


def test_points_are_added_until_every_neuron_is_active_often_enough() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        network = _network(rng)
        pool = rng.standard_normal((3000, 5))
        chosen = telling_points(network, pool, 5)
        np.testing.assert_array_equal(chosen[:5], pool[:5])
        assert len(chosen) < 200

        def active(x: np.ndarray, network: Network = network) -> np.ndarray:
            first, second = network.layers[:2]
            return (second.affine(first.activation.value(first.affine(x))) > 0).sum(axis=0)

        assert (active(chosen) >= np.minimum(int(1.5 * 7), active(pool))).all()
