"""Rooms that read a convolution: one kernel read, followed, met elsewhere, the search for all, and what lies behind."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from unveil.identification.convolution.kernel import Kernel, PixelLine
from unveil.identification.convolution.reading import Reader
from unveil.identification.convolution.search import KernelSearch
from unveil.identification.convolution.shared_kernels import SharedKernels, unknowns, with_outputs
from unveil.identification.convolution.short_lines import sighted, traced
from unveil.identification.kernels import Kernels
from unveil.identification.picture import Picture
from unveil.outcome import Outcome
from unveil.whitebox.activation import activation
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.network import Layer, Network

SEEDS = range(5)
PICTURE = Picture((1, 10, 10))


class Truth:
    """Two kernels of 3 x 3 behind which one linear layer ends."""

    def __init__(self, seed: int, dtype: type = np.float64, stride: int = 1, channels: int = 1) -> None:
        rng = self.rng = np.random.default_rng(seed)
        shape = (channels, 10, 10)
        kernel = rng.standard_normal((2, channels, 3, 3))
        kernel /= np.linalg.norm(kernel.reshape(2, -1), axis=1)[:, None, None, None]
        self.convolution = Convolution(kernel, shape, (stride, stride))
        self.bias = 0.3 * rng.standard_normal(2)
        count = self.convolution.output_size
        first = Layer(self.convolution.matrix(), np.repeat(self.bias, count // 2), activation("relu"), self.convolution)
        last = Layer(rng.standard_normal((4, count)) / 5, rng.standard_normal(4), activation("identity"))
        self.network = Network((first, last), shape)
        matrix, weights = first.dense().T.astype(dtype), last.dense().T.astype(dtype)
        shift, end = first.bias.astype(dtype), last.bias.astype(dtype)

        def answer(x: np.ndarray) -> np.ndarray:
            z = x.reshape(len(x), -1).astype(dtype) @ matrix + shift
            return np.maximum(z, 0) @ weights + end

        self.oracle = uv.as_oracle(answer, shape=shape)
        self.picture = Picture(shape)

    def search(self, **options: int) -> KernelSearch:
        return KernelSearch(self.oracle, self.picture, self.rng, **options)

    def told(self, sign: np.ndarray | None = None) -> Kernels:
        turn = np.ones(2) if sign is None else sign
        none = np.zeros(2)
        return Kernels(
            turn[:, None, None, None] * self.convolution.kernel, turn * self.bias, none, none,
            np.ones(2, dtype=int), np.ones(2, dtype=int), self.convolution.stride, (0, 0, 0, 0), (), 0, 0,
        )  # fmt: skip

    def off(self, kernel: Kernel) -> tuple[float, int]:
        """How far a kernel is from the nearest true one, up to sign, and which that is."""
        if kernel.weights.shape != self.convolution.kernel.shape[1:]:
            return np.inf, -1
        turned = [
            np.abs(np.append(kernel.weights - s * w, kernel.bias - s * b)).max()
            for s in (1, -1)
            for w, b in zip(self.convolution.kernel, self.bias, strict=True)
        ]
        return float(min(turned)), int(np.argmin(turned)) % 2


def read_one(truth: Truth, search: KernelSearch) -> tuple[Kernel, PixelLine, int]:
    """A breakpoint read on the first line that has one which is a kernel's."""
    search.noise = search._rounding()
    reader = Reader(search.ask, truth.picture, search.noise, truth.rng)
    for _ in range(20):
        seen = search.line(search.pixel())
        search.lines = [seen]
        search.read = set()
        for _ in range(4):
            index = search._clearest(0)
            if index is None:
                break
            search.read.add((0, index))
            one = reader.read(seen, index, 6)
            if one.kernel is not None and one.kernel.size == (3, 3):
                return one.kernel, seen, index
    raise AssertionError("no kernel was read")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_breakpoint_is_read_as_the_kernel_in_its_window(seed: int) -> None:
    truth = Truth(seed, channels=1 + seed % 2)
    kernel, seen, _ = read_one(truth, truth.search())
    assert truth.off(kernel)[0] < 1e-6
    assert np.linalg.norm(kernel.weights) == pytest.approx(1)
    # The window holds the pixel of the line.
    inside = np.array(seen.pixel[1:]) - kernel.corner
    assert ((inside >= 0) & (inside < 3)).all()


