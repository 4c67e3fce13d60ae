"""A network found is held against fresh points that show what usual ones hide, and no method ends in a traceback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_net
from unveil.blackbox.rounding import rounding, rows_for
from unveil.identification.check_points import (
    RAREST,
    SUPPOSED,
    check_points,
    covering,
    crossings,
    mixtures,
    supposed,
    switching,
    unusual,
    unusual_everywhere,
)
from unveil.identification.fitting.output_layer import Unsigned
from unveil.identification.method import Identification, Method, residual
from unveil.identification.piecewise_linear.derivative_sums import HELD, Sums
from unveil.identification.piecewise_linear.derivatives import Station
from unveil.identification.piecewise_linear.frame import Frame
from unveil.identification.piecewise_linear.fresh_answers import on_rare_sides
from unveil.identification.piecewise_linear.hyperplanes import Hyperplanes, LayerFound
from unveil.identification.piecewise_linear.neuron import Neuron
from unveil.identification.piecewise_linear.sharpening import unmix
from unveil.identification.validation import UNEXPLAINED, contradicted, validate


def rare(weights: Weights, count: int) -> Weights:
    """The same with so many neurons of the first layer on for about one usual input in a thousand."""
    w, b = weights[0]
    b = b.copy()
    b[:count] = -3.1 * np.linalg.norm(w[:count], axis=1)
    return [(w, b), *weights[1:]]


def without(weights: Weights, neuron: int) -> uv.Network:
    """The network without one neuron of its first layer."""
    (w, b), (v, c), *rest = weights
    return uv.Network.from_weights(
        [(np.delete(w, neuron, axis=0), np.delete(b, neuron)), (np.delete(v, neuron, axis=1), c), *rest]
    )


@pytest.mark.parametrize("within", [None, (-1.0, 1.0)])
def test_a_rare_neuron_that_is_missing_is_seen_further_out_or_at_corners(within: tuple[float, float] | None) -> None:
    usual = caught = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        weights = rare(random_weights((8, 6, 2), rng, bias=0.5), 1)
        if within is not None:  # at a corner the largest sum of the inputs is the sum of the weights
            w, b = weights[0]
            b[0] = -0.75 * np.abs(w[0]).sum()
        oracle = uv.as_oracle(relu_net(weights), 8, within=within)
        seen = validate(without(weights, 0), oracle, 400, rng)
        usual += seen.usual > 1e-6
        caught += seen.further > 1e-3 and len(seen.wrong) > 0
        assert validate(uv.Network.from_weights(weights), oracle, 400, rng).residual < 1e-13
    assert usual <= 10  # usual points hardly ever meet it
    assert caught >= 19


def faint(rng: np.random.Generator) -> Weights:
    """Of which the first neuron has a hundredth of the others' weight in the output."""
    (w, b), (v, c) = random_weights((8, 6, 2), rng, bias=0.5)
    return [(w, b), (v * np.where(np.arange(6) == 0, 0.01, 1.0), c)]


def soft(weights: Weights, decimals: int) -> Callable[[np.ndarray], np.ndarray]:
    """Rounded probabilities of three classes, the last of which has the logit 0."""

    def answers(x: np.ndarray) -> np.ndarray:
        y = np.exp(np.column_stack([relu_net(weights)(x), np.zeros(len(x))]))
        return np.asarray(np.round(y / y.sum(axis=1, keepdims=True), decimals))

    return answers


def test_a_faint_neuron_that_is_missing_is_many_roundings_though_little_of_the_spread() -> None:
    lacking, whole = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        weights = faint(rng)
        oracle = uv.as_oracle(lambda x, weights=weights: relu_net(weights)(x).round(5), 8)
        noise = rounding(oracle, oracle.sample(16, rng), oracle.resolution, rng)
        seen = validate(without(weights, 0), oracle, 400, rng, 1e-2, noise=noise)
        assert seen.residual < 3e-2
        lacking.append(seen.roundings > UNEXPLAINED and len(seen.wrong) > 0)
        seen = validate(uv.Network.from_weights(weights), oracle, 400, rng, 1e-2, noise=noise)
        whole.append(seen.roundings <= UNEXPLAINED and not len(seen.wrong))
    assert all(whole)
    assert_rate(lacking, 0.9)


