"""Models that are no networks end early, in words: staircases of trees, boundaries without a flat piece."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import unveil as uv
from unveil.identification.from_labels import first_layer as layer
from unveil.identification.from_labels.hyperplanes import Hyperplanes
from unveil.identification.from_labels.straight import none_stands


def test_a_forest_is_told_from_a_network_within_a_thousand_labels() -> None:
    rng = np.random.default_rng(4)
    inputs, values = rng.integers(9, size=(40, 3)), rng.normal(size=(40, 3))

    def forest(x: np.ndarray) -> np.ndarray:
        """Forty trees of three thresholds each."""
        bits = x[:, inputs] > values
        leaf = bits @ [4, 2, 1]
        votes = np.random.default_rng(1).normal(size=(40, 8))
        return (votes[np.arange(40), leaf].sum(axis=1) > 0).astype(int)

    for seed in range(4):
        found = uv.identify(uv.as_oracle(forest, shape=9, answers="labels"), rng=np.random.default_rng(seed))
        assert found.network is None
        assert found.outcome is uv.Outcome.check_failed
        assert found.queries < 1000
        which, at = found.stats["thresholds"]
        assert len(which) >= 4
        for i, value in zip(which, at, strict=True):
            assert np.abs(values[inputs == i] - value).min() < 1e-6
        assert any("thresholds" in reason for reason in found.why)


def test_networks_whose_neurons_look_at_single_inputs_are_no_staircases() -> None:
    """The largest of three inputs against a limit: every flat piece of the boundary belongs to one input."""
    for limit, label in (
        (0.5, lambda x: (x.max(axis=1) > 0.5).astype(int)),
        (0.3, lambda x: (x[:, 1] > 0.3).astype(int)),
    ):
        found = uv.identify(uv.as_oracle(label, shape=3, answers="labels"), rng=np.random.default_rng(0))
        assert "thresholds" not in found.stats, limit


def test_a_boundary_without_a_flat_piece_ends_early() -> None:
    """Hyperbolic waves on waves: rough at every length that can be asked."""
    scale = 2.0 ** np.arange(0, 24)

    def label(x: np.ndarray) -> np.ndarray:
        waves = np.sin(x[:, :1, None] * scale * np.pi + x[:, 1:, None] * scale).sum(axis=1) / scale**0.9
        return (waves.sum(axis=1) > 0.1).astype(int)

    oracle = uv.as_oracle(label, shape=3, answers="labels")
    found = uv.identify(oracle, uv.HardLabels(activation="relu"), rng=np.random.default_rng(0))
    assert found.network is None
    assert found.queries < 20_000
    assert any("flat" in reason or "bends" in reason for reason in found.why)


def test_hyperplanes_of_a_first_layer_stand_and_those_of_a_tessellation_do_not() -> None:
    """Of a network every face ends at a first layer's hyperplane; of neighbours those that bends agree on go on."""
    assert none_stands(np.full(10, 6), np.full(10, 12))
    assert not none_stands(np.array([9, *[1] * 9]), np.array([0, *[8] * 9]))
    assert not none_stands(np.array([3, 3]), np.array([4, 4]))  # too few looks to tell
    assert none_stands(np.array([4, *[1] * 9]), np.array([1, *[8] * 9]))


def test_a_first_layer_stays_however_many_bent_hyperplanes_are_met_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten that go on straight, first among twenty hyperplanes and then among three hundred."""
    rng = np.random.default_rng(0)
    every = Hyperplanes(rng.standard_normal((300, 5)), rng.standard_normal(300), np.full(300, 1e-9))
    straight = np.arange(300) < 10

    class Search:
        boundary, stages = None, SimpleNamespace(end=lambda _: None)
        precision, pool = SimpleNamespace(normal=1e-9), SimpleNamespace(wide=1.0)
        chart, hopeless, refuted, stale, planes = SimpleNamespace(n=5), False, False, 0, every[:20]

        def run(self, *_: object, **__: object) -> None:
            self.planes = every

        def look(self, _: object) -> np.ndarray:
            k = len(self.planes)
            self.looked = np.where(straight[:k], 12, 3), np.where(straight[:k], 0, 20)
            return straight[:k]

        def sharpen(self, _: object) -> None:
            pass

    monkeypatch.setattr(layer, "sharpened", lambda boundary, planes, *_: planes)
    monkeypatch.setattr(layer, "completing", lambda *_: Hyperplanes.none(5))
    monkeypatch.setattr(layer, "_outside", lambda *_: 0.0)
    search = Search()
    assert len(layer.first_layer(search, rng)) == 10  # type: ignore[arg-type]
    assert not search.refuted
    search = Search()

    def bent(self: Search, _: object) -> np.ndarray:
        k = len(self.planes)
        self.looked = np.zeros(k, dtype=int), np.full(k, 9)
        return np.zeros(k, dtype=bool)

    monkeypatch.setattr(Search, "look", bent)
    assert not len(layer.first_layer(search, rng))  # type: ignore[arg-type]
    assert search.refuted


def test_neighbours_end_long_before_the_labels_do() -> None:
    """Twelve points of each of two classes in four dimensions: the nearest one's class."""
    rng = np.random.default_rng(0)
    points, classes = rng.standard_normal((24, 4)), np.arange(24) % 2
    oracle = uv.as_oracle(
        lambda x: classes[np.linalg.norm(x[:, None] - points, axis=2).argmin(axis=1)], shape=4, answers="labels"
    )
    found = uv.identify(oracle, uv.HardLabels(most=400_000), rng=rng)
    assert found.network is None
    assert found.outcome is uv.Outcome.check_failed
    assert found.queries < 200_000
    assert len(found.stats["rows_read"][0]) == 0
