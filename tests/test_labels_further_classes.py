"""A class met only outside the directions that were read first: its weights, behind neurons that are known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.blackbox.label_crossings import Side
from unveil.identification.from_labels.chart import Chart
from unveil.identification.from_labels.completion import Completed
from unveil.identification.from_labels.further_classes import with_classes_met
from unveil.identification.from_labels.model import LabelModel
from unveil.identification.from_labels.pool import Pool
from unveil.whitebox.activation import activation

WEIGHTS = random_weights((6, 5, 4), np.random.default_rng(8), bias=0.3)
NET = relu_net(WEIGHTS)


def lacking_one() -> tuple[Completed, Any, np.ndarray]:
    """The network without the second commonest of its classes, all inputs to ask it in, and inputs of that class."""
    (a, b), (v, d) = WEIGHTS
    x = 1.5 * np.random.default_rng(0).standard_normal((4000, 6))
    label = NET(x).argmax(axis=1)
    lacked = int(np.bincount(label, minlength=4).argsort()[-2])
    kept = np.array([c for c in range(4) if c != lacked])
    model = LabelModel(a, b, v[kept], np.zeros((3, 6)), d[kept], kept, activation("relu"))
    oracle = uv.as_oracle(lambda x: NET(x).argmax(axis=1), shape=6, answers="labels")
    chart = Chart(oracle, np.zeros(6), 1.0, None)
    pool = Pool(Side(chart), chart, 1.5, np.empty((0, 6)), np.random.default_rng(1))
    lift = SimpleNamespace(fresh_pool=lambda: pool, told=SimpleNamespace(reached=1e-9))
    return Completed(model, 1e-12, True, (), {"error": 1e-12}), lift, x[label == lacked][:3]


def test_a_class_that_was_lacking_is_read_in_all_inputs() -> None:
    found, lift, x = lacking_one()
    grown = with_classes_met(found, lift, x, np.random.default_rng(2))
    assert grown is not None
    v, d = WEIGHTS[1]
    right = np.column_stack([v, d])
    mine = np.column_stack([grown.model.outer, grown.model.offset])
    assert grown.model.classes.tolist() == [0, 1, 2, 3]
    off = np.abs((mine - mine[0]) - (right - right[0])).max()
    assert off < 1e-6
    # Stated is what the points' own errors come to, and no less than is known of the neurons.
    assert 1e-9 < grown.figures["error"] < 1e-5
    assert off < 10 * grown.figures["error"]


def test_no_class_is_put_behind_neurons_that_are_others_or_an_affine_part() -> None:
    found, lift, x = lacking_one()
    turned = replace(found.model, inner=found.model.inner[:, ::-1])
    assert with_classes_met(replace(found, model=turned), lift, x, np.random.default_rng(2)) is None
    affine = replace(found.model, affine=np.ones((3, 6)))
    assert with_classes_met(replace(found, model=affine), lift, x, np.random.default_rng(2)) is None


def test_classes_that_left_numbers_open_are_read_anew_with_one_that_was_lacking() -> None:
    found, lift, x = lacking_one()
    rare = int(found.model.classes[-1])
    wrong = found.model.outer + 0.3 * (found.model.classes == rare)[:, None]
    pair = tuple(int(c) for c in found.model.classes if c != rare)
    vague = replace(found, model=replace(found.model, outer=wrong))
    # Taken as known it leads points between both astray.
    assert with_classes_met(vague, lift, x, np.random.default_rng(2)) is None
    told = replace(vague, figures={"error": 1e-12, "open": 1, "pair": pair})
    grown = with_classes_met(told, lacking_one()[1], x, np.random.default_rng(2))
    assert grown is not None
    assert not grown.figures["open"]
    v, d = WEIGHTS[1]
    mine, right = (np.column_stack(last) for last in ((grown.model.outer, grown.model.offset), (v, d)))
    assert np.abs((mine - mine[pair[0]]) - (right - right[pair[0]])).max() < 1e-6
