"""The second layer: what is missing is looked for until fresh answers are explained; what was met twice is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_elsewhere
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.second_layer import SecondLayer, read_second_layer

N, FIRST, SECOND = 20, 16, 10


def _begun(seed: int, which: list[int], twice: list[int]) -> tuple[SecondLayer, uv.Network]:
    """A reading that knows the first layer and these neurons of the second, some of them twice, not quite alike."""
    rng = np.random.default_rng(seed)
    weights = random_weights((N, FIRST, SECOND, 1), rng, bias=0.5)
    ask = Asked(uv.as_oracle(relu_elsewhere(weights, rng), N, budget=100_000))
    frame = Frame.of_input(N, None)
    noise = rounding(ask, frame.sample(4, rng), ask.oracle.resolution, rng)
    found = LayerFound.nothing(frame.after(*weights[0]), 1)
    (rows, bias), (outer, _) = weights[1:]
    for copy, some in enumerate((which, twice)):
        for i in some:
            size = np.linalg.norm(rows[i])
            # Read less well the second time, as far as rounding lets a hyperplane far out be read.
            shift, error = np.array([bias[i] / size + 2e-6 * copy]), np.array([1e-9 + 1e-6 * copy])
            one = Hyperplanes(rows[[i]] / size, shift, outer[:, [i]].T * size, error, np.zeros((1, N)))
            found = found.with_straight(one)
    first = LayerFound.nothing(frame, 1)
    second = SecondLayer.begun(Probe(ask, noise, rng), ask, frame, weights[0], first, found)
    return second, uv.Network.from_weights(weights)


def _right(second: SecondLayer, truth: uv.Network) -> bool:
    if second.network is None or second.residual > 1e-5:
        return False
    x = np.random.default_rng(1).standard_normal((5000, N))
    same = second.network.widths == truth.widths
    return same and float(np.abs(second.network(x) - truth(x)).max()) < 1e-5 * float(np.abs(truth(x)).max())


def test_neurons_that_are_missing_are_looked_for_where_fresh_answers_are_not_explained() -> None:
    good = []
    for seed in range(6):
        second, truth = _begun(seed, list(range(SECOND - 4)), [])
        good.append(_right(read_second_layer(second), truth))
    assert_rate(good, 0.9, "four of ten missing")


def test_a_hyperplane_met_twice_is_one_neuron() -> None:
    good = []
    for seed in range(6):
        second, truth = _begun(seed, list(range(SECOND)), [0, 3])
        good.append(_right(read_second_layer(second), truth))
    assert_rate(good, 0.9, "two of ten read twice")


def test_a_neuron_known_to_a_few_digits_is_not_taken_in_again() -> None:
    second, _ = _begun(0, list(range(SECOND)), [])
    straight, rng = second.found.straight, np.random.default_rng(2)
    h = rng.uniform(0.1, 10.0, (400, 1, FIRST))
    h = h - (h @ straight.rows.T + straight.bias).swapaxes(1, 2) * straight.rows
    which, i = np.nonzero((h > 0).all(axis=2))
    frame = second.frame
    met = Hyperplanes.through(
        frame, (h[which, i] - frame.c) @ frame.V.T, straight.rows[i], straight.jump[i], np.full(len(i), 1e-12)
    )
    assert len(set(i)) > 3
    vague = replace(straight, bias=straight.bias + 2e-5, error=np.full(SECOND, 1e-4))
    found = second.found.with_rows(vague).with_bent(met, np.zeros(len(met), dtype=bool))
    outside = Frame.of_input(N, None)
    again = SecondLayer.begun(second.probe, second.log, outside, second.layer, LayerFound.nothing(outside, 1), found)
    assert len(again.found.rows) == SECOND


def test_a_vague_row_is_left_out_and_met_again() -> None:
    second, _ = _begun(0, list(range(SECOND)), [])
    straight, outside = second.found.straight, Frame.of_input(N, None)
    nothing, vague = LayerFound.nothing(outside, 1), np.arange(SECOND) < 2
    found = second.found.with_rows(replace(straight, error=np.where(vague, 1e-2, 1e-9)))
    again = SecondLayer.begun(second.probe, second.log, outside, second.layer, nothing, found)
    np.testing.assert_array_equal(again.found.rows, straight.rows[~vague])
    for point, row in zip(again.seen, straight.rows[vague], strict=True):
        along = point.normal @ second.frame.V
        np.testing.assert_allclose(along / np.linalg.norm(along), row, atol=1e-9)


def test_a_fit_is_made_again_only_of_other_neurons_or_more_answers() -> None:
    second, _ = _begun(0, list(range(SECOND - 2)), [])
    rng = np.random.default_rng(2)
    second.fresh(rng.standard_normal((200, N)))
    fit = second.fit(second.fresh)
    assert fit.of(second)
    assert not fit.of(replace(second, found=second.found.keep(np.arange(SECOND - 2) > 0)))
    second.fresh(rng.standard_normal((5, N)))
    assert not fit.of(second)
