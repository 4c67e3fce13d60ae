"""Active subspaces: directions against exact gradients, intervals by their rate, exact spans, tables, failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from unveil.blackbox.active_subspace import RIPPLES, SMOOTH, active_subspace
from unveil.blackbox.gaussian_process import fit_surrogate
from unveil.blackbox.gradient_covariance import from_surrogate
from unveil.outcome import BadInput, MissingAnswers, Outcome, SourceError

WEIGHTS = np.array([1.0, 0.6, 0.3, 0.1])


def smooth(x: np.ndarray) -> np.ndarray:
    """A function of four inputs whose directions are known by a formula: exp(w x / 2) + x_2 squared / 4."""
    return np.exp(x @ WEIGHTS / 2) + x[:, 1] ** 2 / 4


def true_covariance() -> np.ndarray:
    """Mean outer product of its gradients, by the formula at many points."""
    x = np.random.default_rng(1).uniform(-1, 1, size=(200_000, 4))
    gradient = np.exp(x @ WEIGHTS / 2)[:, None] * WEIGHTS / 2
    gradient[:, 1] += x[:, 1] / 2
    return np.asarray(gradient.T @ gradient / len(x))


def sine(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - (found @ truth.T) @ truth, 2))


def simulator(function=smooth, n: int = 4, **options) -> uv.Simulator:
    return uv.Simulator(function, {f"x{place}": (-1, 1) for place in range(n)}, takes="batch", **options)


@pytest.mark.slow
def test_directions_and_intervals() -> None:
    """In five of six runs or more the directions are right, and intervals hold the true eigenvalues at 9 of 10."""
    values, axes = np.linalg.eigh(true_covariance())
    values, axes = values[::-1], axes[:, ::-1].T
    good, held = [], []
    for seed in range(6):
        found = active_subspace(simulator(), budget=30, rng=np.random.default_rng(seed + 50))
        assert found.queries == 30
        assert found.outcome is Outcome.approximate
        good.append(sine(found.basis[:1], axes[:1]) < 0.02 and found.ranking[0] == "x0")
        held.append((found.intervals[:, 0] <= values * 1.005) & (values * 0.995 <= found.intervals[:, 1]))
    assert np.mean(good) >= 5 / 6
    assert np.mean(np.array(held)[:, :3]) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("budget", [450, 700])
def test_an_exact_span_is_certified(budget: int) -> None:
    """A function of two combinations of twelve inputs: the span to many digits."""
    rows = np.linalg.qr(np.random.default_rng(3).standard_normal((12, 2)))[0].T

    def ridge(x: np.ndarray) -> np.ndarray:
        z = x @ rows.T
        return np.sin(1.5 * z[:, 0]) + z[:, 1] ** 2

    found = active_subspace(simulator(ridge, 12), budget=budget, rng=np.random.default_rng(5))
    assert found.queries == budget
    assert found.span is None or found.span.unseen <= 0.1
    assert found.outcome is Outcome.complete
    assert found.span is not None
    assert found.span.rank == 2
    assert found.span.unseen <= 0.1
    assert sine(found.basis[:2], rows) < 1e-4
    assert "exactly 2 of 12" in found.conclusion()


def test_a_table_in_its_own_units() -> None:
    """Names, bounds and a logarithmic scale: the same as the oracle sees, rows without an answer counted."""
    rng = np.random.default_rng(0)
    inputs = uv.Inputs.of([uv.Input("a", 1, 100, "Pa", log=True), uv.Input("b", -5, 5), uv.Input("c", 0, 1)])
    z = rng.uniform(-1, 1, size=(40, 3))
    values = inputs.values(z)
    np.testing.assert_allclose(inputs.columns(values), z, atol=1e-12)
    y = np.log([a for a, _, _ in values]) + 0.1 * z[:, 1] ** 2
    y[3] = np.nan
    found = active_subspace(values, y, inputs=inputs)
    assert found.missing == 1
    assert found.queries == 0
    assert found.ranking[0] == "a"
    assert found.dimension == 1
    assert abs(found.basis[0, 0]) > 0.999
    assert found.eigenvalues[0] == pytest.approx((np.log(100) / 2) ** 2, rel=0.01)


def test_gradients_are_used_where_there_are_some() -> None:
    """No surrogate: eigenvalues of the given gradients, with intervals of the bootstrap."""
    oracle = uv.as_oracle(lambda x: (x @ WEIGHTS)[:, None], shape=4, within=(0, 1))
    found = active_subspace(oracle, budget=20, gradient=lambda x: np.tile(WEIGHTS, (len(x), 1)))
    assert found.surrogate is None
    assert found.dimension == 1
    assert sine(found.basis[:1], WEIGHTS[None] / np.linalg.norm(WEIGHTS)) < 1e-7
    np.testing.assert_allclose(found.eigenvalues[0], WEIGHTS @ WEIGHTS / 4)


def test_failures_are_missing_and_counted() -> None:
    """A simulator that takes one input at a time and fails for some."""

    def fragile(x) -> float:
        if x[0] > 0.8:
            raise ValueError("no convergence")
        return float("nan") if x[1] > 0.9 else float(smooth(np.array([x]))[0])

    oracle = uv.Simulator(fragile, {f"x{place}": (-1, 1) for place in range(4)})
    found = active_subspace(oracle, budget=40)
    assert 0 < found.missing < 20
    assert found.missing == oracle.ledger.missing
    assert found.missing + len(found.y) == found.queries == oracle.ledger.asked == 40
    assert found.ranking[0] == "x0"
    with pytest.raises(MissingAnswers):
        oracle(np.full((1, 4), 0.99))


def test_one_that_always_fails_says_why() -> None:
    def broken(x) -> float:
        raise RuntimeError("licence server not found")

    with pytest.raises(SourceError, match="licence server"):
        active_subspace(uv.Simulator(broken, {"a": (0, 1), "b": (0, 1)}), budget=10)


def test_noise_alone_is_not_taken_for_a_direction() -> None:
    """Answers that no input explains fail their own check, in at least five of six runs."""
    failed = []
    for seed in range(6):
        rng = np.random.default_rng(seed + 30)
        found = active_subspace(rng.uniform(-1, 1, size=(30, 3)), rng.standard_normal(30), rng=rng)
        failed.append(found.outcome is Outcome.check_failed)
    assert np.mean(failed) >= 5 / 6


def test_the_same_answer_everywhere() -> None:
    found = active_subspace(simulator(lambda x: np.ones(len(x)), 3), budget=12)
    assert found.outcome is Outcome.nothing_to_find
    assert found.dimension == 0


def test_integers_and_categories() -> None:
    """Runs get whole numbers and levels, never anything between; a category counts as one input."""
    seen = []

    def mixed(count: int, kind: str, size: float) -> float:
        seen.append((count, kind, size))
        return count + {"steel": 0.0, "wood": 4.0}[kind] + 0.1 * size

    given = [uv.Input("count", 1, 5, integer=True), uv.Input("kind", levels=("steel", "wood")), uv.Input("size", 0, 1)]
    found = active_subspace(uv.Simulator(mixed, given, takes="names"), budget=20)
    assert {type(count) for count, _, _ in seen} == {int}
    assert {kind for _, kind, _ in seen} == {"steel", "wood"}
    assert {count for count, _, _ in seen} == {1, 2, 3, 4, 5}
    assert found.activity.shape == (3,)
    assert found.ranking[-1] == "size"


def test_a_salib_problem() -> None:
    inputs = uv.Inputs.of(
        {"num_vars": 2, "names": ["a", "b"], "bounds": [[1, 10], [0, 2]], "dists": ["logunif", "unif"]}
    )
    assert inputs.all == (uv.Input("a", 1, 10, log=True), uv.Input("b", 0, 2))
    with pytest.raises(BadInput, match="norm"):
        uv.Inputs.of({"num_vars": 1, "names": ["a"], "bounds": [[0, 1]], "dists": ["norm"]})


def test_a_stored_run_goes_on_where_it_was(tmp_path) -> None:
    """After a break, only what is missing is run again; the result is the same."""
    calls = []

    def counted(x) -> float:
        calls.append(x)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return float(smooth(np.array([x]))[0])

    def simulated() -> uv.Simulator:
        return uv.Simulator(counted, {f"x{place}": (-1, 1) for place in range(4)}, store=tmp_path / "runs.store")

    with pytest.raises(KeyboardInterrupt):
        active_subspace(simulated(), budget=12)
    found = active_subspace(simulated(), budget=12)
    # 8 kept, the first of them run again as a control, 4 that were missing.
    assert len(calls) == 9 + 1 + 4
    whole = active_subspace(simulator(), budget=12)
    np.testing.assert_allclose(found.eigenvalues, whole.eigenvalues, rtol=1e-6, atol=1e-12)


def test_a_command_line(tmp_path) -> None:
    import sys

    program = tmp_path / "run.py"
    program.write_text("import sys\na, b = map(float, sys.argv[1:])\nprint('energy', 7)\nprint('drag =', 2 * a + b)\n")
    command = uv.Command(f"{sys.executable} {program} {{inputs}}", ("a", "b"))
    assert command([1.5, 2]) == 5.0
    assert uv.Command(command.template, ("a", "b"), pattern=r"energy (\d+)")([1.5, 2]) == 7.0
    with pytest.raises(BadInput, match="must name"):
        uv.Command("run", ("a", "b"))


def test_check_and_plot() -> None:
    found = active_subspace(simulator(), budget=40)
    oracle = simulator()
    held = found.check(oracle, rng=np.random.default_rng(9), points=30)
    assert oracle.ledger.asked == held.points == 90
    assert held.explained > 0.95
    assert held.inactive < 0.3
    assert len(found.plot().axes) == 4


def test_inputs_that_vary_together_are_named() -> None:
    """Of two columns of a table that hold the same, it cannot be told which matters; of others it can."""
    rng = np.random.default_rng(4)
    x = rng.uniform(size=(20, 3))
    twins = np.column_stack([x[:, 0], 3 * x[:, 0] + 1, x[:, 1:]])
    found = active_subspace(twins, np.exp(x[:, 0]), inputs=["a", "b", "c", "d"])
    assert "a and b vary together" in found.conclusion()
    assert active_subspace(x, np.exp(x[:, 0])).cautions == ()


def test_what_no_row_tells_is_named() -> None:
    """Ranges that reach beyond the rows and levels that none has, but no range that the rows fill."""
    rng = np.random.default_rng(4)
    rows = [(value, other, "x" if value < 0.5 else "y") for value, other in rng.uniform(size=(20, 2)).tolist()]
    given = [uv.Input("a", 0, 1), uv.Input("b", 0, 10), uv.Input("kind", levels=("x", "y", "z"))]
    found = active_subspace(rows, [np.exp(a) for a, _, _ in rows], inputs=given)
    assert "range of b: " in found.conclusion()
    assert "No row has kind = z: " in found.conclusion()
    assert len(found.cautions) == 2
    # Averaged over what the rows cover, and in units of the range given: of exp(b) no b above 1 is known.
    found = active_subspace([row[:2] for row in rows], [np.exp(b) for _, b, _ in rows], inputs=given[:2])
    truth = 25 * (np.exp(2) - 1) / 2
    assert found.intervals[0, 0] < 1.1 * truth
    assert found.intervals[0, 1] > 0.9 * truth
    assert found.intervals[0, 1] < 2 * truth


def test_copies_of_rows_explain_nothing() -> None:
    """Answers that no input explains are not foretold from a second row of the same: five of six runs or more."""
    failed = []
    for seed in range(6):
        rng = np.random.default_rng(seed + 70)
        x, y = np.repeat(rng.uniform(size=(15, 1)), 2, axis=0), np.repeat(rng.standard_normal(15), 2)
        # What is learnt does not matter here: a scale so short that rows tell nothing of each other, but all of a copy.
        form = fit_surrogate(x, y, careful=False)
        known = from_surrogate(replace(form, transform=np.full((1, 1), 1e3)).refitted(x, y), x, y, x, rng)
        failed.append(known.explained < 0.5)
    assert np.mean(failed) >= 5 / 6


def test_an_input_outside_the_active_directions_keeps_its_score() -> None:
    """The mean square derivative along each input, by the formula, however few directions are active."""
    found = active_subspace(simulator(lambda x: 2 * x[:, 0] + x[:, 1] ** 2 / 2, 3), budget=20)
    assert found.dimension == 1
    np.testing.assert_allclose(found.activity, [4, 1 / 3, 0], atol=0.01)
    assert found.ranking[:2] == ("x0", "x1")


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_answers_that_no_derivative_can_be_squared_of(size: float) -> None:
    x = np.random.default_rng(0).uniform(size=(9, 2))
    with pytest.raises(BadInput, match="in units"):
        active_subspace(x, size * x[:, 0])


def test_what_a_surrogate_leaves_over_is_told_to_have_gradients_of_its_own() -> None:
    # The ripple is 1.5 % of the variance and 89 % of the mean squared gradient.
    x = np.random.default_rng(0).uniform(-1, 1, (90, 2))
    rippled = active_subspace(x, x[:, 0] + 0.1 * np.sin(40 * x[:, 1]))
    assert rippled.outcome is Outcome.approximate
    assert rippled.explained < SMOOTH
    assert RIPPLES in rippled.conclusion()
    smooth = active_subspace(x, np.tanh(x[:, 0] - x[:, 1]))
    assert RIPPLES not in smooth.conclusion()
