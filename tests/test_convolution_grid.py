"""The grid of a convolution's windows, and padding, from where kernels were met."""

from __future__ import annotations

import numpy as np
import pytest

from unveil.identification.convolution import shared_kernels
from unveil.identification.convolution.kernel import Kernel, Matched, cut
from unveil.identification.convolution.shared_kernels import Grid, grid_of, padding_of


def kernel(rows: int, columns: int, rng: np.random.Generator) -> Kernel:
    weights = rng.standard_normal((2, rows, columns))
    weights /= np.linalg.norm(weights)
    return Kernel(weights, 0.1, np.full(weights.shape, 1e-9), 1e-9, (0, 0))


def met(corner: np.ndarray) -> Matched:
    count = len(corner)
    none = np.zeros(count, dtype=int)
    return Matched(none, none, corner, np.zeros((count, 1)), np.zeros(count), count, 0.0)


def corners(stride: tuple[int, int], origin: tuple[int, int], rng: np.random.Generator, count: int = 60) -> np.ndarray:
    return rng.integers(0, 8, (count, 2)) * stride + origin


@pytest.mark.parametrize(("stride", "origin"), [((1, 1), (0, 0)), ((2, 3), (1, 2)), ((4, 1), (3, 0))])
def test_stride_and_origin_come_from_the_windows_met(stride, origin, rng: np.random.Generator) -> None:
    kernels = [kernel(5, 3, rng) for _ in range(3)]
    seen = [corners(stride, origin, rng) for _ in kernels]
    seen[0][:1] += 1  # one in a hundred or so was met by chance
    grid = grid_of(kernels, [met(each) for each in seen])
    assert (grid.size, grid.stride, grid.origin) == ((5, 3), stride, origin)
    np.testing.assert_array_equal(grid.shift, 0)


def test_a_kernel_with_an_empty_edge_is_put_where_its_windows_lie(rng: np.random.Generator) -> None:
    kernels = [kernel(5, 5, rng), kernel(4, 5, rng), kernel(5, 3, rng)]
    shifts = [(0, 0), (1, 0), (0, 2)]
    seen = [corners((3, 3), (1, 2), rng) + shift for shift in shifts]
    grid = grid_of(kernels, [met(each) for each in seen])
    assert (grid.size, grid.stride, grid.origin) == ((5, 5), (3, 3), (1, 2))
    np.testing.assert_array_equal(grid.shift, shifts)


def test_a_window_is_on_the_grid_where_both_its_remainders_are() -> None:
    grid = Grid((3, 3), (2, 3), (1, 2), np.zeros((1, 2), dtype=int))
    assert grid.holds(np.array([3, 5]))
    assert grid.holds(np.array([-1, -1]))
    assert not grid.holds(np.array([2, 5]))
    assert not grid.holds(np.array([3, 4]))


def test_edges_in_which_nothing_stands_out_are_cut_off(rng: np.random.Generator) -> None:
    weights = np.zeros((2, 5, 6))
    weights[:, 1:4, 2:6] = rng.uniform(0.5, 1, (2, 3, 4)) * rng.choice([-1, 1], (2, 3, 4))
    error = np.full(weights.shape, 1e-6)
    small = cut(Kernel(weights + 1e-6, -0.3, error, 1e-6, (10, 20)))
    assert small.corner == (11, 22)
    assert small.size == (3, 4)
    assert np.linalg.norm(small.weights) == pytest.approx(1)
    assert small.weights.ravel()[np.abs(small.weights).argmax()] > 0
    scale = np.abs(weights).max() / np.abs(small.weights).max()
    assert abs(small.bias) == pytest.approx(0.3 / scale, rel=1e-4)
    assert small.error[0, 0, 0] == pytest.approx(1e-6 / scale, rel=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_padding_reaches_as_far_as_windows_were_met_and_is_open_where_none_could_be(stride: int, monkeypatch) -> None:
    grid = Grid((3, 3), (stride, stride), (-1 % stride, -1 % stride), np.zeros((1, 2), dtype=int))
    last = max(i for i in range(-1, 5, stride))  # of windows that begin at -1
    seen = {"first": ({-1}, {-1 - stride}), "last": ({last}, {last + stride})}
    monkeypatch.setattr(shared_kernels, "_rows", lambda kernels, grid, lines, axis: seen[lines])
    zeros = max(0, last + 3 - 6)
    assert padding_of([], grid, ("first", "last"), (1, 6, 6)) == (1, 1, zeros, zeros)
    # Had a window further out been there, no line would have met it.
    seen["first"] = ({-1}, set())
    assert (padding_of([], grid, ("first", "last"), (1, 6, 6)) is None) == (-1 - stride > -3)
    seen["first"], seen["last"] = ({-1}, {-1 - stride}), ({last}, set())
    assert (padding_of([], grid, ("first", "last"), (1, 6, 6)) is None) == (last + stride < 6)