def test_no_network_that_lacks_a_faint_neuron_is_complete_behind_rounding() -> None:
    ended = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        oracle = uv.as_oracle(soft(faint(rng), 5), 8, budget=8000)
        found = uv.identify(oracle, uv.CriticalPoints(attempts=1), rng=rng)
        ended.append(found.outcome is not uv.Outcome.complete or found.network.widths[0] == 6)  # type: ignore[union-attr]
    assert all(ended)


def test_points_beside_hyperplanes_and_points_where_mixtures_are_large() -> None:
    rng = np.random.default_rng(0)
    network = uv.Network.from_weights(random_weights((8, 6, 5, 2), rng, bias=0.5))
    x = rng.standard_normal((400, 8))
    moved = switching(network, x, np.random.default_rng(1))
    first, second = (np.abs(z).min(axis=1) for z in network.preactivations(moved)[:2])
    before = [np.abs(z).min(axis=1) for z in network.preactivations(x)[:2]]
    assert np.median(first) < 2 * np.median(before[0])
    assert (moved != x).any(axis=1).mean() > 0.9
    assert np.median(second) > 0
    most = 3 * float(np.median(np.linalg.norm(x, axis=1)))
    odd = unusual(network.up_to(1), x, mixtures(30, 5, rng), np.full(30, most), rng, None)
    assert np.linalg.norm(odd, axis=1).max() <= most * (1 + 1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_points_climb_alike_by_inputs_and_by_what_the_first_layer_sees(depth: int, seed: int) -> None:
    alike: list[bool] = []
    for each in range(10):
        rng = np.random.default_rng([seed, each])
        (w, b), (v, c), *rest = random_weights((12, 5, 4, 3, 1), rng, bias=0.5)
        narrow = uv.Network.from_weights([(w, b), (v, c), *rest]).up_to(depth)
        # With neurons that send nothing on the layer is as wide as the inputs are long, and these are moved themselves.
        idle = [(np.pad(w, ((0, 8), (0, 0))), np.pad(b, (0, 8))), (np.pad(v, ((0, 0), (0, 8))), c), *rest]
        wide = uv.Network.from_weights(idle).up_to(depth)
        x, most = rng.standard_normal((500, 12)), np.linspace(2.0, 9.0, 30)
        weights = mixtures(30, narrow.layers[-1].neurons, rng)
        both = [unusual(network, x, weights, most, rng, None) for network in (wide, narrow)]
        ours, theirs = (np.einsum("ck,ck->c", narrow.features(points), weights) for points in both)
        alike += (np.abs(ours - theirs) <= 0.05 * np.abs(theirs) + 1e-9).tolist()
        for points in both:
            assert (np.linalg.norm(points, axis=1) <= most * (1 + 1e-12)).all()
    # Steps aside differ, where they lead mostly does not.
    assert_rate(alike, 0.7)


def test_a_rare_neuron_behind_a_layer_shows_itself_where_features_are_active_alone() -> None:
    plain, odd = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, last = random_weights((10, 10, 2), rng, bias=0.5)
        network = uv.Network.from_weights([first, last])
        # On for one in fifty inputs, also far out: one of ten features works for it.
        row = -np.abs(rng.standard_normal(10)) - 0.6
        row[rng.integers(10)] = 1.0
        x = rng.standard_normal((4000, 10))
        size = 10 * float(np.median(np.linalg.norm(x, axis=1)))
        plain.append((network.features(10 * x, 0) @ row > 0).mean())
        far = unusual(network.up_to(0), x, mixtures(40, 10, rng), np.full(40, size), rng, None)
        odd.append((network.features(far, 0) @ row > 0).mean())
    assert np.mean(plain) < 0.03
    assert np.mean(odd) > 2 * np.mean(plain)
    assert np.mean(np.array(odd) > 0) > 0.8


def test_every_hyperplane_gets_points_on_both_sides() -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((4, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    bias = np.array([-4.0, 4.0, 0.0, 0.3])
    x = rng.standard_normal((60, 6))
    more = on_rare_sides(rows, bias, x, 9, rng)
    z = np.concatenate([x, more]) @ rows.T + bias
    assert ((z > 0).sum(axis=0) >= 9).all()
    assert ((z < 0).sum(axis=0) >= 9).all()
    assert len(more) <= 2 * 9


def test_rare_neurons_are_read_from_float32_answers_or_told_to_be_missing() -> None:
    whole = 0
    for seed in range(4):
        rng = np.random.default_rng([5, seed])
        weights = rare(random_weights((5, 5, 2), rng, bias=0.5), 1)
        single = relu_net(weights, np.float32)
        flips = np.random.default_rng([6, seed])

        def answer(x: np.ndarray, single=single, flips=flips) -> np.ndarray:  # type: ignore[no-untyped-def]
            y = single(x)
            return np.nextafter(y, y + flips.integers(-1, 2, size=y.shape).astype(np.float32))

        found = uv.identify(uv.as_oracle(answer, 5, noisy=True, budget=10_000), rng=rng)
        if found.outcome is not uv.Outcome.complete:
            continue
        whole += 1
        assert found.network is not None
        for scale in (1.0, 3.0, 30.0):
            x = scale * np.random.default_rng(7).standard_normal((20_000, 5))
            y = relu_net(weights)(x)
            off = np.abs(found.network(x) - y).max() / np.abs(y - y.mean(axis=0)).max()
            assert off < 10 * max(found.residual, 1e-6), (seed, scale)
    # Rare neurons at so few inputs and digits mostly end unread, which is said; what is complete is right.
    assert whole >= 1


def test_derivatives_that_are_zero_say_nothing_and_end_nothing() -> None:
    rng = np.random.default_rng(0)
    frame = Frame.of_input(4, None)
    found = LayerFound.nothing(frame, 2)
    rows = np.eye(4)[:3]
    found = found.with_straight(Hyperplanes(rows, np.zeros(3), np.ones((3, 2)), np.full(3, 1e-3), np.zeros((3, 4))))
    found = found.with_derivatives(rng.standard_normal((5, 4)), np.zeros((5, 2, 4)), np.zeros(5))
    same, bias, _ = unmix(frame, found, (rows, np.zeros(3)))
    assert (same == rows).all()
    assert (bias == 0).all()
    found.slope[0, 0] = [1.0, 0.0, 0.0, 0.0]  # one derivative for three rows
    assert np.isfinite(unmix(frame, found, (rows, np.zeros(3)))[0]).all()
    stations = [Station(x, np.zeros((2, 4)), 0.0) for x in found.at]
    everything = np.ones(4, dtype=bool)
    neurons = [Neuron(row, 0.0, everything, (), np.eye(5) * 1e-8) for row in rows]
    with np.errstate(all="raise"):
        chosen = Sums.of_stations([], neurons, stations, HELD[False]).made_up(everything[:3], 0.95)
    assert chosen.telling == 0


def test_a_fit_to_no_answers_settles_no_weight() -> None:
    unsigned = Unsigned([(np.eye(3), np.zeros(3))], np.eye(3)[:2], np.zeros(2), np.array([[True, False, True]] * 2))
    unknowns = unsigned.features(np.zeros((0, 3))).shape[1]
    assert unsigned.loose(np.zeros((0, unknowns))).all()
    # One answer settles at most one unknown weight.
    assert unsigned.loose(unsigned.features(np.ones((1, 3)))).any()


@dataclass(frozen=True)
class Breaks(Method):
    """A method whose numbers do not work out."""

    error: type[Exception]

    def __call__(self, oracle: uv.Oracle, *, rng: np.random.Generator) -> Identification:
        oracle(oracle.sample(3, rng))
        raise self.error("singular matrix")


@pytest.mark.parametrize("error", [np.linalg.LinAlgError, IndexError, ZeroDivisionError])
def test_a_method_that_breaks_down_has_found_nothing_and_says_why(error: type[Exception]) -> None:
    found = uv.identify(uv.as_oracle(lambda x: x, 3), Breaks(error), rng=np.random.default_rng(0))
    assert found.outcome is uv.Outcome.check_failed
    assert found.network is None
    assert found.queries == 3 + 4  # known questions are asked again
    assert "singular matrix" in found.why[0]


@pytest.mark.parametrize("answers", [np.float64, np.float32])
def test_a_check_meets_a_neuron_that_is_on_far_out_alone(answers: type) -> None:
    """Of 20 networks, with one neuron more that no usual input switches: each passes at usual ones and is told."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        first, bias = rng.standard_normal((4, 5)), rng.standard_normal(4)
        truth = uv.Network.from_weights([(first, bias), (np.ones((1, 4)), np.zeros(1))])
        oracle = uv.as_oracle(lambda x, ask=truth: ask(x).astype(answers), 5)
        rows, edge = np.vstack([first, first[0]]), np.append(bias, -6 * np.linalg.norm(first[0]))
        wrong = uv.Network.from_weights([(rows, edge), (np.ones((1, 5)), np.zeros(1))])
        for network, right in ((truth, True), (wrong, False)):
            found = Identification(network, uv.Outcome.complete, 0, 0.0, "told")
            assert (found.check(oracle, rng=rng, points=200) < 1e-5) == right, (seed, right)
            assert residual(network, oracle, oracle.sample(200, rng)) < 1e-5


def test_what_is_wrong_on_purpose_is_raised() -> None:
    with pytest.raises(uv.SourceError):
        uv.identify(uv.as_oracle(lambda x: x, 3), Breaks(uv.SourceError), rng=np.random.default_rng(0))


def test_behind_a_softmax_log_ratios_logits_and_probabilities_are_the_same_network() -> None:
    rng = np.random.default_rng(4)
    weights = random_weights((6, 5, 4), rng, bias=0.5)
    truth = uv.Network.from_weights(weights, last="softmax")
    oracle = uv.as_oracle(truth, 6, answers="probabilities")
    assert oracle.reference is not None
    found = uv.identify(oracle, rng=rng)
    assert found.outcome is uv.Outcome.complete
    assert found.network is not None
    assert found.network.m == 3
    assert found.reference == oracle.reference
    assert any("log-ratios" in why for why in found.why)
    assert found.check(oracle, rng=rng, points=50) < 1e-8
    assert found.check(uv.as_oracle(truth, 6, answers="values"), rng=rng, points=50) < 1e-8
    x = rng.standard_normal((50, 6))
    np.testing.assert_allclose(found.classifier()(x), truth(x), atol=1e-9)
    assert uv.compare(found.network, truth, reference=found.reference).weight_error < 1e-7
    assert uv.compare(found.classifier(), truth).weight_error < 1e-7
    assert uv.compare(truth.log_ratios(1).with_reference(1), truth).weight_error < 1e-12
    with pytest.raises(uv.BadInput, match="class from 0 to 3"):
        truth.log_ratios(4)
    with pytest.raises(uv.BadInput, match="3 outputs, the oracle 2"):
        found.check(uv.as_oracle(relu_net(random_weights((6, 2), rng)), 6), rng=rng)


def test_preactivations_up_to_a_layer_are_the_first_of_all(rng: np.random.Generator) -> None:
    sizes = [(6, 4), (5, 6), (2, 5)]
    network = uv.Network.from_weights([(rng.standard_normal(size), rng.standard_normal(size[0])) for size in sizes])
    x = rng.standard_normal((7, 4))
    every = network.preactivations(x)
    for layer in (0, 1, -1):
        some = network.preactivations(x, layer)
        assert len(some) == layer % 3 + 1
        assert all((one == other).all() for one, other in zip(some, every, strict=False))


def test_log_ratios_without_digits_must_be_large_in_the_network_too() -> None:
    answers, widest = np.array([[30.0, 1.0], [-30.0, 1.0], [0.5, -30.0]]), 9.0
    assert (contradicted(answers / 3, answers, widest) == 0).all()
    assert (contradicted(answers * 20, answers, widest) == 0).all()
    wrong = contradicted(answers * 0.1, answers, widest)
    assert ((wrong > 0.5) & (wrong < 1)).all()
    assert (contradicted(-answers, answers, widest) > 1).all()


def test_a_network_is_not_checked_by_answers_that_have_no_digits(rng: np.random.Generator) -> None:
    """A classifier of inputs in raw units, asked where one class is all but certain, tells of no weight."""
    (w, b), (v, c) = random_weights((6, 8, 1), rng, bias=0.3)
    net = relu_net([(w / 1e-3, b - w @ np.full(6, 3.0)), (v, c)])

    def model(x: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-np.clip(net(x), -700, 700)))
        return np.hstack([1 - p, p])

    oracle = uv.as_oracle(model, shape=6, answers="probabilities", budget=20_000)
    linear = uv.Network.from_weights([(rng.standard_normal((1, 6)), np.zeros(1))])
    seen = validate(linear, oracle, 200, rng)
    assert seen.points < 100
    assert seen.residual > 0.5
    found = uv.identify(oracle, rng=rng)
    if found.outcome is uv.Outcome.complete:
        assert found.network is not None
        x = rng.normal(3e-3, 1e-3, (200, 6))
        assert np.abs(found.network.logits(x) - oracle(x)).max() < 1e-6


def test_answers_that_never_change_are_nothing_to_find(rng: np.random.Generator) -> None:
    """As of a kernel machine asked far from its data, or of any model where it is asked."""
    centres = rng.standard_normal((20, 4)) * 1e-2

    def kernel(x: np.ndarray) -> np.ndarray:
        apart = np.sum((x[:, None] - centres) ** 2, axis=2)
        return 140 + np.exp(-apart / 2e-4).sum(axis=1, keepdims=True)

    for model in (kernel, lambda x: np.full((len(x), 2), 3.0)):
        found = uv.identify(uv.as_oracle(model, shape=4, budget=20_000), rng=rng)
        assert found.outcome is uv.Outcome.nothing_to_find
    affine = uv.identify(uv.as_oracle(lambda x: 1e3 + 1e-3 * x[:, :1], shape=4), rng=rng)
    assert affine.outcome is uv.Outcome.complete


@pytest.mark.parametrize("seed", range(3))
def test_a_weak_neuron_that_is_missing_is_many_roundings_of_answers_rounded_before_they_arrive(seed: int) -> None:
    rng = np.random.default_rng(seed)
    (first, bias), (last, end) = random_weights((10, 6, 1), rng, bias=0.3)
    last[0] = np.sign(last[0]) * np.linspace(1, 2, 6)
    last[0, 0] *= 1e-3
    whole = uv.Network.from_weights([(first, bias), (last, end)])
    lacking = uv.Network.from_weights([(first[1:], bias[1:]), (last[:, 1:], end)])
    oracle = uv.as_oracle(lambda x: np.round(whole(x), 4), shape=10)
    assert oracle.step == pytest.approx(1e-4)
    noise = rounding(oracle, oracle.sample(rows_for(oracle.resolution), rng), oracle.resolution, rng)
    times = [validate(each, oracle, 500, rng, noise=noise).roundings for each in (whole, lacking)]
    # Half a step is 1.7 standard deviations of a rounding; the neuron adds up to a thousandth of what the others give.
    assert times[0] <= 2
    assert times[1] > UNEXPLAINED


def test_a_deep_neuron_that_no_usual_input_switches_is_met_by_the_points_of_a_check(seed: int) -> None:
    met: list[bool] = []
    for each in range(60):
        rng = np.random.default_rng([seed, each])
        weights = random_weights((12, 10, 8, 6, 2), rng, bias=0.5)
        truth, x = uv.Network.from_weights(weights), rng.standard_normal((3000, 12))
        often = (truth.features(30 * x, 2) > 0).mean(axis=0)
        rare = np.flatnonzero(~(truth.features(x, 2) > 0).any(axis=0) & (often > 1e-3) & (often < 0.02))
        for neuron in rare:
            (w, b), (v, c) = weights[2:]
            kept = np.arange(len(w)) != neuron
            lacking = uv.Network.from_weights([*weights[:2], (w[kept], b[kept]), (v[:, kept], c)])
            points = np.concatenate(check_points(lacking, uv.as_oracle(truth, 12), 300, rng))
            met.append(bool((lacking(points) != truth(points)).any()))
    assert_rate(met, 0.9)


def test_deep_neurons_that_one_far_input_in_ten_thousand_switches_are_met_by_unusual_points(seed: int) -> None:
    met: list[bool] = []
    for each in range(12):
        rng = np.random.default_rng([seed, each])
        layers = random_weights((40, 20, 10, 10, 1), rng, bias=0.5)
        network = uv.Network.from_weights(layers)
        x = rng.standard_normal((20_000, 40)) * rng.choice([1.0, 3.0, 30.0, 30.0], size=(20_000, 1))
        rows, bias = rng.standard_normal((3000, 10)), 1.6 * rng.standard_normal(3000)
        for some in (x[:1000], x):
            often = (network.features(some, 1) @ rows.T + bias > 0).mean(axis=0)
            rows, bias = rows[often < 1.5e-3], bias[often < 1.5e-3]
        often = often[often < 1.5e-3]
        rare = (often > 0) & (often < 2.5e-4)
        points = unusual_everywhere(network, 105, rng.standard_normal((8000, 40)), rng, None)
        assert len(points) == 105
        met += (network.features(points, 1) @ rows[rare].T + bias[rare] > 0).any(axis=0).tolist()
    # As many points of mixtures alone, climbed to without a step aside, met 85 %.
    assert_rate(met, 0.97)


def test_neurons_that_are_supposed_are_rare_and_few_points_meet_them_all(rng: np.random.Generator) -> None:
    features = np.maximum(rng.standard_normal((500, 6)), 0) * rng.choice([1, 30], (500, 1))
    behind = uv.Network.from_weights([(rng.standard_normal((7, 6)), rng.standard_normal(7))]).layers[0]
    rows, bias = supposed(features, behind, rng)
    assert 20 < len(rows) <= SUPPOSED
    size = np.linalg.norm(rows, axis=1)
    assert np.isin(
        np.round(np.abs(bias / size), 9), np.round(np.abs(behind.bias / np.linalg.norm(behind.dense(), axis=1)), 9)
    ).all()
    assert (features @ rows.T + bias > 0).sum(axis=0).max() <= RAREST
    met = np.zeros((40, 12), dtype=bool)
    met[:30, :4] = met[30:34, 4:8] = met[39, 8:] = True
    assert {tuple(np.flatnonzero(met[i])) for i in covering(met, 3)} == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)}
    assert len(set(covering(met, 39))) == 39


def test_hyperplanes_that_bend_far_out_only_are_told(seed: int) -> None:
    """Of two nearly parallel neurons one is off wherever the next layer is on, but far out: there the hyperplanes of
    that layer bend, which pass for a first layer's nearer by."""
    w, b = np.array([[-0.4985, -1.2022], [0.3112, 0.9513]]), np.array([0.2453, -1.0587])
    behind, c = np.array([[-1.63, 0.8761], [-0.585, 1.0863]]), np.array([-0.0124, -0.991])
    last = np.array([[2.0296, -0.0506]]), np.zeros(1)
    truth = uv.Network.from_weights([(w, b), (behind, c), last])
    flat = uv.Network.from_weights([(behind[:, 1:] @ w[1:], behind[:, 1:] @ b[1:] + c), last])
    oracle = uv.as_oracle(truth.logits, 2)
    x = np.random.default_rng(0).standard_normal((5000, 2))
    np.testing.assert_allclose(flat(x), truth(x), atol=1e-9)
    told = []
    for each in range(30):
        points = check_points(flat, oracle, 100, np.random.default_rng(seed + each))
        assert sum(map(len, points)) == 100
        told.append(max(float(np.abs(flat(group) - truth(group)).max()) for group in points) > 1e-3)
    assert_rate(told, 0.9)


def test_points_lie_in_all_corners_where_hyperplanes_cross_far_out(rng: np.random.Generator) -> None:
    rows, bias = np.array([[1.0, 0.0], [1.0, 0.05]]), np.array([0.0, -1.0])
    network = uv.Network.from_weights([(rows, bias), (np.ones((1, 2)), np.zeros(1))])
    at = crossings(network, rng.standard_normal((50, 2)), 40, rng)
    assert len(at) == 4
    sides = {tuple(each) for each in (at @ rows.T + bias > 0).tolist()}
    assert len(sides) == 4  # they cross at (0, 20)
    assert np.linalg.norm(at - [0, 20], axis=1).max() < 20
    near = uv.Network.from_weights([(np.eye(2), np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
    assert not len(crossings(near, rng.standard_normal((50, 2)), 40, rng))
