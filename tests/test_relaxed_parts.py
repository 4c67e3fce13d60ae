"""Parts of a box as linear programmes: what is said of a part holds for every input in it."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights
from unveil.whitebox.activation import activation
from unveil.whitebox.linear_programme import Constraints, bound, minimise
from unveil.whitebox.relaxation import Relaxation, envelopes, halved, whole
from unveil.whitebox.wanted import wanted

KINDS = ("relu", "leaky_relu", "hard_sigmoid(0.2,0.5)", "identity")


def network(rng: np.random.Generator, kind: str = "relu") -> uv.Network:
    return uv.Network.from_weights(random_weights([3, 5, 4, 2], rng, bias=0.5), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_envelopes_are_the_convex_hull_of_an_interval(kind: str, rng: np.random.Generator) -> None:
    phi = activation(kind)
    low = rng.uniform(-3, 2, 30)
    high = low + rng.uniform(0.01, 4, 30)
    s = low + np.linspace(0, 1, 201)[:, None] * (high - low)
    value = phi.value(s)
    top, bottom = np.full_like(s, np.inf), np.full_like(s, -np.inf)
    for at, slope, offset, sign in envelopes(phi, low, high):
        line = slope * s[:, at] + offset
        if sign > 0:
            top[:, at] = np.minimum(top[:, at], line)
        else:
            bottom[:, at] = np.maximum(bottom[:, at], line)
    assert (top >= value - 1e-9).all()
    assert (bottom <= value + 1e-9).all()
    # Nothing tighter: both are met at the interval's ends.
    np.testing.assert_allclose(top[[0, -1]], value[[0, -1]], atol=1e-9)
    np.testing.assert_allclose(bottom[[0, -1]], value[[0, -1]], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_a_part_hold_for_its_inputs_and_halves_make_the_whole(kind: str, rng: np.random.Generator) -> None:
    net = network(rng, kind)
    floor, ceiling = -np.ones(3), np.array([1.0, 2.0, 0.5])
    part = whole(net, floor, ceiling)
    assert part is not None
    x = rng.uniform(floor, ceiling, (400, 3))
    h, before = x, []
    for layer, (low, high), (least, most) in zip(net.layers, part.before, part.after, strict=True):
        before.append(layer.affine(h))
        h = layer(h)
        assert (before[-1] >= low).all()
        assert (before[-1] <= high).all()
        assert (h >= least).all()
        assert (h <= most).all()
    parts = halved(net, floor, ceiling, part, (1, 2, 0.0))
    inside = np.zeros((len(parts), len(x)), dtype=bool)
    for i, half in enumerate(parts):
        inside[i] = np.all(
            [((z >= low) & (z <= high)).all(axis=1) for z, (low, high) in zip(before, half.before, strict=True)], axis=0
        )
        assert half.split[1][2]
        assert not half.split[0].any()
    assert inside.any(axis=0).all()
    if len(parts) == 2:
        np.testing.assert_array_equal(inside[1], before[1][:, 2] >= 0)


def test_the_bound_of_a_part_is_below_every_input_and_above_nothing(rng: np.random.Generator) -> None:
    missed = 0
    for _ in range(6):
        net = network(rng)
        box = (-np.ones(3), np.ones(3))
        x = rng.uniform(*box, (300, 3))
        for y in (net(x)[0], net(x).max(axis=0) + 5):
            relaxation = Relaxation(net, wanted(activation("identity"), y, 1.0), box)
            part = whole(net, *box)
            assert part is not None
            within = relaxation.constraints(part)
            found = minimise(relaxation.miss(), within)
            assert found is not None
            least = bound(relaxation.miss(), within, found.multipliers)
            assert least <= np.abs(net(x) - y).max(axis=1).min() + 1e-9
            assert least <= found.value + 1e-9
            missed += least > 0.5
    assert missed == 6  # what is out of reach is proved to be, what is an answer never is


def test_any_multipliers_give_a_bound_and_the_solvers_the_best(rng: np.random.Generator) -> None:
    for _ in range(8):
        rows, v = rng.standard_normal((5, 4)), rng.uniform(-1, 1, (200, 4))
        centre = rows @ v[0]
        high = np.where(rng.random(5) < 0.3, np.inf, centre + 0.3)
        low = np.where(np.isinf(high) | (rng.random(5) < 0.5), centre - 0.3, -np.inf)
        within = Constraints(rows, low, high, -np.ones(4), np.ones(4))
        cost = rng.standard_normal(4)
        best = minimise(cost, within)
        assert best is not None
        legal = ((v @ rows.T >= low) & (v @ rows.T <= high)).all(axis=1)
        assert best.value <= (v[legal] @ cost).min() + 1e-9
        np.testing.assert_allclose(bound(cost, within, best.multipliers), best.value, atol=1e-7)
        w = rng.standard_normal(5)
        w[(w > 0) & np.isinf(high)] = w[(w < 0) & np.isinf(low)] = 0.0
        assert bound(cost, within, w) <= best.value + 1e-9


def test_no_point_is_none() -> None:
    within = Constraints(np.eye(2), np.array([2.0, -np.inf]), np.full(2, np.inf), -np.ones(2), np.ones(2))
    assert minimise(np.ones(2), within) is None
