"""First layers that are convolutions: kernels are found at a stated rate and cost, and none that is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unveil as uv
from unveil.identification.convolution.kernel import (
    Kernel,
    Matched,
    difference,
    differences_of,
    distinct,
    measured,
    proportional,
)
from unveil.identification.picture import Picture
from unveil.outcome import BadInput, Outcome


def victim(seed, *behind, shape=(1, 12, 12), count=4, size=3, **geometry):
    """A convolution with what lies behind it, and its kernels of length 1 with their biases."""
    torch.manual_seed(seed)
    first = torch.nn.Conv2d(shape[0], count, size, **geometry)
    torch.nn.init.normal_(first.weight)
    torch.nn.init.normal_(first.bias, std=0.2)
    body = torch.nn.Sequential(first, *(behind or (torch.nn.ReLU(),)), torch.nn.Flatten())
    width = body(torch.zeros(1, *shape)).shape[1]
    model = torch.nn.Sequential(body, torch.nn.Linear(width, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))
    if not behind:
        model = torch.nn.Sequential(body, torch.nn.Linear(width, 5))
    weights, bias = first.weight.detach().double().numpy(), first.bias.detach().double().numpy()
    length = np.linalg.norm(weights.reshape(count, -1), axis=1)
    return model.double().eval(), weights / length[:, None, None, None], bias / length


def matched(found, weights, bias):
    """Which true kernel each found one is, and the largest error; -1 where it is none."""
    which, worst = [], 0.0
    for w, b in zip(found.weights, found.bias, strict=True):
        off = [
            min(np.abs(w - s * v).max() + abs(b - s * c) if w.shape == v.shape else np.inf for s in (1, -1))
            for v, c in zip(weights, bias, strict=True)
        ]
        which.append(int(np.argmin(off)) if min(off) < 1e-3 else -1)
        worst = max(worst, min(off))
    return which, worst


def last_bits(model, seed, shape):
    """The model on another processor: the last bit of each answer up or down, at random."""
    rng = np.random.default_rng(seed)

    def answer(x):
        with torch.no_grad():
            y = model(torch.tensor(x.reshape(-1, *shape))).numpy()
        return np.nextafter(y, y + rng.choice([-1, 1], size=y.shape))

    return uv.as_oracle(answer, shape=shape, noisy=True)


def test_a_convolution_and_a_linear_layer_are_read_whole_at_the_cost_of_their_outputs(seed):
    whole = cheap = 0
    for trial in range(3):
        stride, padding = (2, 1) if trial % 2 else (1, 0)
        shape = (1, 12 + padding, 12 + padding)
        model, weights, bias = victim(seed + trial, shape=shape, stride=stride, padding=padding)
        oracle = last_bits(model, trial, shape)
        before = oracle.ledger.asked
        found = uv.identify(oracle, rng=np.random.default_rng(seed + trial))
        assert found.queries <= oracle.ledger.asked - before
        which, error = matched(found.kernels, weights, bias)
        assert -1 not in which
        if found.outcome is Outcome.complete:
            whole += 1
            assert sorted(which) == [0, 1, 2, 3]
            assert error < 1e-6
            assert (found.kernels.stride, found.kernels.padding) == ((stride,) * 2, (padding,) * 4)
            assert found.network.layers[0].convolution.stride == (stride, stride)
            assert found.check(oracle, rng=np.random.default_rng(1)) < 1e-6
        cheap += found.queries < 3000
    assert whole >= 2
    assert cheap >= 2


def test_kernels_are_found_whatever_lies_behind_and_none_that_is_not_there(seed):
    behind = {
        "maximum pooling": lambda: (torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        "a convolution": lambda: (torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU()),
    }
    for name, layers in behind.items():
        found_in_all = 0
        for trial in range(1):
            model, weights, bias = victim(seed + trial, *layers())
            oracle = last_bits(model, trial, (1, 12, 12))
            found = uv.identify(oracle, uv.SharedKernels(), rng=np.random.default_rng(seed + trial))
            assert found.network is None
            assert found.outcome is not Outcome.complete
            if found.kernels is None:
                continue
            which, _ = matched(found.kernels, weights, bias)
            assert -1 not in which, name
            assert len(set(which)) == len(which)
            assert (found.kernels.sightings >= 2).all()
            found_in_all += len(which)
        assert found_in_all >= 2, name


def test_a_dense_first_layer_is_no_convolution(seed):
    rng = np.random.default_rng(seed)
    first, last = rng.standard_normal((30, 144)), rng.standard_normal((3, 30))
    oracle = uv.as_oracle(
        lambda x: np.maximum(x.reshape(len(x), -1) @ first.T + 0.3, 0) @ last.T, shape=(1, 12, 12), budget=20_000
    )
    found = uv.identify(oracle, uv.SharedKernels(), rng=rng)
    assert found.kernels is None
    assert found.outcome is Outcome.check_failed
    assert found.queries < 3000


def test_a_budget_that_ends_leaves_the_kernels_found(seed):
    model, weights, bias = victim(seed)
    for budget in (60, 500, 1100):
        oracle = uv.as_oracle(model, shape=(1, 12, 12), budget=budget + 30)
        found = uv.identify(oracle, uv.SharedKernels(), rng=np.random.default_rng(seed))
        assert found.outcome in (Outcome.budget_ended, Outcome.approximate)
        if found.kernels is not None:
            assert -1 not in matched(found.kernels, weights, bias)[0]


def test_differences_of_shifts_are_told_from_kernels():
    rng = np.random.default_rng(0)
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1), (2, 0), (2, -1)):
        weights = rng.standard_normal((2, 3, 3))
        kernel = Kernel(weights / np.linalg.norm(weights), 0.3, np.full((2, 3, 3), 1e-9), 1e-9, (0, 0))
        assert differences_of(kernel) == []
        pooled = difference(kernel, shift)
        found = differences_of(pooled)
        assert [s for s, w in found if proportional(kernel, w, 1e-9)] == [shift]


def reading(weights, bias, error, rng, sign=1.0):
    """A kernel as it might be read: off by as much as it states."""
    off = error * rng.standard_normal(weights.shape)
    return Kernel(sign * (weights + off), sign * (bias + error * rng.standard_normal()), 0 * off + error, error, (0, 0))


def test_readings_of_one_kernel_are_listed_once_whatever_their_sign_size_and_accuracy(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        one, other = (w / np.linalg.norm(w) for w in rng.standard_normal((2, 3, 4, 4)))
        one[:, :, 0] = 1e-6 * rng.standard_normal((3, 4))
        readings = [reading(one, 0.3, 1e-5, rng), reading(other, 0.3, 1e-7, rng), reading(one, 0.3, 1e-4, rng, -1.0)]
        readings.append(reading(one[:, :, 1:], 0.3, 1e-6, rng))
        assert distinct(readings) == [1, 3]
        nearly = reading(one + 1e-3 * other, 0.3, 1e-6, rng)
        assert distinct([*readings, nearly]) == [1, 3, 4]


def test_stated_errors_are_measured_where_breakpoints_scatter_by_more_than_theirs(seed):
    rng, ratio = np.random.default_rng(seed), []
    for _ in range(20):
        weights = rng.standard_normal((1, 3, 3))
        weights /= np.linalg.norm(weights)
        theta = np.append(weights.ravel(), 0.2)
        system = np.concatenate([rng.standard_normal((24, 9)), np.ones((24, 1))], axis=1)
        # On the hyperplane, but for an error five times the stated one.
        system[:, 0] -= (system @ theta + 5e-6 * rng.standard_normal(24)) / theta[0]
        none = np.zeros(24, dtype=int)
        met = Matched(none, none, np.zeros((24, 2), dtype=int), system, np.full(24, 3e-6), 24, 0.0)
        read = reading(weights, 0.2, 1e-2, rng)
        # The weight of the line itself is one by definition.
        read.weights[0, 0, 0], read.error[0, 0, 0] = weights[0, 0, 0], 0.0
        found = measured(read, met)
        sign = np.sign((found.weights * weights).sum())
        off = np.append((sign * found.weights - weights).ravel(), sign * found.bias - 0.2)
        stated = np.append(found.error.ravel(), found.bias_error)
        ratio.append(np.linalg.norm(off) / np.linalg.norm(stated))
    assert 0.3 < np.median(ratio) < 1.5
    assert max(ratio) < 4


def test_what_is_no_picture_is_refused():
    assert Picture.of((12, 12, 3)) == Picture((3, 12, 12), last=True)
    assert Picture.of((1, 3, 12, 12)) == Picture.of((3, 12, 12))
    assert Picture.of((144,)) is None
    planes = np.random.default_rng(0).standard_normal((2, 3, 12, 10))
    picture = Picture((3, 12, 10), last=True)
    assert (picture.planes(picture.flat(planes)) == planes).all()
    with pytest.raises(BadInput, match="picture"):
        uv.identify(uv.as_oracle(lambda x: x, 5), uv.SharedKernels(), rng=np.random.default_rng(0))
    labels = uv.as_oracle(lambda x: x.reshape(len(x), -1)[:, 0] > 0, (1, 8, 8), answers="labels")
    with pytest.raises(BadInput, match="labels"):
        uv.identify(labels, uv.SharedKernels(), rng=np.random.default_rng(0))
