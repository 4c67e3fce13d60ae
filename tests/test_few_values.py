"""Where few values of the layer before count: points there, rounding there, and what steps that must be short tell."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import Answer, random_weights, relu_gradients, relu_net, single
from tests.test_relu_onward import positive
from unveil.blackbox.line_search.local_breakpoint import local_breakpoints
from unveil.blackbox.rounding import Rounding
from unveil.identification.piecewise_linear.behind import Behind
from unveil.identification.piecewise_linear.critical_point import Slope, room
from unveil.identification.piecewise_linear.derivative_sums import HELD, Sums
from unveil.identification.piecewise_linear.derivatives import Station, derivatives
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.traced_layers import INSIDE, first_sums

SIGMA = 1e-6


@pytest.mark.parametrize("d", [8, 32, 256])
def test_lines_cross_hyperplanes_of_neurons_with_few_positive_weights(d: int, rng: np.random.Generator) -> None:
    h = positive(d).sample(6000, rng)
    assert (h > 0).all()
    # Of the sum of squares few values make up nearly all at a third of the points, and many at another.
    count = (h**2).sum(axis=1) ** 2 / (h**4).sum(axis=1)
    assert 0.2 < (count < 3).mean() < 0.6
    assert (count > d / 10).mean() > 0.2
    # Most lines that cross those of neurons with a quarter of their weights positive do so there, whatever the width.
    rows = np.abs(rng.standard_normal((200, d))) * np.where(np.arange(d) < d // 4, 1, -1)
    base, step, low, high = positive(d).lines(3000, 1e3, rng)
    ends = [(base + t[:, None] * step) @ rows.T > 0 for t in (low, high)]
    assert np.median((ends[0] != ends[1]).mean(axis=0)) > 0.1


@pytest.mark.parametrize("louder", [1.0, 5.0])
def test_rounding_is_what_it_is_at_each_place(louder: float, rng: np.random.Generator) -> None:
    d, m = 12, 2
    slope = rng.standard_normal((m, d))

    def ask(x: np.ndarray) -> np.ndarray:
        return x @ slope.T + louder * SIGMA * rng.standard_normal((len(x), m))

    probe = Probe(ask, Rounding(np.full(m, SIGMA), np.sqrt(d), SIGMA, True), rng)
    x = rng.standard_normal((40, d))
    found, error = derivatives(probe, Frame.of_input(d, None), x, np.full(40, 0.1))
    # All of them are measured, and as wrong as is said.
    assert np.isfinite(error).all()
    off = np.sqrt(((found - slope) ** 2).mean(axis=(1, 2)))
    assert 0.5 < np.median(off / error) < 2
    # So are breakpoints: each answer's error counts for what it is.
    step = 0.1 * rng.standard_normal((300, d))
    place, bend = rng.uniform(-0.6, 0.6, 300), rng.standard_normal((300, m))

    def bent(y: np.ndarray) -> np.ndarray:
        each = np.repeat(np.arange(300), len(y) // 300)
        t = (y * step[each]).sum(axis=1) / (step[each] ** 2).sum(axis=1)
        return 1e-3 * np.maximum(t - place[each], 0)[:, None] * bend[each] + ask(y)

    seen = local_breakpoints(bent, np.zeros((300, d)), step, probe.noise)
    assert seen.found.mean() > 0.9
    assert (np.abs(seen.t - place)[seen.found] < 5 * seen.width[seen.found]).mean() > 0.97


def test_steps_along_other_directions_are_not_as_short_as_the_shortest(rng: np.random.Generator) -> None:
    d, m, ratios, known = 10, 2, [], []
    for _ in range(20):
        weights = random_weights((d, 6, m), rng, bias=0.3)
        net = relu_net(weights)
        eye = np.eye(d), np.zeros(d)

        def ask(x: np.ndarray, net: Answer = net) -> np.ndarray:
            return net(np.maximum(x, 0)) + SIGMA * rng.standard_normal((len(x), m))

        x = np.abs(rng.standard_normal(d)) + 0.1
        x[:3] = 1e-4
        np.testing.assert_allclose(room([eye], x, np.eye(d)), x)
        slope = Slope.at(Probe(ask, Rounding(np.full(m, SIGMA), np.sqrt(d), SIGMA, True), rng), [eye], x, 0.3)
        if slope is None:
            continue
        off = (slope.station.slope - relu_gradients(weights, x[None])[0]) @ slope.span
        ratios.append(off / slope.error)
        known.append(slope.error.min() / slope.error.max())
    assert len(known) > 10
    assert max(known) < 0.02
    assert 0.4 < np.sqrt(np.mean(np.square(ratios))) < 2


def test_a_neuron_that_few_derivatives_could_call_for_stays(rng: np.random.Generator) -> None:
    d, kept, gone = 8, [], []
    for _ in range(20):
        weights = random_weights((d, 5, 3), rng, bias=0.3)
        (W, b), x = weights[0], rng.standard_normal((80, d))
        # One of them is active at a few of the places only, and there derivatives are vague.
        b[0] = -np.sort(x @ W[0])[-3]
        slopes, vague = relu_gradients(weights, x), x @ W[0] + b[0] > 0
        error = np.where(vague, 0.3, 1e-4)
        slopes += error[:, None, None] * rng.standard_normal(slopes.shape)
        stations = [Station(*each) for each in zip(x, slopes, error, strict=True)]
        size = np.linalg.norm(W, axis=1)
        rows, bias = W / size[:, None], b / size
        false = rng.standard_normal(d)
        rows, bias = np.concatenate([rows, [false / np.linalg.norm(false)]]), np.append(bias, 0.0)
        sign = rng.choice([-1.0, 1.0], 6)
        neurons = [
            Neuron(s * r, float(s * c), np.ones(d, dtype=bool), (), 1e-12 * np.eye(d + 1))
            for s, r, c in zip(sign, rows, bias, strict=True)
        ]
        sums = Sums.of_stations([], neurons, stations, HELD[False])
        use = sums.made_up(np.ones(6, dtype=bool), 0.95).use
        kept.append(bool(use[:5].all()))
        gone.append(not use[5])
    # One that half of the derivatives would call for, and none does, goes all the same.
    assert np.mean(kept) >= 0.9
    assert np.mean(gone) >= 0.9


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_neuron_that_is_none_is_left_out_where_some_derivatives_would_call_for_it(
    share: float, rng: np.random.Generator
) -> None:
    d, gone, kept = 8, [], []
    for _ in range(20):
        weights = random_weights((d, 3, 2), rng, bias=0.3)
        (W, b), x = weights[0], rng.standard_normal((40, d))
        false = rng.standard_normal(d)
        rows = np.concatenate([W, [false]]) / np.linalg.norm([*W, false], axis=1)[:, None]
        bias = np.append(b / np.linalg.norm(W, axis=1), -np.quantile(x @ rows[3], 1 - share))
        slopes = relu_gradients(weights, x)
        some = slopes.any(axis=(1, 2))
        stations = [Station(*each, 1e-6) for each in zip(x[some], slopes[some], strict=True)]
        neurons = [Neuron.given(row, float(c), 1e-6, i) for i, (row, c) in enumerate(zip(rows, bias, strict=True))]
        use = Sums.of_stations([], neurons, stations, HELD[False]).made_up(np.ones(4, dtype=bool), 0.95).use
        gone.append(not use[3])
        kept.append(bool(use[:3].all()))
    assert np.mean(gone) >= 0.8
    assert np.mean(kept) >= 0.9


def test_where_a_whole_layer_is_active_none_of_it_switches(rng: np.random.Generator) -> None:
    d = 6
    weights = single(random_weights((d, 4, 2), rng, bias=0.3))
    frame = Frame.of_input(d, None).after(np.eye(d), np.full(d, 0.2))
    error = np.full(d, 1e-4)
    probe = Probe(relu_net(weights), Rounding(np.full(2, 1e-7), np.sqrt(d), 1e-7, True), rng)
    sums, region, usual = first_sums(probe, frame, error)
    # The region begins where the neurons are positive whatever the errors of their rows.
    z = region.sample(2000, rng)
    assert (z > INSIDE * 1e-4).all()
    assert z.min() < 2 * INSIDE * 1e-4
    close = z[:1].copy()
    close[0, 0] = INSIDE * 1e-4 + 1e-9
    eye = [(np.eye(d), np.zeros(d))]
    width = np.full(1, 0.1)
    assert not Behind(sums, region, eye, [np.zeros((0, 1, 1))]).explained(close, width, [])[0]
    assert Behind(sums, usual, eye, [np.full((d, 1, 1), 1e-8)]).explained(close, width, [])[0]
