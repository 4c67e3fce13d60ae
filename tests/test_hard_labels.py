"""HardLabels: what a network read from labels alone is, and how many labels it may take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import unveil as uv
from tests.helpers import Weights, assert_rate, random_weights, relu_net
from unveil.blackbox.oracle import Oracle
from unveil.identification.from_labels.hard_labels import DEFAULT_LABEL_BUDGET, EACH_INPUT, HardLabels

SIZES = (6, 4, 3)


def every_class(seed: int) -> Weights:
    """A network that gives each of its labels to a sixth of all inputs at least."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2000, SIZES[0]))
    while True:
        weights = random_weights(SIZES, rng, bias=0.5)
        if np.bincount(relu_net(weights)(x).argmax(axis=1), minlength=SIZES[-1]).min() > len(x) / 6:
            return weights


def labels_of(seed: int, budget: int | None = None) -> Oracle:
    net = relu_net(every_class(seed))
    return uv.as_oracle(lambda x: net(x).argmax(axis=1), shape=SIZES[0], answers="labels", budget=budget)


def test_labels_alone_give_differences_of_logits_up_to_one_scale() -> None:
    right = []
    for seed in range(6):
        found = HardLabels()(labels_of(seed), rng=np.random.default_rng(seed))
        right.append(found.outcome is uv.Outcome.complete)
        if found.network is None or not right[-1]:
            continue
        x = np.random.default_rng([9, seed]).standard_normal((500, SIZES[0]))
        net = relu_net(every_class(seed))
        true, read = (each - each.mean(axis=1, keepdims=True) for each in (net(x), found.network.logits(x)))
        scale = float((true * read).sum() / (read * read).sum())
        assert scale > 0
        assert np.abs(true - scale * read).max() < 1e-5 * true.std()
    assert_rate(right, 0.8)


def test_without_a_budget_a_reading_has_labels_by_its_inputs_and_never_takes_more() -> None:
    assert HardLabels().allowance(labels_of(0)) == DEFAULT_LABEL_BUDGET + EACH_INPUT * SIZES[0]
    assert HardLabels().allowance(labels_of(0, budget=10)) is None
    assert HardLabels(most=70).allowance(labels_of(0, budget=1000)) == 70
    for most, oracle in ((70, labels_of(0)), (400, labels_of(1, budget=1000)), (None, labels_of(2, budget=300))):
        before = oracle.ledger.asked
        found = HardLabels(most=most)(oracle, rng=np.random.default_rng(0))
        assert found.outcome is uv.Outcome.budget_ended
        asked = oracle.ledger.asked - before
        assert 0 < found.queries == asked <= (300 - before if most is None else most)


def test_what_cannot_be_read_is_refused_before_any_question() -> None:
    values = uv.as_oracle(relu_net(random_weights(SIZES, np.random.default_rng(0))), shape=SIZES[0])
    for oracle, method in (
        (values, HardLabels()),
        (labels_of(0), HardLabels(activation="softplus")),
        (labels_of(0), replace(HardLabels(), checks=0)),
    ):
        before = oracle.ledger.asked
        with pytest.raises(uv.BadInput):
            method(oracle, rng=np.random.default_rng(0))
        assert oracle.ledger.asked == before
