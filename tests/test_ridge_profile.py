"""Ridge profiles of the first layer, and differences of smooth answers."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate
from unveil.identification.smooth.blocks import first_step, gradient_span, hessians, inner_points, second_step
from unveil.identification.smooth.hyperplane_circles import Hyperplanes, _walk
from unveil.identification.smooth.ridge_profile import fit_profile, profiles, resting_point, sigmoidal, vantages
from unveil.whitebox.activation import ACTIVATIONS, SIGMOIDAL, activation


@pytest.mark.parametrize("kind", SIGMOIDAL)
def test_scale_and_shift_come_back_from_a_profile(kind: str, rng: np.random.Generator) -> None:
    phi = activation(kind)
    right = []
    for _ in range(3):
        scale, shift = rng.uniform(0.5, 3), rng.uniform(-2, 2)
        centre, width = -shift / scale + rng.uniform(-0.2, 0.2) / scale, rng.uniform(1.5, 2.5) / scale
        s = centre + width * np.linspace(-2.5, 2.5, 24)
        y = phi.value(scale * s + shift)[:, None] * rng.standard_normal(3) + rng.standard_normal(3)
        found = fit_profile(s, y, phi, centre, width, 1e-9)
        right.append(np.allclose(found[:2], (scale, shift), rtol=1e-5, atol=1e-5) and found[2] < 1e-6)
    assert_rate(right, 0.9)


def test_a_profile_of_another_activation_does_not_fit(rng: np.random.Generator) -> None:
    s = np.linspace(-2.5, 2.5, 24)
    y = np.tanh(1.3 * s + 0.2)[:, None]
    own = fit_profile(s, y, activation("tanh"), -0.15, 1.5, 1e-9)
    other = fit_profile(s, y, activation("arctan"), -0.15, 1.5, 1e-9)
    assert own[2] < 1e-6 < 1e-4 < other[2]


def planes(rng: np.random.Generator, k: int = 4, n: int = 6) -> Hyperplanes:
    directions = rng.standard_normal((k, n))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Hyperplanes(directions, rng.uniform(-1, 1, k), np.full(k, 2.0), np.full(k, 1e-3), 2)


def test_from_a_vantage_all_other_neurons_are_at_rest(rng: np.random.Generator) -> None:
    found = planes(rng)
    points = vantages(found, 9.0, rng)
    for i in range(4):
        np.testing.assert_allclose(points[i] @ found.directions[i], 0, atol=1e-9)
        others = np.delete(np.arange(4), i)
        distance = np.abs(points[i] @ found.directions[others].T + found.offsets[others])
        assert (distance >= 9.0 * found.widths[others] - 1e-9).all()


@pytest.mark.parametrize(("radius", "count"), [(1e4, 2), (1e5, 1)])
def test_steps_on_a_circle_part_where_they_are_further_apart_than_it_is_split(radius: float, count: int) -> None:
    grid = int(np.pi * radius / 50)
    width = np.pi * radius / grid  # of an interval: more than 24, which is split, and less than 64, which is not
    steps = (grid // 3 + np.array([0.2, 0.8])) * width
    oracle = uv.as_oracle(
        lambda x: np.tanh(np.arctan2(x[:, 1], x[:, 0])[:, None] * radius - steps).sum(axis=1, keepdims=True), 2
    )
    points, jumps, _ = _walk(oracle, np.eye(2), radius, 1e-9, 0.0, grid)
    assert len(points) == count
    met = np.arctan2(points[:, 1], points[:, 0]) * radius
    assert np.abs(met[:, None] - steps).min(axis=1).max() < 3
    assert (jumps > 1).all()


def test_profiles_are_answers_along_the_normals(rng: np.random.Generator) -> None:
    found = planes(rng)
    oracle = uv.as_oracle(lambda x: np.tanh(x @ found.directions.T), 6)
    before = oracle.ledger.asked
    position, answer = profiles(oracle, found, np.zeros((4, 6)))
    assert oracle.ledger.asked - before == 24 * 4
    for i in range(4):
        np.testing.assert_allclose(answer[i, :, i], np.tanh(position[i]), atol=1e-12)
        np.testing.assert_allclose(position[i].mean(), -found.offsets[i])


def test_at_a_resting_point_an_activation_changes_by_less_than_the_noise() -> None:
    assert [each.name for each in sigmoidal(None, 0)] == list(SIGMOIDAL)
    assert [each.name for each in sigmoidal(("tanh", "erf"), 5)] == ["erf"]
    assert [each.name for each in sigmoidal(None, 1, activation("erf"))] == ["erf", "tanh", "arctan", "softsign"]
    for kind in ("tanh", "erf"):
        for noise in (0.0, 1e-7):
            at = resting_point(ACTIVATIONS[kind], noise)
            assert activation(kind).slope(np.array([at]))[0] < max(1e-15, 0.1 * noise)
    assert resting_point(ACTIVATIONS["tanh"], 1e-7) < resting_point(ACTIVATIONS["tanh"])


def test_second_differences_are_the_hessians_of_a_quadratic(rng: np.random.Generator) -> None:
    bend = rng.standard_normal((2, 5, 5))
    bend = bend + bend.transpose(0, 2, 1)
    oracle = uv.as_oracle(lambda x: np.einsum("ni,mij,nj->nm", x, bend, x) / 2 + x[:, :1], 5)
    basis = np.linalg.qr(rng.standard_normal((5, 3)))[0].T
    points = rng.standard_normal((4, 5))
    before = oracle.ledger.asked
    found = hessians(oracle, points, basis, 1e-14)
    assert oracle.ledger.asked - before == 4 * (3**2 + 3 + 1)
    np.testing.assert_allclose(found, np.broadcast_to(basis @ bend @ basis.T, (4, 2, 3, 3)), atol=1e-5)


def test_gradients_span_the_rows(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((3, 9))
    oracle = uv.as_oracle(lambda x: np.tanh(x @ rows.T / 3) @ np.ones((3, 1)), 9)
    before = oracle.ledger.asked
    basis, values = gradient_span(oracle, rng.standard_normal((8, 9)), 1e-15)
    assert oracle.ledger.asked - before == 2 * 9 * 8
    assert basis.shape == (3, 9)
    q = np.linalg.qr(rows.T)[0]
    assert np.linalg.norm(basis - basis @ q @ q.T) < 1e-5
    assert values[3] < 1e-5 * values[2]


def test_steps_balance_noise_against_truncation() -> None:
    # d/dh (noise / h + h^2 / 6) = 0 and d/dh (4 noise / h^2 + h^2 / 12) = 0, up to a factor near one.
    for noise in (1e-12, 1e-8):
        h, k = first_step(noise), second_step(noise)
        for f, at in ((lambda h, e=noise: e / h + h**2 / 6, h), (lambda h, e=noise: 4 * e / h**2 + h**2 / 12, k)):
            best = min(f(g) for g in np.geomspace(1e-6, 1, 2000))
            assert f(at) <= 1.6 * best


def test_inner_points_leave_room_in_a_box(rng: np.random.Generator) -> None:
    boxed = uv.as_oracle(lambda x: x[:, :1], 3, within=(0.0, 2.0))
    x = inner_points(boxed, 500, rng, 5.0)
    assert x.min() >= 0.2 - 1e-12
    assert x.max() <= 1.8 + 1e-12
    free = uv.as_oracle(lambda x: x[:, :1], 3)
    assert 4 < inner_points(free, 2000, rng, 5.0).std() < 6