def test_a_kernel_of_one_weight_is_read() -> None:
    scale = np.random.default_rng(1).uniform(0.5, 1.5, (36, 3))

    def answer(x: np.ndarray) -> np.ndarray:
        return np.maximum(-2 * x.reshape(len(x), -1) + 0.5, 0) @ scale

    search = KernelSearch(uv.as_oracle(answer, shape=(1, 6, 6)), Picture((1, 6, 6)), np.random.default_rng(2))
    search.run()
    assert [kernel.weights.tolist() for kernel in search.kernels] == [[[[1.0]]]]
    assert search.kernels[0].bias == pytest.approx(-0.25)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rough_kernel_is_followed_to_more_digits_and_met_in_other_windows(seed: int) -> None:
    truth = Truth(seed, np.float32)
    search = truth.search()
    kernel, seen, index = read_one(truth, search)
    rough, which = truth.off(kernel)
    assert search.noise is not None
    sharp = traced(kernel, seen, index, search.ask, truth.picture, search.noise, truth.rng)
    assert sharp is not None
    assert sharp.size == (3, 3)
    fine, same = truth.off(sharp)
    assert same == which
    assert fine < max(0.2 * rough, 3e-5)
    assert fine < 10 * max(float(sharp.error.max()), sharp.bias_error)
    before = truth.oracle.ledger.asked
    found = search.look_beside(sharp)
    assert truth.oracle.ledger.asked - before <= 13 * 24 + 64
    assert found.believed
    assert 0 < found.share < 0.5
    # In every window met its weighted sum is zero where the breakpoint is.
    theta = np.append(sharp.weights.ravel(), sharp.bias)
    assert np.median(np.abs(found.met.equations @ theta)) < 1e-4
    # What is no kernel of the layer is met by chance alone.
    other = Kernel(
        sharp.weights[:, ::-1] * [1.0, -1.0, 1.0], sharp.bias + 0.2, sharp.error, sharp.bias_error, sharp.corner
    )
    drawn = truth.oracle.sample(64, truth.rng)
    assert not sighted(other, 0.3, drawn, search.ask, truth.picture, search.noise, truth.rng).believed


@pytest.mark.parametrize("seed", SEEDS)
def test_the_search_lists_every_kernel_once(seed: int) -> None:
    truth = Truth(seed, stride=1 + seed % 2)
    search = truth.search()
    search.run()
    off = [truth.off(kernel) for kernel in search.kernels]
    assert sorted(which for _, which in off) == [0, 1]
    assert max(each for each, _ in off) < 1e-6
    for kernel, met in zip(search.kernels, search.met, strict=True):
        assert len(met.line) >= 3
        assert kernel.error.max() < 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_the_layer_behind_tells_the_sides_of_the_kernels(seed: int) -> None:
    truth = Truth(seed)
    sign = truth.rng.choice([-1.0, 1.0], 2)
    kernels = truth.told(sign)
    assert unknowns(kernels, truth.picture) == 128 + 100 + 1
    before = truth.oracle.ledger.asked
    found = with_outputs(kernels, truth.picture, truth.oracle, truth.rng)
    # `1.1 unknowns + 20`
    assert truth.oracle.ledger.asked - before == int(1.1 * 229) + 20
    assert found is not None
    x = truth.oracle.sample(50, truth.rng)
    np.testing.assert_allclose(found(x), truth.network(x), atol=1e-9)
    np.testing.assert_allclose(found.layers[0].bias, truth.network.layers[0].bias, atol=1e-12)
    # Behind other kernels, or a second layer, answers are no such sum.
    wrong = truth.told()
    wrong.weights[0] = wrong.weights[0, :, ::-1]
    assert with_outputs(wrong, truth.picture, truth.oracle, truth.rng) is None
    bent = uv.as_oracle(lambda x: np.abs(truth.network(x.reshape(len(x), -1))), shape=(1, 10, 10))
    assert with_outputs(kernels, truth.picture, bent, truth.rng) is None


def test_of_a_smooth_model_no_kernel_is_looked_for() -> None:
    truth = Truth(0)
    smooth = uv.as_oracle(lambda x: np.tanh(3 * truth.network(x.reshape(len(x), -1))), shape=(1, 10, 10))
    search = KernelSearch(smooth, PICTURE, truth.rng)
    search.run()
    assert search.curved
    assert not search.lines
    assert not search.kernels


def test_the_method_puts_the_rooms_together() -> None:
    truth = Truth(3)
    found = uv.identify(truth.oracle, SharedKernels(), rng=truth.rng)
    assert found.outcome is Outcome.complete
    assert found.kernels is not None
    assert found.kernels.stride == (1, 1)
    assert found.kernels.convolution(PICTURE) is not None
    assert "2 kernels of 1 x 3 x 3" in found.kernels.described()
    assert found.network is not None
    x = truth.oracle.sample(20, truth.rng)
    np.testing.assert_allclose(found.network(x), truth.network(x), atol=1e-8)
