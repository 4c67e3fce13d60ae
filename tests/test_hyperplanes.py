"""Hyperplanes met on lines, the derivatives beside them, and the layer they make up, in both precisions."""

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_elsewhere, relu_gradients, single
from unveil.blackbox.breakpoints import line_search
from unveil.blackbox.line import Line
from unveil.blackbox.rounding import rounding
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.far_places import anywhere_on, confirm, on_plane
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.layer import finished, layer_steps, missing
from unveil.identification.piecewise_linear.layer_membership import straight_ones
from unveil.identification.piecewise_linear.normals import grouped, normals
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.sharpening import COSTLY_INPUTS, SHORTEST, met_nearer, sharpened

PRECISIONS = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def asking(  # type: ignore[no-untyped-def]
    sizes: tuple[int, ...], dtype: type, rng: np.random.Generator, off: float = 0.0
):
    """A random network on another processor, and what asks it. `off`: how far below 0 the second layer's preactivations
    mostly are, in standard deviations."""
    weights = random_weights(sizes, rng, bias=0.5)
    if off:
        (w, b), (v, c) = weights[:2]
        c -= off * np.std(np.maximum(rng.standard_normal((1000, sizes[0])) @ w.T + b, 0) @ v.T, axis=0)
    weights = single(weights) if dtype is np.float32 else weights
    net = relu_elsewhere(weights, rng, dtype)
    ask = lambda x: net(x.astype(dtype)).astype(float)  # noqa: E731
    noise = rounding(ask, rng.standard_normal((4, sizes[0])), float(np.finfo(dtype).eps), rng)
    return weights, Probe(ask, noise, rng)


