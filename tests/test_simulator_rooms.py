"""Inputs of simulators, what a table of them cannot tell, surrogates, and where to evaluate next."""

from __future__ import annotations

import numpy as np

import unveil as uv
from unveil.blackbox.evaluation_design import batch_size, most_telling, space_filling
from unveil.blackbox.gaussian_process import _quick
from unveil.blackbox.surrogate import Along, Logarithmic, quadratic
from unveil.blackbox.table_cautions import cautions, within_rows

INPUTS = uv.Inputs(
    (
        uv.Input("plain", -3, 5),
        uv.Input("log", 0.01, 100, log=True),
        uv.Input("whole", 2, 6, integer=True),
        uv.Input("kind", levels=("a", "b", "c")),
    )
)


def test_columns_and_values_are_inverse_and_legal(rng: np.random.Generator) -> None:
    z = INPUTS.from_unit(rng.random((200, 4)))
    assert z.shape == (200, INPUTS.n) == (200, 6)
    assert np.abs(z).max() <= 1
    np.testing.assert_allclose(INPUTS.nearest(z), z, atol=1e-12)
    values = INPUTS.values(z)
    np.testing.assert_allclose(INPUTS.columns(values), z, atol=1e-9)
    plain, log, whole, kind = zip(*values, strict=True)
    assert min(plain) >= -3
    assert max(plain) <= 5
    assert 0.2 < np.mean(np.array(log) < 1) < 0.8  # evenly on the logarithmic scale
    assert set(whole) == {2, 3, 4, 5, 6}
    assert set(kind) == {"a", "b", "c"}
    assert INPUTS.owner.tolist() == [0, 1, 2, 3, 3, 3]


def test_the_nearest_legal_columns_are_the_nearest(rng: np.random.Generator) -> None:
    z = 2 * rng.standard_normal((300, 6))
    y = INPUTS.nearest(z)
    np.testing.assert_array_equal(y[:, :2], np.clip(z[:, :2], -1, 1))
    steps = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(y[:, 2], steps[np.abs(z[:, 2:3] - steps).argmin(axis=1)])
    np.testing.assert_array_equal(y[:, 3:].argmax(axis=1), z[:, 3:].argmax(axis=1))
    assert (y[:, 3:].sum(axis=1) == -1).all()


def test_a_table_says_what_its_rows_cannot_tell(rng: np.random.Generator) -> None:
    inputs = uv.Inputs((*tuple(uv.Input(name, -1, 1) for name in "abc"), uv.Input("kind", levels=("x", "y", "z"))))
    z = inputs.from_unit(rng.random((200, 4)))
    assert cautions(inputs, z) == ()
    z[:, 1] = 0.5 * z[:, 0] + 0.1  # follows a, and covers half of its range
    z[:, 3:] = [1, -1, -1]
    said = cautions(inputs, z)
    assert len(said) == 3
    assert said[0].startswith("a and b vary together")
    assert "range of b:" in said[1]
    assert "kind = y and kind = z" in said[2]
    points = within_rows(inputs, z, rng.uniform(-1, 1, (500, 6)))
    assert points[:, 1].min() >= z[:, 1].min()
    assert points[:, 1].max() <= z[:, 1].max()
    assert np.ptp(points[:, 0]) > 1.9


def test_surrogates_take_up_their_own_kind_of_function(rng: np.random.Generator) -> None:
    x, fresh = rng.uniform(-1, 1, (80, 3)), rng.uniform(-1, 1, (30, 3))
    bend, slope = rng.standard_normal((3, 3)), rng.standard_normal(3)

    def f(x: np.ndarray) -> np.ndarray:
        return np.einsum("ni,ij,nj->n", x, bend, x) + x @ slope + 2

    def df(x: np.ndarray) -> np.ndarray:
        return x @ (bend + bend.T) + slope

    plain = quadratic(x, f(x))
    raised = Logarithmic(quadratic(x, f(x)), 0.0)
    turn = np.linalg.qr(rng.standard_normal((5, 3)))[0].T
    wide = rng.uniform(-1, 1, (30, 5))
    along = Along(quadratic(x, f(x)), turn)
    for model, where, value, gradient in (
        (plain, fresh, f(fresh), df(fresh)),
        (raised, fresh, np.exp(f(fresh)), np.exp(f(fresh))[:, None] * df(fresh)),
        (along, wide, f(wide @ turn.T), df(wide @ turn.T) @ turn),
    ):
        np.testing.assert_allclose(model.predict(where)[0], value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(model.gradient(where), gradient, rtol=1e-4, atol=1e-4)
        (drawn,) = model.draw(where, 1, rng)
        np.testing.assert_allclose(drawn[1], gradient, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(raised.refitted(x, np.exp(2 * f(x))).predict(fresh)[0], np.exp(2 * f(fresh)), rtol=1e-4)


def test_points_to_begin_with_fill_the_box(rng: np.random.Generator) -> None:
    low, high = np.array([-2.0, 0.0]), np.array([2.0, 10.0])
    oracle = uv.as_oracle(lambda x: x[:, :1], 2, within=(low, high))
    x = space_filling(oracle, 64, rng)
    cells = np.floor((x - low) / (high - low) * 4).astype(int)
    assert len(np.unique(cells @ [4, 1])) == 16  # chance alone leaves cells empty in every fourth draw
    free = space_filling(uv.as_oracle(lambda x: x[:, :1], 2), 256, rng)
    assert 0.9 < free.std() < 1.1
    assert [batch_size(budget) for budget in (1, 16, 17, 800)] == [1, 1, 2, 50]


def test_points_asked_before_tell_less_than_fresh_ones(rng: np.random.Generator) -> None:
    x = rng.uniform(-1, 1, (12, 2))
    model = _quick(x, np.sin(2 * x[:, 0]) + 0.1 * x[:, 1])
    fresh = np.array([[0.9, 0.9], [-0.9, -0.9], [0.9, -0.9], [-0.9, 0.9]])
    candidates = np.vstack([x, fresh])
    chosen = most_telling(model, candidates, rng.uniform(-1, 1, (40, 2)), 4)
    assert len(set(chosen.tolist())) == 4
    assert chosen[0] >= len(x)
    np.testing.assert_array_equal(most_telling(quadratic(x, x[:, 0]), candidates, x, 3), np.arange(3))
