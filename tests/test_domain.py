"""Legal questions: the box, the grid, and numbers that a model's input holds."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from unveil.blackbox.domain import box, described, held, legal, require_grid


@pytest.mark.parametrize("bits", [8, 11, 24, 53])
def test_a_held_number_is_the_nearest_of_so_many_bits(bits: int, rng: np.random.Generator) -> None:
    x = rng.choice([-1.0, 1.0], 400) * 2.0 ** rng.uniform(-10, 10, 400)
    y = held(x, bits)
    np.testing.assert_array_equal(held(y, bits), y)
    mantissa = np.ldexp(np.frexp(y)[0], bits)
    np.testing.assert_array_equal(mantissa, np.round(mantissa))
    # Half a unit in the last place, and what the way through single precision adds.
    assert (np.abs(y - x) <= np.ldexp(1.0, np.frexp(x)[1] - bits - 1) * (1 + 2.0 ** (bits - 23)) * (bits < 53)).all()


def test_float16_ends_where_its_exponents_do() -> None:
    np.testing.assert_array_equal(held(np.array([1e6, -1e6, 1e-9]), 11), [65504.0, -65504.0, 0.0])


@pytest.mark.parametrize(("dtype", "bits"), [(np.float32, None), (np.float32, 11), (np.float32, 8), (np.float64, None)])
def test_legal_points_are_exact_in_the_input_and_in_the_box(dtype, bits: int | None, rng: np.random.Generator) -> None:
    # Borders that are no numbers of these precisions: the nearest ones lie outside.
    low, high = np.array([-0.3, 0.1, -7.7]), np.array([0.1, 0.7, -1.3])
    y = legal(4 * rng.standard_normal((300, 3)), (low, high), None, np.dtype(dtype), bits)
    assert (y >= low).all()
    assert (y <= high).all()
    np.testing.assert_array_equal(y, held(y, bits or (24 if dtype is np.float32 else 53)))
    # No more room is lost at a border than one unit in the last place.
    unit = 2.0 ** (-(bits or (24 if dtype is np.float32 else 53)) + 1)
    assert (y.min(axis=0) - low <= unit * np.abs(low)).all()
    assert (high - y.max(axis=0) <= unit * np.abs(high)).all()


def test_a_legal_grid_point_is_the_nearest_step_from_the_lower_bound(rng: np.random.Generator) -> None:
    within, grid = (-1.0, 1.1), 0.25
    x = rng.uniform(-2, 2, (500, 2))
    y = legal(x, within, grid, np.dtype(np.float64))
    steps = np.arange(9) * grid - 1.0  # the last one at 1.0: 1.25 is outside
    nearest = steps[np.abs(x[:, :, None] - steps).argmin(axis=2)]
    np.testing.assert_allclose(y, nearest, atol=1e-12)


def test_a_box_is_one_pair_or_one_bound_for_each_input() -> None:
    assert box((0, 1)) == (0.0, 1.0)
    assert box((np.zeros(3), 1), 3) == (0.0, 1.0)
    assert np.shape(box((np.zeros(3), 1))) == (2, 3)  # another number of inputs is refused later
    ends = box((np.zeros((2, 2)), [1, 2, 3, 4]), 4)
    assert ends is not None
    np.testing.assert_array_equal(ends, [np.zeros(4), [1, 2, 3, 4]])
    assert described((0.0, 1.0)) == "[0, 1]"
    assert described(ends) == "[0, 4], each input within bounds of its own"


@pytest.mark.parametrize(
    ("within", "n", "why"),
    [
        ((1, 0), None, "low < high"),
        ((0, np.inf), None, "finite"),
        (3, None, "pair"),
        (("a", "b"), None, "pair"),
        ((np.zeros(3), np.ones(3)), 4, "3 lower and 3 upper bounds"),
        ((np.zeros(3), np.array([1.0, 0.0, 1.0])), 3, "input 1 has 0 and 0"),
    ],
)
def test_what_is_no_box_is_refused_with_the_reason(within: object, n: int | None, why: str) -> None:
    with pytest.raises(uv.BadInput, match=why):
        box(within, n)


@pytest.mark.parametrize("grid", [0.0, -1.0, np.inf, np.nan, 0.6])
def test_a_step_that_does_not_fit_the_box_is_refused(grid: float) -> None:
    with pytest.raises(uv.BadInput, match="positive step that fits"):
        require_grid(grid, (np.zeros(2), np.array([0.5, 1.0])))
    assert require_grid(0.5, (np.zeros(2), np.array([0.5, 1.0]))) == 0.5
