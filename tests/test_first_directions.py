"""Rooms of the smooth networks: directions by votes, blocks glued, the network behind a layer, what is not read."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.test_identify import random_network
from unveil.identification.smooth.blocks import Block, FirstLayer
from unveil.identification.smooth.entangled_weights import _elect, _lively, first_directions
from unveil.identification.smooth.frequencies import Frequencies, _filled
from unveil.identification.smooth.inner_network import _firsts, _starts, inner_network
from unveil.identification.smooth.peeling import Peeling
from unveil.identification.smooth.rectifiers import Rectifiers
from unveil.identification.smooth.second_layer import base_points, block_size, glue, search_outer
from unveil.outcome import BadInput
from unveil.whitebox.activation import ACTIVATIONS
from unveil.whitebox.network import Network

SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_votes_choose_the_directions_seen_at_most_radii(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((3, 5))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    seen, scores, radii = [], [], []
    for radius in range(3):
        for row in true:
            seen.append(rng.choice([-1, 1]) * (row + 1e-3 * rng.standard_normal(5)))
            scores.append(0.9)
            radii.append(radius)
    # Something else looks better, at one radius only; and a mixture of two depends on them.
    mixed = true[0] + true[1]
    for other, score in ((rng.standard_normal(5), 0.99), (mixed, 0.999)):
        seen.append(other)
        scores.append(score)
        radii.append(0)
    vectors = np.array(seen)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, certificates, votes = _elect(vectors, np.array(scores), np.array(radii), 3)
    likeness = np.abs(first @ true.T)
    assert (likeness.max(axis=0) > 0.999).all()
    np.testing.assert_array_equal(votes, 3)
    np.testing.assert_allclose(certificates, 0.9)
    # What is missing is completed orthogonally, and certified by nothing.
    few, certificates, votes = _elect(vectors[:1], np.array([0.9]), np.array([0]), 3)
    np.testing.assert_allclose(few @ few.T, np.eye(3), atol=1e-6)
    np.testing.assert_array_equal(certificates[1:], 0)
    np.testing.assert_array_equal(votes, [1, 0, 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mixture_of_chosen_directions_is_no_direction_and_the_best_sighting_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = np.linalg.qr(rng.standard_normal((4, 4)))[0][:3]
    mixed = (true[0] + true[1]) / np.sqrt(2)
    rough = true + 0.02 * rng.standard_normal(true.shape)
    rough /= np.linalg.norm(rough, axis=1, keepdims=True)
    # The mixture is seen at three radii, the third direction at two.
    vectors = np.concatenate([rough, rough[:2], [mixed] * 3, true])
    scores = np.concatenate([np.full(5, 0.85), np.full(3, 0.84), np.full(3, 0.95)])
    radii = np.array([0, 0, 0, 1, 1, 0, 1, 2, 2, 2, 2])
    first, certificates, votes = _elect(vectors, scores, radii, 3)
    order = np.abs(first @ true.T).argmax(axis=1)
    np.testing.assert_allclose(first, true[order])
    np.testing.assert_array_equal(np.sort(votes), [2, 3, 3])
    np.testing.assert_allclose(certificates, 0.95)


def test_directions_of_a_small_network_are_found() -> None:
    near: list[bool] = []
    for seed in SEEDS:
        truth = random_network(5, (5,), "tanh", np.random.default_rng(seed))
        oracle = uv.as_oracle(truth, shape=5)
        rng = np.random.default_rng(seed + 10)
        found = first_directions(oracle, np.eye(5), 5, 1, 1e-15, rng=rng)
        likeness = np.abs(found.first @ truth.layers[0].dense().T)
        near += list(likeness.max(axis=0) > 0.97)
        before = oracle.ledger.asked
        points = _lively(oracle, np.eye(5), 12.0, 25, 1e-15, rng)
        assert oracle.ledger.asked - before == 36 * 25
        assert len(points) == 25
        # Far out most points show nothing: those taken lie where some neuron bends.
        least = np.abs(truth.layers[0].affine(points)).min(axis=1)
        assert np.median(least) < 3
    assert np.mean(near) > 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_are_glued_along_shared_neurons(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((3, 9))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    slopes = rng.uniform(0.5, 1, 9)
    blocks = []
    for members in (np.arange(6), np.arange(3, 9)):
        part = (rows * slopes)[:, members][rng.permutation(3)] * rng.choice([-1, 1], 3)[:, None]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        blocks.append(Block(members, part, np.zeros(6), np.ones(3), 1.0))
    found = glue(blocks, slopes)
    likeness = np.abs(found @ rows.T)
    np.testing.assert_allclose(likeness.max(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(np.sort(likeness.argmax(axis=1)), [0, 1, 2])


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus"])
def test_where_curvature_over_slope_has_a_value(name: str) -> None:
    phi = ACTIVATIONS[name]
    z = np.linspace(-1.2, 1.2, 9)
    np.testing.assert_allclose(base_points(phi.curvature(z) / phi.slope(z), phi), z, atol=2e-3)
    # What no place near 0 has says nothing.
    assert base_points(np.array([1e3]), phi)[0] == 0.0
    # Enough are active to see the second layer, and some rest to give signs.
    assert block_size(10, 10, 2) == 6
    assert block_size(20, 12, None) == 9
    assert 1 <= block_size(2, 9, None) <= 2


def test_a_network_is_put_together() -> None:
    truth = random_network(5, (4, 2), "tanh", np.random.default_rng(0))
    first = truth.layers[0]
    layer = FirstLayer(first.dense(), first.bias, first.activation, 5.0)
    whole = layer.before(Network(truth.layers[1:]))
    x = np.random.default_rng(1).standard_normal((7, 5))
    np.testing.assert_allclose(whole(x), truth(x))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_network_behind_known_coordinates_is_fitted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_network(3, (3,), "tanh", rng, outputs=2)
    c = rng.standard_normal((200, 3))
    y = truth(c)
    found = inner_network(c, y, [ACTIVATIONS["tanh"]], (3,), 1e-15, rng)
    assert found.fit is not None
    assert found.fit.rms < 1e-10
    assert found.fit.network.widths == truth.widths
    kinds = [ACTIVATIONS["tanh"]]
    starts = _starts(c, y + 0.5, (3,), kinds, [truth.layers[0]], rng)
    # Every other start begins with the layer given: its output layer fits the answers at once.
    first, second = next(starts), next(starts)
    np.testing.assert_allclose(first(c), y + 0.5, atol=1e-9)
    assert np.abs(second(c) - y - 0.5).max() > 1e-3
    assert [layer.neurons for layer in _firsts([found.fit, found.fit])] == [3]


def test_answers_that_no_start_comes_near_have_no_network() -> None:
    rng = np.random.default_rng(0)
    c = rng.standard_normal((60, 2))
    found = inner_network(c, rng.standard_normal((60, 1)), [ACTIVATIONS["tanh"]], (2,), 1e-15, rng, thorough=False)
    assert found.fit is None
    assert 1 <= len(found.first) <= 3


def test_a_first_layer_of_sines_is_filled_up_to_its_width() -> None:
    rng = np.random.default_rng(0)
    rows, shifts = rng.standard_normal((2, 6)), rng.standard_normal(2)
    layer = _filled(rows, shifts, 5, 3.0, rng)
    assert layer.weights.shape == (5, 6)
    np.testing.assert_array_equal(layer.weights[:2], rows)
    np.testing.assert_allclose(np.linalg.norm(layer.weights[2:], axis=1), 3.0)
    np.testing.assert_array_equal(layer.shifts[:2], shifts)
    assert np.abs(layer.shifts[2:]).max() <= np.pi / 2


def test_methods_say_what_they_do_not_read() -> None:
    truth = random_network(4, (3,), "tanh", np.random.default_rng(0))
    oracle, rng = uv.as_oracle(truth, shape=4), np.random.default_rng(1)
    with pytest.raises(BadInput, match="sines"):
        Frequencies("tanh")(oracle, rng=rng)
    bounded = uv.as_oracle(truth, shape=4, within=(-1, 1))
    found = Frequencies()(bounded, rng=rng)
    assert found.network is None
    assert "bounded" in found.why[0]
    peeled = Peeling("tanh")(bounded, rng=rng)
    assert peeled.network is None
    # What comes to rest far out has no breakpoints there.
    assert Rectifiers("softplus", attempts=1)(oracle, rng=rng).network is None


def test_random_starts_end_where_their_work_does(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    layer = FirstLayer(rng.standard_normal((4, 4)), rng.standard_normal(4), ACTIVATIONS["tanh"], 3.0)
    x = rng.standard_normal((80, 4))
    answers = rng.standard_normal((80, 1))  # of no network: no width explains them
    wide = search_outer(layer, x, answers, ACTIVATIONS["tanh"], None, 0.0, rng=rng, starts=1)
    monkeypatch.setattr("unveil.identification.smooth.second_layer.SEARCH_WORK", 0.0)
    fit = search_outer(layer, x, answers, ACTIVATIONS["tanh"], None, 0.0, rng=rng, starts=1)
    assert fit.network.widths[1] == 1 < wide.network.widths[1]