def true_planes(weights, frame: Frame, at: np.ndarray, error: float, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """The first layer's hyperplanes, met at these places moved onto them, with normals turned by so much."""
    w, b = weights[0]
    size = np.linalg.norm(w, axis=1)
    rows, bias = w / size[:, None], b / size
    met = at - (np.einsum("kd,kd->k", rows, at) + bias)[:, None] * rows
    rows = rows + error * rng.standard_normal(rows.shape) / np.sqrt(rows.shape[1])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    jump = (weights[1][0] * size).T
    return Hyperplanes.through(frame, met, rows, jump, np.full(len(rows), max(error, 1e-13)))


def test_large_batches_are_asked_in_small_pieces_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    n, count, most = 90, 5, 1000
    monkeypatch.setattr("unveil.identification.piecewise_linear.derivatives.PIECE", most)
    weights, probe = asking((n, 10, 6, 3), np.float64, rng)
    kept, pieces = [], []

    def counted(seen: list[int], x: np.ndarray) -> np.ndarray:
        seen.append(x.size)
        return np.asarray(probe.ask(x))

    split = replace(probe, ask=lambda x: counted(kept, x), lifted=(lambda x: counted(pieces, x), None))
    x = rng.standard_normal((count, n))
    slope, error = derivatives(split, Frame.of_input(n, None), x, np.full(count, 0.1))
    # One question for each coordinate of each point; what else is asked are single steps.
    assert sum(pieces) == count * n * n
    assert max(pieces) <= most + count * n  # whole coordinates
    assert max(kept) <= 2 * count * n
    told = np.isfinite(error)
    assert told.any()
    off = np.sqrt(((slope - relu_gradients(weights, x)) ** 2).mean(axis=(1, 2)))
    assert (off[told] <= 10 * error[told] + 1e-9).all()


@PRECISIONS
@pytest.mark.parametrize("n", [12, 90])
def test_derivatives_are_those_of_the_linear_region_within_the_error_told(
    n: int, dtype: type, rng: np.random.Generator
) -> None:
    weights, probe = asking((n, 10, 6, 3), dtype, rng)
    x = rng.standard_normal((20, n)).astype(dtype).astype(float)
    slope, error = derivatives(probe, Frame.of_input(n, None), x, np.full(20, 2.0))
    told = np.isfinite(error)
    off = np.sqrt(((slope - relu_gradients(weights, x)) ** 2).mean(axis=(1, 2)))
    assert told.mean() >= 0.8
    assert_rate(list(off[told] <= 10 * error[told] + 1e-9), 0.95, "within ten times the error")


@PRECISIONS
def test_a_line_is_explained_by_the_hyperplanes_that_cross_it_once_each(dtype: type, rng: np.random.Generator) -> None:
    weights, probe = asking((15, 8, 2), dtype, rng)
    frame = Frame.of_input(15, None)
    error = 1e-10 if dtype is np.float64 else 1e-4
    planes = true_planes(weights, frame, rng.standard_normal((8, 15)), error, rng)
    base, direction, low, high = frame.lines(1, 10.0, rng)
    (line,) = line_search(probe.ask, base, direction, low, high, probe.noise, rng)
    crossing = planes.crossing(frame, line)
    w, b = weights[0]
    truth = np.abs(line.points @ w.T + b).argmin(axis=1)
    assert (crossing == truth).mean() >= 0.8
    assert (crossing[crossing >= 0] == truth[crossing >= 0]).all()
    # A hyperplane in another position explains none of them.
    moved = Hyperplanes(planes.rows, planes.bias + 0.3, planes.jump, planes.error, planes.at)
    assert (moved.crossing(frame, line) >= 0).sum() <= 1


@PRECISIONS
def test_normals_on_one_line_are_the_networks(dtype: type, rng: np.random.Generator) -> None:
    true: list[bool] = []
    for _ in range(3):
        weights, probe = asking((15, 8, 3), dtype, rng)
        frame = Frame.of_input(15, None)
        base, direction, low, high = frame.lines(1, 10.0, rng)
        (line,) = line_search(probe.ask, base, direction, low, high, probe.noise, rng)
        nothing = LayerFound.nothing(frame, 3)
        found, planes = normals(probe, frame, line, np.full(len(line.t), -1), nothing)
        assert len(found.at) >= 2
        assert len(nothing.at) == 0
        rows = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
        off = np.sqrt(np.maximum(2 - 2 * np.abs(planes.rows @ rows.T).max(axis=1), 0))
        true += list(off <= 10 * planes.error + 1e-7)
    assert len(true) >= 10
    assert_rate(true, 0.9, "normals within ten times their error")


def test_groups_hold_only_what_the_outputs_tell_apart(rng: np.random.Generator) -> None:
    _, probe = asking((15, 8, 3), np.float64, rng)
    frame = Frame.of_input(15, None)
    base, direction, low, high = frame.lines(1, 10.0, rng)
    (line,) = line_search(probe.ask, base, direction, low, high, probe.noise, rng)
    wanted = np.ones(len(line.t), dtype=bool)
    wanted[1] = False
    groups = grouped(line, wanted, np.zeros(len(line.t), dtype=bool), 0.01)
    assert sorted(int(p) for each in groups for p in each.which) == np.flatnonzero(wanted).tolist()
    for each in groups:
        assert len(each.which) <= 3
        # Nothing but the group lies between its two pieces.
        assert list(range(each.before, each.after)) == each.which.tolist()


def test_a_derivative_in_a_short_piece_is_saved_where_one_more_group_avoids_it() -> None:
    t, jump = np.array([1.0, 2.0, 2.001, 3.0]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    none, pieces = np.zeros((4, 2)), np.zeros((5, 2))
    line = Line(t, jump, pieces, none, np.zeros(4), 0.0, 4.0, np.zeros((0, 2)), np.zeros(3), np.ones(3), pieces, pieces)
    groups = grouped(line, np.ones(4, dtype=bool), np.zeros(4, dtype=bool), 0.01)
    # Two pairs would meet in the piece that is a thousandth of the others.
    assert [each.which.tolist() for each in groups] == [[0], [1, 2], [3]]
    groups = grouped(replace(line, t=np.array([1.0, 2.0, 2.9, 3.5])), np.ones(4, dtype=bool), np.zeros(4, bool), 0.01)
    assert [each.which.tolist() for each in groups] == [[0, 1], [2, 3]]


@PRECISIONS
def test_hyperplanes_of_the_first_layer_are_straight_and_those_of_the_second_are_not(
    dtype: type, rng: np.random.Generator
) -> None:
    straight: list[bool] = []
    bent: list[bool] = []
    for _ in range(3):
        weights, probe = asking((20, 10, 8, 3), dtype, rng)
        frame = Frame.of_input(20, None)
        found = finished(layer_steps(probe, frame, far=20.0, most_lines=1))
        rows = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
        both = Hyperplanes.joined([found.straight, found.bent])
        first = np.abs(both.rows @ rows.T).max(axis=1) > 0.9999
        again, _ = straight_ones(probe, frame, found, both)
        straight += list(again[first])
        bent += list(~again[~first])
    assert_rate(straight, 0.8, "seen to be straight")
    assert_rate(bent, 0.95, "none of a deeper layer")


def test_a_vague_hyperplane_is_not_straight_because_others_are_everywhere(rng: np.random.Generator) -> None:
    """Windows as wide as its error meet one of 100 neurons nearly everywhere, whether it is there or not."""
    _, probe = asking((4, 100, 3), np.float64, rng)
    frame = Frame.of_input(4, None)
    found = finished(layer_steps(probe, frame, far=20.0, most_lines=3))
    rows = rng.standard_normal((60, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    planes = Hyperplanes.through(frame, rng.standard_normal((60, 4)), rows, np.ones((60, 3)), np.full(60, 1e-3))
    straight, _ = straight_ones(probe, frame, found, planes)
    assert_rate((~straight).tolist(), 0.95, "not straight")


@pytest.mark.parametrize("off", [0.0, 4.0])
def test_among_many_neurons_vague_hyperplanes_are_told_where_they_were_met(
    off: float, rng: np.random.Generator
) -> None:
    """Windows for what is not known of a normal grow with the way; those far out meet one of 500 neurons anyway. Where
    only a few behind are active answers are rounded otherwise at each place, and hardly any first neuron gets through
    to most of them."""
    straight: list[bool] = []
    bent: list[bool] = []
    again: list[bool] = []
    for _ in range(2):
        weights, probe = asking((60, 250, 250, 8), np.float32, rng, off)
        frame, (w, b), (v, c) = Frame.of_input(60, None), *weights[:2]
        at = rng.standard_normal((160, 60))
        first, plane = np.arange(160) < 100, []
        for i, x in enumerate(at):
            for _ in range(20):  # to where this neuron switches, over the linear regions on the way
                z = w @ x + b
                active = (v * (z > 0)) @ w, v @ np.maximum(z, 0) + c
                row, value = (w[i], z[i]) if i < 100 else (active[0][i - 100], active[1][i - 100])
                x -= value * row / (row @ row)
            plane.append(row / np.linalg.norm(row))
        rows = np.array(plane) + 1e-2 / np.sqrt(60) * rng.standard_normal((160, 60))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        sides = [relu_gradients(weights, at + side * rows) for side in (1e-6, -1e-6)]
        jump = np.einsum("kmd,kd->km", sides[0] - sides[1], rows)
        planes = Hyperplanes.through(frame, at, rows, jump, np.full(160, 1e-2))
        seen = np.linalg.norm(jump / probe.sigma(at), axis=1) > 1e3
        told, _ = straight_ones(probe, frame, LayerFound.nothing(frame, 8), planes)
        met = confirm(probe, frame, planes, planes).there
        straight += told[first & seen].tolist()
        bent += (~told[~first]).tolist() + (~met[~first]).tolist()
        again += met[first & seen].tolist()
    assert_rate(straight, 0.85, "seen to be straight")
    assert_rate(again, 0.85, "met again")
    assert_rate(bent, 0.95, "none of a deeper layer")


def test_places_on_hyperplanes_are_on_them_and_legal(rng: np.random.Generator) -> None:
    frame = Frame.of_input(6, (0.0, 1.0))
    rows = rng.standard_normal((5, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    planes = Hyperplanes.through(frame, np.full((5, 6), 0.5), rows, np.ones((5, 1)), np.full(5, 1e-9))
    for x in (on_plane(frame, planes, rng), anywhere_on(frame, planes, rng)):
        assert np.abs(np.einsum("kd,kd->k", rows, x) + planes.bias).max() < 1e-9
        assert (x >= -1e-9).all()
        assert (x <= 1 + 1e-9).all()
        assert np.linalg.norm(x - planes.at, axis=1).min() > 1e-3


def test_beside_a_vague_jump_normals_are_as_exact_as_stated(rng: np.random.Generator) -> None:
    # Two hyperplanes cross the line close to each other: their jumps are vague, and all of a group share in that.
    true: list[bool] = []
    for _ in range(10):
        weights = random_weights((40, 12, 6), rng, bias=0.5)
        frame, (base, direction) = Frame.of_input(40, None), rng.standard_normal((2, 1, 40))
        w, b = weights[0]
        place = -(w @ base[0] + b) / (w @ direction[0])
        i, j = np.argsort(np.abs(place))[:2]
        b[j] = -w[j] @ (base[0] + (place[i] + 1e-6) * direction[0])
        net = relu_elsewhere(weights, rng)
        probe = Probe(net, rounding(net, rng.standard_normal((4, 40)), float(np.finfo(float).eps), rng), rng)
        (line,) = line_search(net, base, direction, -20.0, 20.0, probe.noise, rng)
        planes = normals(probe, frame, line, np.full(len(line.t), -1), LayerFound.nothing(frame, 6))[1]
        unit = np.concatenate([w, -w])
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        off = np.linalg.norm(planes.rows - unit[(planes.rows @ unit.T).argmax(axis=1)], axis=1)
        true += (off <= 6 * planes.error).tolist()
    assert_rate(true, 0.97, "as exact as stated")


def test_hyperplanes_met_far_away_are_straight_all_the_same(rng: np.random.Generator) -> None:
    weights, probe = asking((20, 15, 3), np.float64, rng)
    frame = Frame.of_input(20, None)
    planes = true_planes(weights, frame, 3e3 * rng.standard_normal((15, 20)), 1e-9, rng)
    straight, _ = straight_ones(probe, frame, LayerFound.nothing(frame, 3), planes)
    assert_rate(straight.tolist(), 0.85, "straight")


@PRECISIONS
def test_a_neuron_left_out_is_missed_and_a_whole_layer_is_not(dtype: type, rng: np.random.Generator) -> None:
    noticed: list[bool] = []
    quiet: list[bool] = []
    for _ in range(4):
        weights, probe = asking((15, 8, 2), dtype, rng)
        frame = Frame.of_input(15, None)
        error = 1e-12 if dtype is np.float64 else 1e-5
        found = LayerFound.nothing(frame, 2).with_straight(
            true_planes(weights, frame, rng.standard_normal((8, 15)), error, rng)
        )
        quiet.append(not missing(probe, frame, found))
        noticed.append(missing(probe, frame, found.keep(np.arange(8) > 0)))
    assert_rate(quiet, 0.75, "nothing missing")
    assert_rate(noticed, 0.9, "missing")


@PRECISIONS
def test_a_layer_grows_line_by_line_and_measured_again_is_sharper(dtype: type, rng: np.random.Generator) -> None:
    sharper: list[bool] = []
    for _ in range(3):
        weights, probe = asking((20, 8, 1), dtype, rng)
        frame = Frame.of_input(20, None)
        steps = list(layer_steps(probe, frame, far=20.0))
        sizes = [len(each) for each in steps]
        assert sizes == sorted(sizes)
        assert sizes[0] == 0
        assert [each.lines for each in steps] == list(range(len(steps)))
        found = steps[-1]
        again = sharpened(probe, frame, found, np.arange(len(found)))
        rows = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
        off = [1 - np.abs(each.rows @ rows.T).max(axis=1) for each in (found, again)]
        # Errors of normals grow to ones of positions from where hyperplanes were met.
        near = [e.straight.error * (1 + np.linalg.norm(e.straight.at, axis=1) / np.sqrt(20)) for e in (found, again)]
        assert (near[1] <= near[0]).all()
        sharper.append(bool(np.median(off[1]) <= np.median(off[0]) + 1e-15))
    assert_rate(sharper, 0.6, "sharper")


def test_a_parallel_hyperplane_of_a_deeper_neuron_moves_no_row_that_is_measured_again() -> None:
    """f = relu(z) + 2 relu(relu(z) - 0.05): the pieces on both sides of the two meet between them."""
    rng = np.random.default_rng(0)
    row = rng.standard_normal((1, 6))
    row /= np.linalg.norm(row)

    def answer(x: np.ndarray) -> np.ndarray:
        z = np.maximum(x @ row.T, 0)
        return np.asarray(z + 2 * np.maximum(z - 0.05, 0))

    frame = Frame.of_input(6, None)
    probe = Probe(answer, rounding(answer, rng.standard_normal((4, 6)), 2e-16, rng), rng)
    at = rng.standard_normal((1, 6))
    at -= (at @ row.T) * row
    vague = Hyperplanes.through(frame, at, row, np.ones((1, 1)), np.full(1, 1e-6))
    again = sharpened(probe, frame, LayerFound.nothing(frame, 1).with_straight(vague), [0])
    assert abs(again.straight.bias[0]) < 1e-6


@pytest.mark.parametrize("beside", [0.001, 0.2])
def test_a_hyperplane_met_far_away_is_met_again_where_no_deeper_neuron_switches_beside_it(beside: float) -> None:
    """f = relu(z) + 2 relu(relu(z) - beside): the outer pieces meet at 2/3 beside, not at zero."""
    rng, n = np.random.default_rng(0), COSTLY_INPUTS + 50
    row, *others = np.linalg.qr(rng.standard_normal((n, 4)))[0].T[:, None]

    def answer(x: np.ndarray) -> np.ndarray:
        z = np.maximum(x @ row.T, 0)
        return np.asarray(z + 2 * np.maximum(z - beside, 0))

    frame = Frame.of_input(n, None)
    probe = Probe(answer, rounding(answer, rng.standard_normal((4, n)), 2e-16, rng), rng)
    at = 1e4 * rng.standard_normal((1, n))
    at -= (at @ row.T) * row
    far = Hyperplanes.through(frame, at, row, np.ones((1, 1)), np.full(1, 1e-9))
    far = replace(far, bias=far.bias + 1e-6)
    near = Hyperplanes.through(frame, np.zeros((3, n)), np.concatenate(others), np.ones((3, 1)), np.full(3, 1e-9))
    again = met_nearer(probe, frame, LayerFound.nothing(frame, 1).with_straight(far).with_straight(near))
    assert abs(again.straight.bias[0]) < (2e-6 if beside < SHORTEST else 1e-9)


def test_a_normal_read_beside_a_known_hyperplane_that_the_line_grazes_tells_its_error(rng: np.random.Generator) -> None:
    """What the known one adds is known to its error over how fast the line crosses it."""
    honest, d = [], 40
    for _ in range(10):
        direction, seen, grazed = np.linalg.qr(rng.standard_normal((d, 3)))[0].T
        known = grazed + 0.002 * direction
        known, new = known / np.linalg.norm(known), (seen + direction) / np.sqrt(2)

        def answer(x: np.ndarray, known: np.ndarray = known, new: np.ndarray = new) -> np.ndarray:
            return np.maximum(x @ known, 0)[:, None] + np.maximum(x @ new - 0.01, 0)[:, None]

        frame = Frame.of_input(d, None)
        probe = Probe(answer, rounding(answer, rng.standard_normal((4, d)), 2e-16, rng), rng)
        (line,) = line_search(probe.ask, np.zeros((1, d)), direction[None], -1.0, 1.0, probe.noise, rng)
        assert len(line.t) == 2
        turned = known + 1e-6 * rng.standard_normal(d) / np.sqrt(d)
        one = Hyperplanes(turned[None], np.zeros(1), np.ones((1, 1)), np.full(1, 1e-6), np.zeros((1, d)))
        found = LayerFound.nothing(frame, 1).with_straight(one)
        planes = normals(probe, frame, line, np.array([0, -1]), found)[1]
        off = np.linalg.norm(planes.rows - new * np.sign(planes.rows @ new)[:, None], axis=1)
        honest += (off <= 4 * planes.error).tolist()
    assert honest
    assert_rate(honest, 0.8, "errors told")


def test_a_neuron_that_hardly_any_input_of_a_box_switches_is_crossed_by_lines_between_its_corners() -> None:
    """Truth in hand: all other rows of the layer, and derivatives at places where it is active."""
    frame, met, seldom = Frame.of_input(40, (0.0, 1.0)), [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = random_weights((40, 8, 3), rng, bias=0.3)
        w, b = weights[0]
        b[:] = -w.sum(axis=1) / 2
        b[0] += 0.6 * np.abs(w[0]).sum() / 2  # active at nearly all
        ask = Asked(uv.as_oracle(relu_elsewhere(weights, rng), 40, within=(0, 1)))
        probe = Probe(ask, rounding(ask, frame.sample(4, rng), 1e-16, rng), rng)
        planes = true_planes(weights, frame, frame.sample(8, rng), 0.0, rng)
        x = rng.uniform(0.3, 0.7, (3, 40))
        told = derivatives(probe, frame, x, np.full(3, 0.1))
        found = LayerFound.nothing(frame, 3).with_straight(planes[np.arange(1, 8)]).with_derivatives(x, *told)
        assert missing(probe, frame, found)
        line = finished(layer_steps(probe, frame, most_lines=2, found=found, sure=True)).searched[-1]
        ends = line.inputs(np.array([line.low, line.high])) @ w[0] + b[0]
        met.append(ends[0] * ends[1] < 0)
        seldom.append((frame.sample(1000, rng) @ w[0] + b[0] > 0).mean() > 0.9)
    assert_rate(seldom, 0.9, "switched by one input in ten at most")
    assert_rate(met, 0.9, "crossed")
