"""ReLU networks that answer in float32: rows, sides and function against weights the method never sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_elsewhere, relu_net, single
from unveil.blackbox.rounding import Rounding, rounding
from unveil.identification.fitting.matrix_free import fit
from unveil.identification.fitting.output_layer import after
from unveil.identification.fitting.robust import trimmed_rms
from unveil.identification.piecewise_linear import behind_first_layer, critical_points
from unveil.identification.piecewise_linear import settling as settling_module
from unveil.identification.piecewise_linear.closing import turned
from unveil.identification.piecewise_linear.critical_points import CriticalPoints
from unveil.identification.piecewise_linear.derivatives import derivatives
from unveil.identification.piecewise_linear.error_limits import strays
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.layer import finished, layer_steps
from unveil.identification.piecewise_linear.probe import Probe
from unveil.identification.piecewise_linear.reading_state import Reading, Setup
from unveil.identification.piecewise_linear.settling import REFIT_PARAMETERS, REFIT_ROUNDS, Settling
from unveil.identification.piecewise_linear.sharpening import unmix
from unveil.identification.validation import UNEXPLAINED


def read(sizes: tuple[int, ...], seed: int, budget: int | None = None):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    weights = single(random_weights(sizes, rng, bias=0.5))
    oracle = uv.as_oracle(relu_elsewhere(weights, rng, np.float32), sizes[0], budget=budget)
    return CriticalPoints()(oracle, rng=rng), weights, oracle


def row_errors(rows: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Largest entry error of every true row, both of unit norm, orientation included."""
    true = true / np.linalg.norm(true, axis=1, keepdims=True)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.array([np.abs(rows - row).max(axis=1).min() for row in true])


@pytest.mark.parametrize(
    ("sizes", "per_parameter"), [((20, 10, 1), 24), ((100, 20, 1), 9), ((100, 20, 10), 3.5), ((200, 24, 3), 3.5)]
)
def test_one_hidden_layer_in_float32(sizes: tuple[int, ...], per_parameter: float, seed: int) -> None:
    whole: list[bool] = []
    asked: list[float] = []
    for each in range(4):
        found, weights, oracle = read(sizes, seed + each)
        assert found.queries <= oracle.ledger.asked
        whole.append(found.outcome is uv.Outcome.complete)
        if found.outcome is not uv.Outcome.complete:
            continue
        assert found.network is not None
        asked.append(found.queries / sum(w.size + b.size for w, b in weights))
        x = np.random.default_rng(99).standard_normal((5000, sizes[0]))
        # Complete is right, always.
        assert found.network.layers[0].weights.shape == (sizes[1], sizes[0]), (sizes, each)
        assert row_errors(found.network.layers[0].weights, weights[0][0]).max() < 1e-3, (sizes, each)
        assert np.abs(found.network(x) - relu_net(weights)(x)).max() < 1e-3, (sizes, each)
    assert_rate(whole, 0.8, sizes)
    # One of them may need a line more on one processor than on another.
    assert np.median(asked) <= per_parameter, sizes


@pytest.mark.slow
def test_784_inputs_in_float32(seed: int) -> None:
    found, weights, _ = read((784, 32, 10), seed)
    assert found.network is not None
    assert row_errors(found.network.layers[0].weights, weights[0][0]).max() < 1e-3
    x = np.random.default_rng(99).standard_normal((5000, 784))
    assert np.mean(found.network(x).argmax(axis=1) == relu_net(weights)(x).argmax(axis=1)) >= 0.999


@pytest.mark.slow
def test_more_neurons_than_inputs_as_a_function(seed: int) -> None:
    whole: list[bool] = []
    for each in range(5):
        found, weights, _ = read((10, 15, 3), seed + each, budget=12_000)
        whole.append(found.outcome is uv.Outcome.complete)
        if found.outcome is uv.Outcome.complete:
            assert found.network is not None
            x = np.random.default_rng(99).standard_normal((5000, 10))
            assert np.quantile(np.abs(found.network(x) - relu_net(weights)(x)).max(axis=1), 0.99) < 1e-3
    assert_rate(whole, 0.6)


def coarse(sizes: tuple[int, ...], rng: np.random.Generator):  # type: ignore[no-untyped-def]
    """What is read of a network's first layer, and its true rows and shifts with rows of unit norm."""
    weights = single(random_weights(sizes, rng, bias=0.5))
    oracle = uv.as_oracle(relu_elsewhere(weights, rng, np.float32), sizes[0])
    ask = lambda x: oracle(oracle.nearest(x))  # noqa: E731
    noise = rounding(ask, rng.standard_normal((4, sizes[0])), oracle.resolution, rng)
    size = np.linalg.norm(weights[0][0], axis=1)
    found = finished(layer_steps(Probe(ask, noise, rng), Frame.of_input(sizes[0], None), far=20.0))
    return found, weights[0][0] / size[:, None], weights[0][1] / size


