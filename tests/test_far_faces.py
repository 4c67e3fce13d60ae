"""Far out, where sigmoidal neurons rest: their hyperplanes, scales and biases, against exact small networks."""

from __future__ import annotations

import numpy as np

import unveil as uv
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.sigmoidal import RADIUS, SAME_NORMAL_DISTANCE, FarFaces, shifted_normal
from unveil.identification.from_labels.transitions import transition

SEEDS = range(5)


class Truth:
    """Labels of a layer of tanh neurons and three logits."""

    def __init__(self, seed: int, n: int = 4, k: int = 4, c: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.weights, self.bias = 1.5 * rng.standard_normal((k, n)) / np.sqrt(n), 0.4 * rng.standard_normal(k)
        self.outer = rng.standard_normal((c, k))
        self.scale = np.linalg.norm(self.weights, axis=1)
        self.normals = self.weights / self.scale[:, None]
        oracle = uv.as_oracle(lambda x: self.logits(x).argmax(axis=1), shape=n, answers="labels")
        self.chart = Chart(oracle, np.zeros(n), 1.0, None)
        self.side = Side(self.chart)
        self.rng = np.random.default_rng(seed + 100)

    def logits(self, y: np.ndarray) -> np.ndarray:
        return np.tanh(y @ self.weights.T + self.bias) @ self.outer.T


def test_faces_far_out_are_parallel_to_hyperplanes() -> None:
    met = 0
    for seed in SEEDS:
        truth = Truth(seed)
        far = FarFaces(truth.side, truth.chart, truth.rng)
        far.run(30, 20)
        assert far.stale >= 30 or far.bent >= 20
        cosines = np.abs(far.normals @ truth.normals.T)
        # Each is one neuron's, and no neuron's is met twice.
        assert (1 - cosines.max(axis=1) < SAME_NORMAL_DISTANCE**2).all()
        assert len(set(cosines.argmax(axis=1))) == len(far.normals)
        met += len(far.normals)
        far.add(np.eye(4)[0])
        assert far.stale == 0
    # Some neurons move no face far out.
    assert met >= 14


def test_where_layers_do_not_rest_no_face_is_taken_for_a_hyperplane() -> None:
    w = np.random.default_rng(0).standard_normal((2, 4))
    oracle = uv.as_oracle(lambda x: ((x @ w[0]) * (x @ w[1]) > 1e7).astype(int), shape=4, answers="labels")
    chart = Chart(oracle, np.zeros(4), 1.0, None)
    far = FarFaces(Side(chart), chart, np.random.default_rng(1))
    far.run(30, 6)
    # A hyperbola bends everywhere: the search ends.
    assert not len(far.normals)
    assert far.bent >= 6


def test_two_neurons_scales_and_biases_come_from_where_their_hyperplanes_cross() -> None:
    told: list[bool] = []
    for seed in SEEDS:
        truth = Truth(seed)
        normals = truth.normals * np.where(truth.rng.random(4) < 0.5, 1, -1)[:, None]
        sign = np.sign(np.sum(normals * truth.normals, axis=1))
        pair = (seed % 4, (seed + 1) % 4)
        found = transition(truth.side, truth.chart, normals, pair, RADIUS, truth.rng)
        told.append(found is not None)
        if found is not None:
            np.testing.assert_allclose(found.scale, truth.scale[list(pair)], rtol=1e-5)
            np.testing.assert_allclose(found.bias, (sign * truth.bias)[list(pair)], atol=1e-4)
            assert (found.error < 1e-5).all()
        # Parallel hyperplanes cross nowhere.
        assert transition(truth.side, truth.chart, normals[[0, 0]], (0, 1), RADIUS, truth.rng) is None
    assert sum(told) >= 2


def test_a_neuron_that_no_face_is_parallel_to_shows_by_shifts_of_other_faces() -> None:
    told = 0
    for seed in SEEDS:
        truth = Truth(seed)
        normal = shifted_normal(truth.side, truth.chart, truth.normals[:3], truth.rng)
        if normal is None:
            continue
        told += 1
        assert 1 - abs(normal @ truth.normals[3]) < 1e-10
    assert told >= 2
