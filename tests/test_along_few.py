"""along_few: networks of many inputs in float32, read along a few directions of them first."""

from __future__ import annotations

import numpy as np

import unveil as uv
from tests.helpers import assert_rate, random_weights, relu_elsewhere, single
from unveil.blackbox.rounding import rounding
from unveil.identification.along_few import _met_again, along_few
from unveil.identification.fitting.output_layer import Asked
from unveil.identification.identify import identify
from unveil.identification.method import Identification
from unveil.identification.piecewise_linear.few_directions import Narrow
from unveil.identification.piecewise_linear.probe import Probe

SIZES = (200, 8, 5, 2)


def oracle(
    seed: int, dtype: type = np.float32, sizes: tuple[int, ...] = SIZES, **more: object
) -> tuple[uv.Oracle, uv.Network]:
    rng = np.random.default_rng(seed)
    weights = single(random_weights(sizes, rng, bias=0.5))
    return uv.as_oracle(relu_elsewhere(weights, rng, dtype), sizes[0], **more), uv.Network.from_weights(weights)


def along(network: uv.Network, narrow: uv.Oracle) -> uv.Network:
    """What a network does along the directions."""
    assert isinstance(narrow, Narrow)
    (first, bias), *rest = [(layer.dense(), layer.bias) for layer in network.layers]
    return uv.Network.from_weights([(first @ narrow.lift.T, bias), *rest])


def unsettled(few: Identification, narrow: uv.Oracle) -> Identification:
    """No fit."""
    assert narrow.n < SIZES[0]
    return few


def test_a_network_of_many_inputs_is_read_whole(seed: int) -> None:
    whole: list[bool] = []
    for each in range(3):
        model, truth = oracle(seed + each, sizes=(200, 8, 2))
        before = model.ledger.asked
        found = identify(model, rng=np.random.default_rng(seed + each))
        whole.append(found.outcome is uv.Outcome.complete)
        if whole[-1]:
            assert found.network is not None
            match = uv.compare(found.network, truth)
            assert not match.missing
            assert not match.false
            x = np.random.default_rng(99).standard_normal((2000, SIZES[0]))
            assert np.abs(found.network(x) - truth(x)).max() < 1e-3 * truth(x).std()
            assert found.queries == model.ledger.asked - before
    assert_rate(whole, 0.8)


def test_weights_along_all_other_inputs_follow_from_those_along_a_few(seed: int) -> None:
    right: list[bool] = []
    for each in range(6):
        model, truth = oracle(seed + each)

        def known(narrow: uv.Oracle, truth: uv.Network = truth) -> Identification:
            return Identification(along(truth, narrow), uv.Outcome.complete, 0, 0.0, "critical points")

        found = along_few(model, known, unsettled, np.random.default_rng(seed))
        assert found is not None
        assert found.network is not None
        assert found.stats["directions"] < SIZES[0]
        x = np.random.default_rng(99).standard_normal((2000, SIZES[0]))
        # The weights along the others were in nothing that it was told.
        right.append(bool(np.sqrt(((found.network(x) - truth(x)) ** 2).mean()) < 1e-4 * truth(x).std()))
    assert_rate(right, 0.9, SIZES)


def split(network: uv.Network) -> uv.Network:
    """The same function by one neuron more: its first one as two that share its work."""
    (first, bias), (second, offset), *rest = [(layer.dense(), layer.bias) for layer in network.layers]
    halves = np.column_stack([0.6 * second[:, 0], second[:, 1:], 0.4 * second[:, 0]])
    layers = [(np.vstack([first, first[0]]), np.append(bias, bias[0])), (halves, offset), *rest]
    return uv.Network.from_weights(layers)


def test_neurons_that_were_fitted_along_a_few_are_told_as_read_only_where_answers_need_each(seed: int) -> None:
    rates: dict[bool, list[bool]] = {True: [], False: []}
    for each in range(seed, seed + 4):
        for spare, right in rates.items():
            model, truth = oracle(each)

            def fitted(narrow: uv.Oracle, truth: uv.Network = truth, spare: bool = spare) -> Identification:
                network = along(truth, narrow)
                network = split(network) if spare else network
                first = network.layers[0]
                stats = {"layers_read": [(first.dense()[:3], first.bias[:3])], "surrogate": {}}
                return Identification(network, uv.Outcome.approximate, 0, 0.1, "critical points", (), stats)

            found = along_few(model, fitted, unsettled, np.random.default_rng(each))
            assert found is not None
            if not spare:
                right.append(found.outcome is uv.Outcome.complete)
                continue
            # However well it answers: one of its neurons could be the other's work.
            assert found.outcome is uv.Outcome.check_failed
            rows, _ = found.stats["rows_read"]
            true = truth.layers[0].dense()
            alike = rows @ true.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(true, axis=1))
            right.append(2 <= len(rows) <= 4 and bool((np.abs(alike).max(axis=1) > 0.999).all()))
    assert_rate(rates[True], 0.9)
    assert_rate(rates[False], 0.8)


def test_rows_that_are_not_met_at_fresh_places_are_not_told(seed: int) -> None:
    told, false = [], 0
    for each in range(seed, seed + 6):
        model, truth = oracle(each)
        first, rng = truth.layers[0], np.random.default_rng(each)
        wrong = first.dense().copy()
        wrong[2:4] += 0.1 * rng.standard_normal((2, truth.n)) * np.abs(wrong[2:4]).mean()
        network = uv.Network((uv.Layer(wrong, first.bias, first.activation), *truth.layers[1:]))
        ask = Asked(model)
        noise = rounding(ask, rng.standard_normal((8, truth.n)), model.resolution, rng, model.uneven)
        there = _met_again(Probe(ask, noise, rng), network, (wrong[:4], first.bias[:4]), 1e-4)
        told += there[:2].tolist()
        false += int(there[2:].sum())
    assert_rate(told, 0.8)
    assert false <= 1


def test_nothing_is_asked_where_answers_have_all_digits_or_lie_in_a_box_and_a_budget_stays_as_it_was() -> None:
    def never(narrow: uv.Oracle) -> Identification:
        raise AssertionError(narrow)

    for model, _ in (oracle(3, np.float64), oracle(3, within=(-1.0, 1.0))):
        before = model.ledger.asked
        assert along_few(model, never, unsettled, np.random.default_rng(0)) is None
        assert model.ledger.asked == before

    def spends(narrow: uv.Oracle) -> Identification:
        narrow(np.zeros((1500, narrow.n)))
        raise AssertionError("it was to be stopped before")

    model, _ = oracle(3, budget=2000)
    assert along_few(model, spends, unsettled, np.random.default_rng(0)) is None
    assert model.ledger.budget == 2000
    assert model.ledger.asked <= 1000