@pytest.mark.parametrize("sizes", [(60, 20, 12, 8), (5, 12, 12, 12, 5)])
def test_first_layer_of_a_deeper_network_and_nobody_else(sizes: tuple[int, ...], rng: np.random.Generator) -> None:
    true: list[bool] = []
    seen: list[bool] = []
    for _ in range(3):
        found, rows, _ = coarse(sizes, rng)
        cos = np.abs(found.rows @ rows.T)
        true += list(cos.max(axis=1) > 0.999)
        seen += list(cos.max(axis=0) > 0.999)
        assert len(found.bent) > 0
    assert_rate(true, 0.99, "none invented")
    assert_rate(seen, 0.9, "seen")


def test_planes_through_breakpoints_of_many_lines_are_exact(rng: np.random.Generator) -> None:
    exact: list[bool] = []
    for _ in range(2):
        found, rows, bias = coarse((5, 16, 16, 3), rng)
        cos = found.rows @ rows.T
        best = np.abs(cos).argmax(axis=1)
        sign = np.sign(cos[np.arange(len(best)), best])
        assert len(set(best)) == len(best)
        exact += list(
            (np.abs(found.rows * sign[:, None] - rows[best]).max(axis=1) < 1e-2)
            & (np.abs(found.bias * sign - bias[best]) < 2e-2)
        )
    assert len(exact) >= 0.8 * 32
    assert_rate(exact, 0.98)


def test_all_derivatives_together_sharpen_the_rows() -> None:
    rng = np.random.default_rng(1)
    weights = single(random_weights((120, 30, 15, 10), rng, bias=0.5))
    oracle = uv.as_oracle(relu_net(weights, np.float32), 120)
    ask = lambda x: oracle(oracle.nearest(x))  # noqa: E731
    frame = Frame.of_input(120, None)
    noise = rounding(ask, rng.standard_normal((4, 120)), oracle.resolution, rng)
    found = finished(layer_steps(Probe(ask, noise, rng), frame, far=20.0))
    layer = turned(frame, found)
    true = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
    rows, _, _ = unmix(frame, found, layer)
    best = (layer[0] @ true.T).argmax(axis=1)
    before, after = (np.linalg.norm(r - true[best], axis=1) for r in (layer[0], rows))
    assert after.max() < 0.05  # sides included
    assert np.sqrt((after**2).mean()) < 0.7 * np.sqrt((before**2).mean())


def test_few_derivatives_do_not_make_rows_look_sharp() -> None:
    # As many numbers in their mixtures as they have themselves: they leave nothing, however wrong the rows are.
    rng = np.random.default_rng(2)
    found, true, _ = coarse((30, 20, 10, 1), rng)
    few = replace(found, at=found.at[:24], slope=found.slope[:24], blur=found.blur[:24])
    layer = turned(Frame.of_input(30, None), few)
    rows, _, error = unmix(Frame.of_input(30, None), few, layer)
    off = np.sqrt(np.maximum(0, 2 - 2 * np.abs(rows @ true.T).max(axis=1)))
    assert len(rows) >= 18
    assert (off <= 10 * error + 1e-6).all()


def test_long_steps_stay_in_their_piece_or_say_so() -> None:
    rng = np.random.default_rng(3)
    weights = single(random_weights((60, 20, 4), rng, bias=0.5))
    net = relu_net(weights, np.float32)
    ask = lambda x: net(x.astype(np.float32)).astype(float)  # noqa: E731
    noise = rounding(ask, rng.standard_normal((4, 60)), 1.2e-7, rng)
    x = rng.standard_normal((10, 60)).astype(np.float32).astype(float)
    slope, error = derivatives(Probe(ask, noise, rng), Frame.of_input(60, None), x, np.full(10, 5.0))
    on = x @ weights[0][0].T + weights[0][1] > 0
    true = np.einsum("mk,pk,kd->pmd", weights[1][0], on, weights[0][0])
    off = np.sqrt(((slope - true) ** 2).mean(axis=(1, 2)))
    assert np.isfinite(error).all()
    assert (off <= 10 * error + 1e-7).all()


@pytest.mark.parametrize("times", [0.2, 1.0, 1.5])
def test_the_error_of_a_derivative_is_that_of_the_rounding_met_there(times: float) -> None:
    """However much more or less it is than where it had been measured."""
    ratio: list[float] = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        row, level = rng.standard_normal((1, 50)), 1e-6
        ask = lambda x: x @ row.T + times * level * rng.standard_normal((len(x), 1))  # noqa: B023, E731
        probe = Probe(ask, Rounding(np.full(1, level), 1e3, level, False), rng)
        slope, error = derivatives(probe, Frame.of_input(50, None), rng.standard_normal((6, 50)), np.full(6, 0.1))
        off = np.sqrt(((slope - row) ** 2).mean(axis=(1, 2)))
        ratio += (off / error)[np.isfinite(error)].tolist()
    assert_rate([0.5 < each < 1.5 for each in ratio], 0.9, "as exact as stated")


