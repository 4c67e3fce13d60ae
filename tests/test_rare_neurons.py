"""Neurons of the last hidden layer that hardly any input switches, read from the answers that the others get wrong."""

from __future__ import annotations

import numpy as np

from tests.helpers import random_weights, relu_net, single
from unveil.identification.fitting.output_layer import after
from unveil.identification.piecewise_linear.rare_neurons import (
    last_layer,
    left_of_most,
    output_suiting_most,
    sides_suiting_most,
    suits_most,
    with_rare,
)


def lacking(seed: int, outputs: int, share: float) -> tuple[bool, bool, int]:
    """Whether a neuron that this share of the inputs switches is put back, the others stay, and how much is asked."""
    rng = np.random.default_rng(seed)
    weights = single(random_weights((20, 8, 6, outputs), rng, bias=0.5))
    rows, bias = weights[1]
    x = rng.standard_normal((4000, 20))
    z = after(weights[:1], x) @ rows[-1]
    bias[-1] = -np.quantile(z, 1 - share)
    ask = relu_net(weights, np.float32)
    known = [weights[0], (rows[:-1], bias[:-1])]
    # As rows of float32 answers are known.
    known[0] = (known[0][0] * (1 + 1e-6 * rng.standard_normal(known[0][0].shape)), known[0][1])
    asked: list[int] = []

    def more(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(len(points))
        return points, ask(points).astype(float)

    out = with_rare(known, x, ask(x).astype(float), more, rng)
    new, offset = out[-1][0][-1], out[-1][1][-1]
    true = np.append(rows[-1], bias[-1]) / np.linalg.norm(rows[-1])
    back = len(out[-1][0]) == 6 and np.abs(np.append(new, offset) - true).max() < 0.05
    return bool(back), bool((out[-1][0][:5] == rows[:5]).all()), sum(asked)


def test_a_neuron_that_one_input_in_fifty_switches_is_put_back() -> None:
    told = [lacking(seed, outputs, 0.02) for seed in range(3) for outputs in (1, 3)]
    assert np.mean([back for back, _, _ in told]) >= 0.8
    assert all(stays for _, stays, _ in told)
    assert {asked % (4 * 9) for _, _, asked in told} == {0}  # PER_WEIGHT (d + 1) for each neuron looked for


def test_nothing_is_put_into_a_layer_that_is_whole() -> None:
    rng = np.random.default_rng(7)
    weights = single(random_weights((20, 8, 6, 2), rng, bias=0.5))
    x = rng.standard_normal((3000, 20))
    y = relu_net(weights, np.float32)(x).astype(float)

    def none(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("nothing is asked where nothing is wrong")

    layers = weights[:2]
    assert with_rare(layers, x, y, none, rng) is layers


def test_few_wrong_answers_do_not_turn_the_output_layer() -> None:
    rng = np.random.default_rng(3)
    weights = random_weights((10, 8, 6, 2), rng, bias=0.5)
    x = rng.standard_normal((2000, 10))
    y = relu_net(weights)(x)
    y[:100] += 5.0
    rows, bias = output_suiting_most(weights[:2], x, y)
    assert np.abs(rows - weights[2][0]).max() < 1e-5 * np.abs(weights[2][0]).max()
    assert np.abs(bias - weights[2][1]).max() < 1e-4


def test_sides_of_a_layer_that_lacks_a_rare_neuron_are_those_that_most_answers_need() -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        weights = random_weights((20, 8, 6, 1 + seed % 2), rng, bias=0.5)
        rows, bias = weights[1]
        x = rng.standard_normal((500, 20))
        bias[-1] = -np.quantile(after(weights[:1], x) @ rows[-1], 0.97)
        y = relu_net(weights)(x)
        turn = rng.choice([-1.0, 1.0], 5)
        known = weights[:1]
        found = sides_suiting_most(known, (rows[:5] * turn[:, None], bias[:5] * turn), x, y)
        assert np.allclose(found[0], rows[:5])
        assert np.allclose(found[1], bias[:5])
        assert suits_most(left_of_most([*known, found], x, y), y)
        # Of more neurons than the layer before has some are false: no answer bends there.
        false = rng.standard_normal((4, 8)), 0.3 * rng.standard_normal(4)
        wide = np.concatenate([false[0][:2], rows[:5], false[0][2:]]), np.r_[false[1][:2], bias[:5], false[1][2:]]
        kept = sides_suiting_most(known, wide, x, y)
        assert len(kept[1]) == 8
        assert all(np.isclose(kept[0] @ row, row @ row).any() for row in rows[:5])
        # Half of its neurons are missing, or another layer lies behind: most answers tell.
        assert not suits_most(left_of_most([*known, (rows[:3], bias[:3])], x, y), y)
        (inner, _), outer = random_weights((6, 5, 2), rng, bias=0.5)
        behind = inner, -np.median(after(weights[:2], x) @ inner.T, axis=0)
        deeper = relu_net([*weights[:2], behind, outer])(x)
        assert not suits_most(left_of_most(weights[:2], x, deeper), deeper)


def completed(seed: int, share: float) -> bool | None:
    """Whether a neuron that is on at this share of the inputs is put back; None if the layer is not taken for the last.

    The others were read up to sign.
    """
    rng = np.random.default_rng(seed)
    weights = single(random_weights((20, 8, 6, 1), rng, bias=0.5))
    rows, bias = weights[1]
    x = rng.standard_normal((1500, 20))
    bias[-1] = -np.quantile(after(weights[:1], x) @ rows[-1], 1 - share)
    network = relu_net(weights, np.float32)

    def ask(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return points, network(points).astype(float)

    turn = rng.choice([-1.0, 1.0], 5)
    found = last_layer(weights[:1], (rows[:5] * turn[:, None], bias[:5] * turn), *ask(x), ask, rng)
    if found is None:
        return None
    got, true = (
        np.column_stack(layer) / np.linalg.norm(layer[0], axis=1, keepdims=True) for layer in (found, (rows, bias))
    )
    return got.shape == true.shape and bool(np.abs(got - true).max() < 1e-3)


def test_a_last_layer_without_a_neuron_that_is_nearly_always_on_or_off_is_completed() -> None:
    told = [completed(seed, share) for seed in range(3) for share in (0.97, 0.03)]
    assert np.mean([each is True for each in told]) >= 0.6


def put_in(seed: int) -> bool:
    """Whether two neurons that are on at 2 and at 3 % of the inputs, and of which answers know at once, are put in."""
    rng = np.random.default_rng(seed)
    weights = single(random_weights((20, 8, 6, 1), rng, bias=0.5))
    rows, bias = weights[1]
    x = rng.standard_normal((4000, 20))
    for i, share in ((-1, 0.02), (-2, 0.03)):
        bias[i] = -np.quantile(after(weights[:1], x) @ rows[i], 1 - share)
    network = relu_net(weights, np.float32)

    def ask(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return points, network(points).astype(float)

    found = with_rare([weights[0], (rows[:4], bias[:4])], *ask(x), ask, rng)[-1]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return len(found[1]) == 6 and bool((np.abs(unit[4:] @ found[0][4:].T).max(axis=1) > 1 - 1e-6).all())


def test_two_rare_neurons_are_put_in_one_after_the_other() -> None:
    assert sum(put_in(seed) for seed in range(10)) >= 5
