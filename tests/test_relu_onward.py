"""Layers behind the first from float32 answers: bends located, neurons followed, whole networks."""

from __future__ import annotations

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_elsewhere, relu_net, single
from unveil.blackbox.line_search.local_breakpoint import POINTS, local_breakpoints
from unveil.blackbox.rounding import Rounding
from unveil.identification.piecewise_linear.behind import Behind
from unveil.identification.piecewise_linear.critical_point import CriticalPoint
from unveil.identification.piecewise_linear.critical_points import CriticalPoints
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplane_tracing import follow
from unveil.identification.piecewise_linear.probe import Probe


def positive(d: int) -> Frame:
    """Where all coordinates are positive."""
    eye = np.eye(d)
    return Frame(eye, np.zeros(d), eye, eye, np.zeros(d), eye, np.zeros(d))


def test_one_bend_is_located_to_within_its_width_and_others_are_not_taken_for_one() -> None:
    rng = np.random.default_rng(0)
    n, m, count, sigma = 6, 3, 400, 1e-6
    noise = Rounding(np.full(m, sigma / 2), 1.0, sigma, True)
    normal, out = rng.standard_normal((count, n)), rng.standard_normal((count, m))
    centre = rng.standard_normal((count, n))
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    step = 0.01 * rng.standard_normal((count, n))
    place = rng.uniform(-0.9, 0.9, count)
    place[300:] = np.where(np.arange(100) % 2, 5.0, -5.0)  # beyond the step: nothing bends
    second = np.where(np.arange(count) < 200, 5.0, np.clip(-place, -0.7, 0.7) + 0.15)

    def ask(x: np.ndarray) -> np.ndarray:
        each = np.repeat(np.arange(count), POINTS)
        t = ((x - centre[each]) * step[each]).sum(axis=1) / (step[each] ** 2).sum(axis=1)
        rate = np.linalg.norm(step, axis=1)[each]
        bend = np.maximum(t - place[each], 0) * rate
        bend += np.where(each < 300, np.maximum(t - second[each], 0) * rate, 0)
        return (bend[:, None] * out[each]) + sigma * rng.standard_normal((len(x), m)) * 0.5 + normal[each][:, :m]

    seen = local_breakpoints(ask, centre, step, noise)
    one = seen.found[:200]
    assert one.mean() > 0.95
    assert (np.abs(seen.t - place)[:200][one] < 6 * seen.width[:200][one] + 1e-6).all()
    two = (np.abs(place - second) > 0.2)[200:300]
    assert not seen.found[200:300][two].any()
    assert seen.none[300:].all()


@pytest.mark.parametrize("seed", range(3))
def test_a_neuron_is_followed_until_all_its_weights_are_known(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (first, shift), (rows, bias), *_ = weights = single(random_weights([12, 10, 6, 4, 3], rng, bias=0.5))
    net = relu_net(weights, np.float32)
    frame = positive(12)
    z = frame.sample(4000, rng)
    h = np.maximum(z @ first.T + shift, 0)
    noise = Rounding(np.full(3, 3e-7), float(np.median(np.linalg.norm(z, axis=1))), 3e-7, True)
    probe = Probe(lambda x: net(x.astype(np.float32).astype(float)), noise, rng)
    behind = Behind(probe, frame, [(first, shift)], [np.full((10, 13, 13), 0.0)])
    errors: list[float] = []
    for i in range(6):
        # Somewhere on the hyperplane, by bisection between two points.
        a = h @ rows[i] + bias[i]
        if not (a > 0).any() or not (a < 0).any():
            continue
        up, down = z[a > 0][0], z[a < 0][0]
        for _ in range(60):
            middle = (up + down) / 2
            over = np.maximum(first @ middle + shift, 0) @ rows[i] + bias[i] > 0
            up, down = (middle, down) if over else (up, middle)
        normal = ((first @ up + shift > 0) * rows[i]) @ first
        size = float(np.linalg.norm(normal))
        seen = CriticalPoint(up, normal / size + 1e-4 * rng.standard_normal(12), 4e-4, size * weights[2][0][:3, i])
        one = follow(behind, seen, 1.0)
        if one is None:
            continue
        true = np.append(rows[i], bias[i]) / np.linalg.norm(rows[i][one.known])
        found = np.append(one.weights, one.bias)
        found *= np.sign(found @ true)
        known = np.append(one.known, True)
        errors.append(float(np.abs(found - true)[known].max()))
    # A weight looked for where somebody else bends the answers, too, may come out a little wrong.
    assert len(errors) >= 3, seed
    assert np.median(errors) < 1e-3, (seed, errors)
    assert max(errors) < 0.2, (seed, errors)


@pytest.mark.slow
def test_two_hidden_layers_in_float32(rng: np.random.Generator) -> None:
    sizes = (30, 16, 8, 3)
    whole: list[bool] = []
    wrong: list[bool] = []
    for _ in range(3):
        weights = single(random_weights(sizes, rng, bias=0.5))
        oracle = uv.as_oracle(relu_elsewhere(weights, rng, np.float32), sizes[0], budget=60_000)
        found = CriticalPoints()(oracle, rng=rng)
        if found.outcome is not uv.Outcome.complete:
            whole.append(False)
            continue
        assert found.network is not None
        x = rng.standard_normal((5000, sizes[0]))
        off = np.abs(found.network(x) - relu_net(weights)(x)).max(axis=1)
        # A neuron that one input in some hundreds switches can be missed.
        right = [len(layer.bias) for layer in found.network.layers] == list(sizes[1:]) and np.quantile(off, 0.99) < 1e-3
        whole.append(right)
        wrong.append(not right)
    assert_rate(whole, 0.5, "whole")
    assert_rate([not each for each in wrong], 0.95, "complete and right")