@pytest.mark.parametrize("sizes", [(30, 12, 3), (30, 12, 8, 5)])
def test_the_fit_is_exact_from_a_start_that_is_nearly_right(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weights = random_weights(sizes, rng, bias=0.5)
    start = [(w + 1e-3 * rng.standard_normal(w.shape), b + 1e-3 * rng.standard_normal(b.shape)) for w, b in weights]
    x = rng.standard_normal((2000, 30))
    y = relu_net(weights)(x)
    got = fit(uv.Network.from_weights(start), x, y).network
    # A few points may stay on the wrong side of a hyperplane that passes close by.
    assert trimmed_rms(got, x, y) < 1e-9
    fresh = rng.standard_normal((1000, 30))
    assert np.abs(got(fresh) - relu_net(weights)(fresh)).max() < 1e-4


def test_rows_read_before_the_budget_ended_are_handed_over() -> None:
    found, weights, _ = read((120, 30, 15, 10), 1, budget=13_500)
    assert found.outcome is uv.Outcome.budget_ended
    rows, bias = found.stats["rows_read"]
    true = weights[0][0] / np.linalg.norm(weights[0][0], axis=1, keepdims=True)
    assert len(rows) == len(bias) >= 10
    assert (np.abs(rows @ true.T).max(axis=1) > 0.999).all()
    assert any("neurons of the first layer" in why for why in found.why)


def test_the_page_tells_rows_read_from_what_was_trained() -> None:
    from unveil.audit.sections.extraction import EXTRACTION
    from unveil.audit.stage import Audit

    rng = np.random.default_rng(0)
    weights = random_weights((20, 6, 5, 3), rng, bias=0.5)
    audit = Audit(uv.as_oracle(relu_net(weights), 20))
    trained = uv.Network.from_weights([weights[0], *random_weights((6, 9, 3), rng)])
    stats = {"layers_read": weights[:2], "rows_read": weights[0], "layers": []}
    audit.findings["identification"] = uv.Identification(
        trained, uv.Outcome.check_failed, 1000, 0.4, "critical points", ("why",), stats
    )
    audit.findings["weights"] = uv.Network.from_weights(weights)
    told = EXTRACTION.run(audit)
    assert told is not None
    assert told.figures["neurons"] == [6, 5]
    assert told.figures["share_of_first_layer"] == 1
    assert 0 <= told.figures["same_label"] < 1
    assert "6 in layer 0 and 5 in layer 1" in told.verdict


@pytest.mark.parametrize(
    "rounded",
    [
        lambda y: y.astype(np.float32),
        lambda y: np.round(y, 4),
        lambda y: np.round(np.exp(y) / np.exp(y).sum(axis=1, keepdims=True), 6),
    ],
    ids=["float32", "decimals", "softmax"],
)
def test_an_affine_map_with_few_digits_is_read_as_one(rounded: Callable[[np.ndarray], np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    weights = random_weights((8, 3), rng, bias=0.5)
    oracle = uv.as_oracle(lambda x: rounded(relu_net(weights)(x)), shape=8, budget=20_000)
    found = uv.identify(oracle, rng=rng)
    assert found.outcome is uv.Outcome.complete
    assert found.network is not None
    assert len(found.network.layers) == 1
    x = rng.standard_normal((1000, 8))
    truth = relu_net(weights)(x)
    mine = found.network(x)
    if oracle.reference is not None:
        truth = np.delete(truth - truth[:, [oracle.reference]], oracle.reference, axis=1)
    assert np.abs(mine - truth).max() < 1e-3


@pytest.mark.parametrize("value", [3.7, 1 / 3, np.float32(0.3)])
def test_of_a_constant_there_is_nothing_to_find(value: float) -> None:
    oracle = uv.as_oracle(lambda x: np.full((len(x), 2), value), shape=8, budget=20_000)
    found = uv.identify(oracle, rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.nothing_to_find


def test_a_layer_of_one_neuron_behind_one_too_wide_to_follow_from_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind_first_layer, "FOLLOWED", 4)
    told = []
    for seed in range(8):
        rng = np.random.default_rng([5, seed])
        weights = single(random_weights((12, 8, 1, 1), rng, bias=0.5))
        found = uv.CriticalPoints()(uv.as_oracle(relu_net(weights, np.float32), shape=12, budget=100_000), rng=rng)
        assert not any("broke down" in text for text in found.why)
        told.append(found.outcome is uv.Outcome.complete)
    assert sum(told) >= 3


def test_weights_that_few_inputs_tell_are_settled_by_more_of_these() -> None:
    better = []
    for seed in range(8):
        rng = np.random.default_rng([6, seed])
        weights = single(random_weights((12, 8, 6, 1), rng, bias=0.5))
        rows, bias = weights[1]
        x = rng.standard_normal((4000, 12))
        bias[0] = -np.quantile(after(weights[:1], x) @ rows[0], 0.99)
        oracle = uv.as_oracle(relu_net(weights, np.float32), shape=12)
        method = uv.CriticalPoints()
        attempt = critical_points._Attempt(method, oracle, rng)
        noise = rounding(attempt.ask, rng.standard_normal((16, 12)), oracle.resolution, rng)
        frame = Frame.of_input(12, None)
        setup = Setup(Probe(attempt.ask, noise, rng), attempt.ask, 20.0, 24, 8)
        attempt.reading = Reading.begun(setup, frame)
        known = x[:600]
        attempt.reading.fresh.keep(known, oracle(known))
        off = rows.copy()
        off[0] += 0.003 * rng.standard_normal(8)
        network = uv.Network.from_weights([weights[0], (off, bias), weights[2]])
        assert strays(uv.Network.from_weights(weights), attempt.reading.fresh, noise)[1] < UNEXPLAINED
        there, most = strays(network, attempt.reading.fresh, noise)
        assert (len(there) > 0) == (most > UNEXPLAINED)
        active = np.maximum(*(after(weights[:1], there) @ each[0] + bias[0] for each in (rows, off)))
        assert (active > 0).all()
        settling = attempt._settling(noise)
        seen = settling.checked(network)
        _, then = settling.settled(network)
        print(seed, seen.residual, then.residual, len(seen.wrong))
        better.append(then.residual < 0.1 * seen.residual)
    assert sum(better) >= 6


def test_a_network_without_any_error_is_not_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is off by cannot become a smaller share of nothing."""
    rng = np.random.default_rng(5)
    weights = single(random_weights((6, 4, 1), rng, bias=0.5))
    network = uv.Network.from_weights(weights)
    oracle = uv.as_oracle(relu_net(weights, np.float32), 6, budget=20_000)
    attempt = critical_points._Attempt(CriticalPoints(), oracle, rng)
    noise = rounding(attempt.ask, rng.standard_normal((16, 6)), oracle.resolution, rng)
    settling = attempt._settling(noise)
    seen = replace(settling.checked(network), usual=0.0, further=0.0, roundings=99.0, wrong=np.ones((1, 6)))
    monkeypatch.setattr(Settling, "checked", lambda *_: seen)
    monkeypatch.setattr(Settling, "_around", lambda *_: uv.Network(network.layers))
    assert settling.settled(network)[0] is network


def test_a_network_that_passes_its_check_stays_though_one_that_does_not_is_off_by_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(6)
    weights = single(random_weights((6, 4, 1), rng, bias=0.5))
    network = uv.Network.from_weights(weights)
    oracle = uv.as_oracle(relu_net(weights, np.float32), 6, budget=20_000)
    attempt = critical_points._Attempt(CriticalPoints(), oracle, rng)
    settling = attempt._settling(rounding(attempt.ask, rng.standard_normal((16, 6)), oracle.resolution, rng))
    seen, other = settling.checked(network), uv.Network(network.layers)
    fails = replace(seen, usual=1e-7, further=1e-7, tail=1.0, roundings=UNEXPLAINED + 0.2, wrong=np.ones((1, 6)))
    passes = replace(fails, usual=2e-7, further=2e-7, roundings=UNEXPLAINED - 0.2, wrong=np.empty((0, 6)))
    monkeypatch.setattr(
        Settling, "_around", lambda _, trial, __: other if trial is network else uv.Network(network.layers)
    )
    for first, *then, best in ((fails, passes, other), (passes, network), (fails, *REFIT_ROUNDS * [fails], network)):
        checks = iter([first, *then])
        monkeypatch.setattr(Settling, "checked", lambda *_, checks=checks: next(checks))
        assert settling.settled(network)[0] is best
        assert not list(checks)
    # A fit that gains nothing is made again, and so is one of what the next check shows; not of many parameters.
    worse = replace(fails, usual=1e-6, roundings=UNEXPLAINED + 9)
    for most, best in ((REFIT_PARAMETERS, passes), (0, fails)):
        monkeypatch.setattr(settling_module, "REFIT_PARAMETERS", most)
        checks = iter([fails, worse, passes])
        monkeypatch.setattr(Settling, "checked", lambda *_, checks=checks: next(checks))
        assert settling.settled(network)[1] is best
