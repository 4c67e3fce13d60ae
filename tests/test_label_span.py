"""Row spans from labels alone, against the weights the labels were made of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

import unveil as uv
from unveil.blackbox.label_accuracy import carried_over, measure_accuracy
from unveil.blackbox.label_crossings import BoundaryPoints, Side, _median, shifts
from unveil.blackbox.label_normals import Normals
from unveil.blackbox.label_points import boundary_points, find_ground, find_scale
from unveil.blackbox.label_span import label_span
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.oracle import Oracle
from unveil.blackbox.source_oracle import SourceOracle
from unveil.blackbox.sources.callable import CallableSource
from unveil.outcome import BadInput, Outcome, UnsteadyAnswers

N, K = 96, 10
ACTIVATIONS = {
    "tanh": np.tanh,
    "softplus": lambda z: np.logaddexp(0, z) - np.log(2),
    "relu": lambda z: np.maximum(z, 0),
}


def threshold_net(activation: str, seed: int, dtype: type = np.float64):
    """0/1 of a random net with three layers, and its first weights."""
    rng = np.random.default_rng(seed)
    phi = ACTIVATIONS[activation]
    a = (rng.standard_normal((K, N)) / np.sqrt(N)).astype(dtype)
    b = (rng.standard_normal((8, K)) / np.sqrt(K)).astype(dtype)
    w = rng.standard_normal(8).astype(dtype)
    level = np.quantile(phi(phi(rng.standard_normal((4000, N)) @ a.T) @ b.T) @ w, 0.75)

    def labels(x: np.ndarray) -> np.ndarray:
        return (phi(phi(x.astype(dtype) @ a.T) @ b.T) @ w >= dtype(level)).astype(int)

    return labels, a.astype(np.float64)


def label_oracle(function, n: int = N, **options) -> Oracle:
    source = CallableSource(function, (n,))
    source.dtype = np.dtype(options.pop("dtype", np.float64))
    budget = options.pop("budget", None)
    return SourceOracle(source, m=1, answers="labels", ledger=Ledger(budget), **options)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_finds_the_rank_and_vouches_for_no_more_than_it_reached(activation: str) -> None:
    labels, a = threshold_net(activation, seed=3)
    oracle = label_oracle(labels)
    span = label_span(oracle, rng=np.random.default_rng(0), accuracy=1e-6)
    assert span.outcome is Outcome.complete
    assert span.rank == K
    assert span.distance(a) <= 1e-6
    assert span.distance(a) <= span.accuracy <= 1e-6
    assert span.queries == oracle.ledger.asked == sum(span.stages.values())


def test_float32_labels_reach_what_float32_allows() -> None:
    labels, a = threshold_net("tanh", seed=5, dtype=np.float32)
    span = label_span(label_oracle(labels, dtype=np.float32), rng=np.random.default_rng(0), accuracy=1e-3)
    assert span.rank == K
    assert span.distance(a) <= 1e-3


def classes_in_a_box(seed: int, classes: int):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((K, N)) * 4 / np.sqrt(N)
    b, w = rng.standard_normal((12, K)), rng.standard_normal((classes, 12))

    def scores(x: np.ndarray) -> np.ndarray:
        return np.maximum(np.maximum((x - 0.5) @ a.T + 0.2, 0) @ b.T, 0) @ w.T

    level = scores(rng.uniform(0, 1, (1000, N))).mean(axis=0)
    return (lambda x: (scores(x) - level).argmax(axis=1)), a


@pytest.mark.parametrize("classes", [2, 10])
def test_stays_inside_a_box_whatever_the_number_of_classes(classes: int) -> None:
    # A question outside would raise BadInput.
    labels, a = classes_in_a_box(7, classes)
    span = label_span(label_oracle(labels, within=(0.0, 1.0)), rng=np.random.default_rng(1), accuracy=1e-5)
    assert span.rank == K
    assert span.distance(a) <= 1e-5


def test_one_label_only_is_said() -> None:
    span = label_span(label_oracle(lambda x: np.ones(len(x), dtype=int)), rng=np.random.default_rng(0))
    assert span.outcome is Outcome.not_measured
    assert span.rank == 0


def test_one_label_is_looked_behind_to_the_end_of_the_budget() -> None:
    asked = label_oracle(lambda x: np.ones(len(x), dtype=int), n=6, within=(0.0, 1.0), budget=30_000)
    assert label_span(asked, rng=np.random.default_rng(0)).outcome is Outcome.not_measured
    assert asked.ledger.left < 512
    # All of this boundary lies in corners, where uniform points are rare.
    corner = label_oracle(lambda x: (x @ [3.0, 2, 2, 2, 2, 2] > 12.5).astype(int), n=6, within=(0.0, 1.0))
    assert find_ground(Side(corner), None, np.random.default_rng(0)) is not None


def small_net(seed: int):
    rng = np.random.default_rng([seed, 77])
    a = rng.standard_normal((int(rng.integers(1, 4)), 9))
    b = rng.standard_normal((3, len(a)))
    return (lambda x: (np.tanh(np.tanh(x @ a.T) @ b.T) + 0.1).argmax(axis=1)), a


def test_what_is_stated_holds_and_complete_means_within_what_was_asked() -> None:
    spans = []
    for seed in range(6):
        labels, a = small_net(seed)
        spans.append((label_span(label_oracle(labels, n=9), rng=np.random.default_rng(seed)), a))
    for span, a in spans:
        true = np.linalg.qr(a.T)[0]
        assert np.linalg.norm(span.basis - span.basis @ true @ true.T, 2) <= span.accuracy
        assert span.outcome is not Outcome.complete or span.accuracy <= 1e-4
    assert sum(span.outcome is Outcome.complete for span, _ in spans) >= 5


@pytest.mark.parametrize("turn", [1e-4, 1e-2])
def test_a_turned_span_is_measured_as_turned(turn: float) -> None:
    labels, a = small_net(1)
    rng = np.random.default_rng(0)
    side = Side(label_oracle(labels, n=9))
    ground = find_ground(side, None, rng)
    assert ground is not None
    scale = find_scale(side, boundary_points(side, ground, 12, np.empty((0, 9)), rng), rng)
    turned = a + turn * rng.standard_normal(a.shape)
    exact = Normals.none(9)
    points = boundary_points(side, ground, len(a), np.linalg.qr(turned.T)[0].T, rng)
    found = exact.with_normals(points, turned, np.full(len(a), turn), len(a))
    true = np.linalg.qr(a.T)[0]
    error = np.linalg.norm(found.basis - found.basis @ true @ true.T, 2)
    # The points are not crossed along these normals; what fresh ones show is enough to see it.
    stated = measure_accuracy(side, scale, found, ground, rng, 1e-4).accuracy
    assert error <= stated
    assert stated == 1 or stated <= 60 * error


def test_labels_without_a_boundary_that_can_be_asked_come_to_an_end() -> None:
    rough = label_oracle(lambda x: (np.sin(1e9 * x @ [1.0, 2.0, 3.0]) > 0).astype(int), n=3)
    span = label_span(rough, rng=np.random.default_rng(0))
    assert span.outcome is not Outcome.complete
    assert span.accuracy == 1 or span.rank


def test_a_budget_that_ends_leaves_what_was_found() -> None:
    labels, a = threshold_net("tanh", seed=3)
    oracle = label_oracle(labels, budget=45_000)
    span = label_span(oracle, rng=np.random.default_rng(0), accuracy=1e-6)
    assert span.outcome is Outcome.budget_ended
    assert oracle.ledger.asked <= 45_000
    assert 0 < span.rank <= K
    true = np.linalg.qr(a.T)[0]
    # Something is kept back to measure what had been found.
    assert np.linalg.norm(span.basis - span.basis @ true @ true.T, 2) <= span.accuracy


def test_noisy_labels_are_refused_and_votes_mend_them() -> None:
    labels, a = threshold_net("relu", seed=3)
    noise = np.random.default_rng(9)

    def noisy(x: np.ndarray) -> np.ndarray:
        y = labels(x)
        return np.where(noise.random(len(y)) < 0.02, 1 - y, y)

    with pytest.raises(UnsteadyAnswers, match="votes="):
        label_span(label_oracle(noisy), rng=np.random.default_rng(0))
    span = label_span(label_oracle(noisy), rng=np.random.default_rng(0), accuracy=1e-2, votes=13)
    assert span.rank == K
    assert span.distance(a) <= 1e-2


def test_the_same_seed_asks_the_same_questions() -> None:
    labels, _ = threshold_net("softplus", seed=4)
    spans = [label_span(label_oracle(labels), rng=np.random.default_rng(2), accuracy=1e-2) for _ in range(2)]
    assert np.array_equal(spans[0].basis, spans[1].basis)
    assert spans[0].queries == spans[1].queries


def test_values_are_not_taken_for_labels() -> None:
    oracle = SourceOracle(CallableSource(lambda x: x[:, :1], (N,)), m=1)
    with pytest.raises(BadInput, match="LabelsOnly"):
        label_span(oracle, rng=np.random.default_rng(0))


def test_shifts_are_those_of_a_plane_even_where_the_bracket_was_wrong() -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(N)
    oracle = label_oracle(lambda x: (x @ normal > 1).astype(int))
    point = normal[None] / (normal @ normal)
    along = rng.standard_normal((1, N))
    along *= np.sign(along @ normal)
    points = BoundaryPoints(point, np.array([0]), along / np.linalg.norm(along))
    moves = rng.standard_normal((40, N))
    found = shifts(
        Side(oracle),
        points,
        moves,
        np.array([0.5]),
        centre=np.zeros((1, 40)),
        half=np.array([1e-4]),
        cell=np.array([1e-9]),
    )
    assert np.allclose(found[0], -0.5 * (moves @ normal) / (points.along[0] @ normal), atol=1e-9)


def test_brackets_of_a_normal_variable_are_parted_where_both_sides_are_as_likely() -> None:
    rng = np.random.default_rng(0)
    mean, deviation, cell = rng.standard_normal(200), rng.uniform(0.5, 2, 200), rng.uniform(1e-3, 1e-2, 200)
    low = mean - deviation * rng.uniform(0.2, 3, 200)
    high = mean + deviation * rng.uniform(0.2, 3, 200)
    middle = _median(low, high, cell, mean, deviation)
    np.testing.assert_allclose((middle - low) / cell, np.round((middle - low) / cell), atol=1e-6)
    left, right = (np.diff(ndtr((pair - mean) / deviation), axis=0)[0] for pair in ([low, middle], [middle, high]))
    # But for a cell, of a density of 0.4 / deviation at most.
    assert (np.abs(left - right) <= 0.8 * cell / deviation).all()
    # Where nothing is likely, a bracket is halved; a bracket of two cells is always.
    for side in (-1, 1):
        far = np.sort([mean + 50 * side * deviation, mean + 51 * side * deviation], axis=0)
        np.testing.assert_allclose(_median(*far, cell, mean, deviation), far.mean(axis=0), atol=cell.max())
    two = _median(low, low + 2 * cell, cell, mean, deviation)
    np.testing.assert_allclose(two, low + cell)
    # Moves of each point's own are those that all share, where these are the same.
    normal = rng.standard_normal(N)
    asked = Side(label_oracle(lambda x: (x @ normal > 1).astype(int)))
    along = rng.standard_normal((3, N))
    along *= np.sign(along @ normal)[:, None] / np.linalg.norm(along, axis=1)[:, None]
    points = BoundaryPoints(np.tile(normal / (normal @ normal), (3, 1)), np.zeros(3, dtype=int), along)
    own, full = rng.standard_normal((3, 7, N)), np.full(3, 0.5)
    given = {"centre": np.zeros((3, 7)), "half": full, "cell": np.full(3, 1e-9)}
    found = shifts(asked, points, own, full, **given)
    for i in range(3):
        np.testing.assert_array_equal(found[i], shifts(asked, points, own[i], full, **given)[i])


def test_a_grid_too_coarse_for_normals_is_said() -> None:
    labels, _ = classes_in_a_box(7, 10)
    oracle = label_oracle(labels, within=(0.0, 1.0), grid=1 / 16)
    span = label_span(oracle, rng=np.random.default_rng(1), accuracy=1e-2)
    assert span.outcome is Outcome.approximate
    assert span.accuracy > 0.1


def test_examples_serve_where_random_points_show_one_label() -> None:
    labels, a = threshold_net("tanh", seed=3)
    near = np.random.default_rng(2).standard_normal((20, N)) / 8
    with_examples = label_span(label_oracle(labels), rng=np.random.default_rng(0), accuracy=1e-2, x=near)
    without = label_span(label_oracle(labels), rng=np.random.default_rng(0), accuracy=1e-2)
    assert np.array_equal(with_examples.basis, without.basis)

    def far(x: np.ndarray) -> np.ndarray:
        return labels(x - 1e4)  # the boundary is where nobody draws at random

    there = 1e4 + 4 * np.random.default_rng(3).standard_normal((50, N))
    alone = label_span(label_oracle(far, budget=5000), rng=np.random.default_rng(0), accuracy=1e-2)
    # Nothing, or what the boundary shows further out: there not all directions matter, but no others do.
    rows = np.linalg.qr(a.T)[0].T
    assert not alone.rank or np.linalg.norm(alone.basis - alone.basis @ rows.T @ rows, 2) <= 1e-2
    span = label_span(label_oracle(far), rng=np.random.default_rng(0), accuracy=1e-2, x=there)
    assert span.rank == K
    assert span.distance(a) <= 1e-2


def test_a_second_label_met_once_and_not_again_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    none = BoundaryPoints(np.empty((0, 6)), np.empty(0, dtype=np.int64), np.empty((0, 6)))
    monkeypatch.setattr("unveil.blackbox.label_span.boundary_points", lambda *_: none)
    source = CallableSource(lambda x: (x[:, 0] > 1).astype(int), (6,))
    oracle = SourceOracle(source, m=1, answers="labels")
    assert label_span(oracle, rng=rng).outcome is Outcome.not_measured


def test_an_error_is_carried_over_to_other_units() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        units, r = 10 ** rng.uniform(-2, 2, 8), int(rng.integers(1, 8))
        basis, complement = np.split(np.linalg.qr(rng.standard_normal((8, 8)))[0], [r])
        factor, sines = carried_over(basis, units), []
        for _ in range(50):
            error = rng.standard_normal((r, 8 - r))
            true = np.linalg.qr(((basis + 1e-9 * error / np.linalg.norm(error, 2) @ complement) / units).T)[0].T
            found = np.linalg.qr((basis / units).T)[0].T
            sines.append(np.linalg.norm(true - true @ found.T @ found, 2) / 1e-9)
        assert max(sines) <= factor * 1.001 + 1e-5
        if r == 1:  # the bound is met where the error points the worst way
            assert factor <= 20 * max(sines)
    assert carried_over(basis, 1.0) == 1.0


@pytest.mark.parametrize("boxed", [False, True])
def test_inputs_in_raw_units_are_asked_in_their_own(boxed: bool) -> None:
    rng = np.random.default_rng(3)
    units = 10 ** rng.uniform(-3, 4, 8)
    middle = units * rng.uniform(-3, 3, 8)
    rows, out = rng.standard_normal((2, 8)), rng.standard_normal((2, 3))
    oracle = uv.as_oracle(
        lambda x: (np.tanh((x - middle) / units @ rows.T) @ out).argmax(axis=1),
        shape=8,
        within=(middle - 3 * units, middle + 3 * units) if boxed else None,
        answers="labels",
    )
    examples = None if boxed else middle + units * rng.standard_normal((50, 8))
    span = uv.row_span(oracle, rng=rng, x=examples)
    assert span.outcome is Outcome.complete
    assert span.rank == 2
    assert span.distance(rows / units) <= span.accuracy <= 1e-4


def test_a_boundary_whose_normal_lies_outside_of_what_is_known_is_found() -> None:
    # Thresholds of single inputs: no segment along one of them ever crosses another one.
    def tree(x: np.ndarray) -> np.ndarray:
        left = np.where(x[:, 1] > 0.2, 1, np.where(x[:, 4] > -0.5, 0, 2))
        return np.where(x[:, 0] > 0.1, left, np.where(x[:, 3] > -0.3, 2, 1))

    for seed in range(3):
        span = label_span(label_oracle(tree, n=6), rng=np.random.default_rng(seed))
        assert span.outcome is Outcome.complete
        assert span.rank == 4
        assert span.distance(np.eye(6)[[0, 1, 3, 4]]) <= span.accuracy


def test_a_box_is_confirmed_in_all_of_it() -> None:
    # The search stays in the inner half, where the second input changes nothing.
    def labels(x: np.ndarray) -> np.ndarray:
        return (x[:, 0] + 6 * np.maximum(x[:, 1] - 0.8, 0) > 0.5).astype(int)

    oracle = label_oracle(labels, n=4, within=(np.zeros(4), np.ones(4)))
    span = label_span(oracle, rng=np.random.default_rng(0))
    assert span.outcome is Outcome.complete
    assert span.rank == 2
    assert span.distance(np.eye(4)[:2]) <= span.accuracy


def test_what_a_search_missed_that_ended_early_is_no_accuracy() -> None:
    def labels(x: np.ndarray) -> np.ndarray:
        return (x[:, :8] > np.linspace(-0.5, 0.5, 8)).sum(axis=1) % 2

    for budget in (30_000, 45_000, 60_000):
        span = label_span(label_oracle(labels, n=10, budget=budget), rng=np.random.default_rng(0))
        assert span.queries <= budget
        assert span.rank < 8  # so that a direction at which labels change is missing
        assert span.outcome is Outcome.budget_ended
        assert span.accuracy == span.unseen == 1.0


def test_a_budget_may_end_before_a_second_label_was_met() -> None:
    for budget in (300, 900, 2700):
        oracle = uv.as_oracle(lambda x: (x[:, 0] > 1e9).astype(int), shape=6, answers="labels", budget=budget)
        span = uv.row_span(oracle, rng=np.random.default_rng(0))
        assert span.rank == 0
        assert span.outcome in (Outcome.budget_ended, Outcome.not_measured)
