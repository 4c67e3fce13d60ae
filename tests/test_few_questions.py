"""What questions about networks with few digits are asked for: no more of them than tell something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_elsewhere, relu_net, single
from tests.test_hyperplanes import asking, true_planes
from tests.test_relu_onward import positive
from tests.test_rooms_behind import few_digits
from unveil.blackbox.line_search.local_breakpoint import POINTS, local_breakpoints
from unveil.blackbox.rounding import Rounding, rounding
from unveil.identification.fitting.output_layer import AffineMap, Asked
from unveil.identification.piecewise_linear.behind import Behind
from unveil.identification.piecewise_linear.behind_first_layer import _ended
from unveil.identification.piecewise_linear.closing import close
from unveil.identification.piecewise_linear.critical_point import CriticalPoint
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplane_tracing import FIRST, follow
from unveil.identification.piecewise_linear.hyperplanes import LayerFound
from unveil.identification.piecewise_linear.layer_membership import GLANCES, PLACES, straight_ones
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.traced_layers import LINES_AT_A_TIME, NOTHING, Traced, _next_layer


def of_few_digits(weights: Weights, rng: np.random.Generator) -> tuple[Setup, Frame]:
    """A reading of a network in single precision on another processor."""
    n = weights[0][0].shape[1]
    log = Asked(uv.as_oracle(relu_elsewhere(weights, rng, np.float32), n, budget=100_000))
    frame = Frame.of_input(n, None)
    noise = rounding(log, frame.sample(16, rng), log.oracle.resolution, rng)
    return Setup(Probe(log, noise, rng), log, 20.0, 24, 8), frame


def test_a_breakpoint_close_to_an_end_is_where_it_is_said_to_be_or_not_told(rng: np.random.Generator) -> None:
    count, sigma = 2000, 1e-6
    place, jump = rng.uniform(-1, 1, count), 1e-3 * (1 + rng.exponential(1, count))
    noise = Rounding(np.full(1, sigma / 2), 1.0, sigma, True)

    def ask(x: np.ndarray) -> np.ndarray:
        each, t = np.repeat(np.arange(count), POINTS), x[:, 0]
        return np.asarray(
            (np.maximum(t - place[each], 0) * jump[each])[:, None] + sigma / 2 * rng.standard_normal((len(x), 1))
        )

    seen = local_breakpoints(ask, np.zeros((count, 1)), np.ones((count, 1)), noise)
    off = np.abs(seen.t - place) / seen.width
    assert (off[seen.found] < 8).mean() > 0.995
    assert seen.found[np.abs(place) < 0.9].mean() > 0.98


def test_places_end_where_the_normal_told_the_weights_well_enough() -> None:
    asked, right = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        (rows, bias), last = weights = single(random_weights((12, 6, 1), rng, bias=0.5))
        net, frame, count = relu_net(weights, np.float32), positive(12), [0]
        z = frame.sample(4000, rng)
        noise = Rounding(np.full(1, 3e-7), float(np.median(np.linalg.norm(z, axis=1))), 3e-7, True)

        def ask(x: np.ndarray, net=net, count=count) -> np.ndarray:  # type: ignore[no-untyped-def]
            count[0] += len(x)
            return net(x.astype(np.float32)).astype(float)

        behind = Behind(Probe(ask, noise, rng), frame, [(np.eye(12), np.zeros(12))], [np.zeros((0, 1, 1))])
        size = np.linalg.norm(rows, axis=1)
        for i in range(6):
            a = z @ rows[i] + bias[i]
            if not 0.1 < (a > 0).mean() < 0.9:
                continue
            part = a[a > 0][0] / (a[a > 0][0] - a[a < 0][0])
            x = (1 - part) * z[a > 0][0] + part * z[a < 0][0]
            normal = rows[i] / size[i] + 1e-4 * rng.standard_normal(12) / np.sqrt(12)
            seen = CriticalPoint(x, normal, 1e-4, size[i] * last[0][:, i])
            for fine in (1e-3, 1e-6):
                count[0] = 0
                one = follow(behind, seen, 1.0, (), fine)
                if one is None:
                    continue
                asked.append((fine, count[0] / POINTS))
                off = one.weights * np.sign(one.weights @ rows[i]) - rows[i] / size[i]
                right.append(np.linalg.norm(off) < max(fine, 5 * np.sqrt(np.trace(one.spread[:-1, :-1]))))
    few, many = ([places for fine, places in asked if fine == each] for each in (1e-3, 1e-6))
    assert len(few) >= 6
    assert np.median(few) <= FIRST + 1
    assert np.median(many) >= 1.5 * 13  # so many equations as there are numbers, and half as many again
    assert_rate(right, 0.95, "weights")


def test_one_round_of_places_tells_a_hyperplane_of_the_layer() -> None:
    told, none, rounds = [], [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        weights, probe = asking((15, 10, 3), np.float32, rng)
        frame, count = Frame.of_input(15, None), [0]

        def ask(x: np.ndarray, probe=probe, count=count) -> np.ndarray:  # type: ignore[no-untyped-def]
            count[0] += len(x)
            return np.asarray(probe.ask(x))

        planes = true_planes(weights, frame, rng.standard_normal((10, 15)), 1e-4, rng)
        straight, _ = straight_ones(replace(probe, ask=ask), frame, LayerFound.nothing(frame, 3), planes)
        told += straight.tolist()
        rounds.append((count[0] / 10 - 3 * GLANCES) / (6 * PLACES))
        # Through the same places, but none of the network's.
        other = rng.standard_normal((10, 15))
        false = type(planes).through(
            frame, planes.at, other / np.linalg.norm(other, axis=1)[:, None], planes.jump, planes.error
        )
        none += (~straight_ones(probe, frame, LayerFound.nothing(frame, 3), false)[0]).tolist()
    assert_rate(told, 0.97, "straight")
    assert_rate(none, 0.97, "none of the network's")
    assert np.median(rounds) < 1.6


def test_where_nothing_is_met_that_is_not_explained_no_more_lines_are_searched(rng: np.random.Generator) -> None:
    (w, b), _ = weights = single(random_weights((8, 5, 2), rng, bias=0.5))
    probe, frame, usual = few_digits(weights, rng)
    begun = Traced.begun(np.full(8, 1e-6))
    whole = replace(begun, layers=(*begun.layers, (w, b)), spreads=(*begun.spreads, np.full((5, 9, 9), 0.0)))
    *_, state = _next_layer(probe, frame, usual, whole, lambda: False)
    assert not state.partial
    assert len(state.lines) + len(state.among) <= NOTHING * LINES_AT_A_TIME


@pytest.mark.parametrize("bent", [0.0, 0.5])
def test_what_a_layer_of_which_nothing_is_missing_leaves_is_another_layers(bent: float) -> None:
    right = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        weights = random_weights((14, 8, 6, 1), rng, bias=0.5)
        (w, b), (v, c), out = weights
        # Always active but for a part of it: without that the first layer is the only one.
        v[:], c[:] = np.abs(v), np.abs(c) + 1
        v[0], c[0] = -np.abs(v[0]), np.abs(v[0]).sum()
        out[0][0] = np.append(bent * 3, np.ones(5))
        setup, frame = of_few_digits(single(weights), rng)
        planes = true_planes(single(weights), frame, rng.standard_normal((8, 14)), 1e-4, rng)
        jump = np.abs((out[0] @ v * np.linalg.norm(w, axis=1)).T)
        state = Reading.begun(setup, frame).with_found(
            LayerFound.nothing(frame, 1).with_straight(replace(planes, jump=jump))
        )
        x = frame.sample(200, rng)
        slope = (np.asarray(x @ w.T + b > 0)[:, None, :] * (out[0] @ v)[None]) @ w
        state = state.with_found(state.found.with_derivatives(x, slope, np.full(200, 1e-4)))
        seen = close(setup, state)
        right.append(not seen.whole and not len(seen.wrong) and not seen.lacking if bent else seen.whole)
    assert_rate(right, 0.7)


def test_what_errors_of_rows_hide_is_looked_for_again_once_all_weights_were_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    better, found = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        (w, b), (v, c), out = weights = random_weights((12, 8, 5, 1), rng, bias=0.5)
        h = np.maximum(rng.standard_normal((4000, 12)) @ w.T + b, 0)
        # One input in fifty switches the first neuron, which does little then.
        c[0] -= np.quantile(h @ v[0] + c[0], 0.98)
        out[0][:, 0] = 0.05 * np.abs(out[0]).max()
        seen: list[list[AffineMap]] = []

        def lacking(layers: list[AffineMap], *_: object, seen=seen, v=v, c=c) -> list[AffineMap]:  # type: ignore[no-untyped-def]
            seen.append(layers)
            rows, bias = layers[-1]
            put_in = np.concatenate([rows, v[:1]]), np.append(bias, c[0])
            return layers if len(seen) == 1 else [*layers[:-1], put_in]

        monkeypatch.setattr("unveil.identification.piecewise_linear.behind_first_layer.with_rare", lacking)
        setup, frame = of_few_digits(single(weights), rng)
        off = w + 3e-3 * rng.standard_normal(w.shape)
        state = replace(Reading.begun(setup, frame), layers=((off, b), (v[1:], c[1:])), told=({}, {}), settled=True)
        network = _ended(setup, state).network
        assert network is not None
        assert len(seen) == 2
        before, after = (np.linalg.norm(layers[0][0] - w) for layers in seen)
        better.append(after < 0.5 * before)
        x = frame.sample(2000, rng)
        y = relu_net(weights)(x)
        found.append(network.widths == (8, 5, 1) and np.abs(network(x) - y).max() < 1e-3 * y.std())
    assert_rate(better, 0.75, "rows")
    assert_rate(found, 0.75, "whole")
