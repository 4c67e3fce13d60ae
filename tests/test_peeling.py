"""Three and more sigmoidal hidden layers are read whole, widths unknown, at the stated cost, on any processor."""

from __future__ import annotations

import numpy as np

from tests.test_identify import random_network, worst
from unveil import Peeling, as_oracle
from unveil.blackbox.noise_model import answers_noise
from unveil.identification.fitting.least_squares import parameters
from unveil.identification.smooth.blocks import FirstLayer
from unveil.identification.smooth.peeling import Peeled
from unveil.identification.smooth.rank_condition import Slopes, meet_condition, meet_freely, refined, slopes
from unveil.outcome import Outcome
from unveil.whitebox.activation import ACTIVATIONS
from unveil.whitebox.network import Layer, Network


def flipped(network, seed):
    """The network's answers with their last bits up or down at random, as another processor would give them."""
    rng = np.random.default_rng(seed)

    def answer(x):
        y = network(x)
        return np.nextafter(y, y + rng.choice([-1, 1], size=y.shape))

    return answer


def test_three_hidden_layers_are_read_whole(seed):
    good = 0
    for trial in range(2):
        truth = random_network(7, (7, 3, 2), "tanh", np.random.default_rng(seed + trial), outputs=2)
        oracle = as_oracle(flipped(truth, seed + trial), shape=7, noisy=True)
        before = oracle.ledger.asked
        found = Peeling("tanh")(oracle, rng=np.random.default_rng(trial))
        assert found.queries == oracle.ledger.asked - before
        if found.outcome is Outcome.complete:
            # Complete is never said of a network that is not the true one.
            assert worst(found.network, truth) < 1e-8
            assert [layer.neurons for layer in found.network.layers] == [7, 3, 2, 2]
            good += found.queries <= 50 * parameters(truth)
    assert good >= 1


def test_noise_leaves_directions_poor_and_the_condition_makes_them_exact(seed):
    good = 0
    for trial in range(2):
        rng, layers = np.random.default_rng([seed, trial]), []
        for before, width in ((8, 8), (8, 4), (4, 2)):
            rows = rng.standard_normal((width, before))
            layers.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), 0.5 * rng.standard_normal(width)))
        truth = Network.from_weights([*layers, (np.ones((1, 2)), np.zeros(1))], "tanh")
        oracle = as_oracle(
            lambda x, truth=truth, rng=rng: (y := truth(x)) + 1e-6 * rng.standard_normal(y.shape), shape=8, noisy=True
        )
        found = Peeling("tanh", widths=(8, 4, 2))(oracle, rng=np.random.default_rng(trial))
        if found.outcome is Outcome.complete:
            good += bool(worst(found.network, truth) < 1e-3)
    assert good >= 1


def test_the_rank_condition_gives_scales_shifts_and_the_next_width(seed):
    good = 0
    for trial in range(3):
        rng = np.random.default_rng(seed + trial)
        truth = random_network(8, (8, 3, 2), "tanh", rng)
        first = truth.layers[0]
        scales, shifts = np.exp(0.2 * rng.standard_normal(8)), 0.3 * rng.standard_normal(8)
        # As it is known beforehand: scales and shifts off.
        layer = FirstLayer(first.weights / scales[:, None], (first.bias - shifts) / scales, first.activation, 18.0)
        oracle = as_oracle(flipped(truth, seed), shape=8, noisy=True)
        before = oracle.ledger.asked
        z = 0.8 * rng.standard_normal((32, 8))
        g = slopes(oracle, layer, z, answers_noise(oracle, rng))
        assert oracle.ledger.asked - before == 128 + 6 * 32 * 8
        found = meet_condition(Slopes(z, g), first.activation, None)
        if found is not None and found.rank == 3 and np.abs(found.layer.weights - np.diag(scales)).max() < 1e-3:
            span = found.rows @ np.linalg.svd(truth.layers[1].weights)[2][3:].T
            good += bool(np.abs(found.layer.bias - shifts).max() < 1e-3 and np.abs(span).max() < 1e-3)
    assert good >= 2


def test_a_layer_known_roughly_becomes_exact(seed):
    good = 0
    for trial in range(3):
        rng = np.random.default_rng([seed, trial])
        truth = random_network(6, (6, 3, 2), "tanh", rng)
        first = truth.layers[0]
        c = rng.uniform(-1, 1, (60, 6))
        # Slopes of the true network by its inputs, in closed form.
        z, back = first.affine(c), truth.layers[-1].weights
        sums = truth.layers[1].affine(np.tanh(z)), truth.layers[2].affine(np.tanh(truth.layers[1].affine(np.tanh(z))))
        for layer, s in zip(truth.layers[2:0:-1], sums[::-1], strict=True):
            back = (back * (1 - np.tanh(s) ** 2)[:, None]) @ layer.weights
        g = ((back * (1 - np.tanh(z) ** 2)[:, None]) @ first.weights).transpose(0, 2, 1)
        start = Layer(first.weights + 1e-3 * rng.standard_normal((6, 6)), first.bias, first.activation)
        found = meet_freely(Slopes(c, g), [start], range(1, 6))
        if found is not None and found.rank == 3:
            good += bool(np.abs(found.layer.weights - first.weights).max() < 1e-9)
    assert good >= 2


def test_what_cannot_be_peeled_is_not_called_complete():
    wide = random_network(6, (6, 8), "tanh", np.random.default_rng(3))
    found = Peeling("tanh", attempts=1)(as_oracle(wide, shape=6), rng=np.random.default_rng(0))
    assert found.outcome is Outcome.check_failed
    assert "narrower" in " ".join(found.why)
    boxed = as_oracle(random_network(6, (6, 3, 2), "tanh", np.random.default_rng(3)), shape=6, within=(-1, 1))
    assert Peeling("tanh")(boxed, rng=np.random.default_rng(0)).outcome is Outcome.check_failed
    poor = as_oracle(random_network(6, (6, 3, 2), "tanh", np.random.default_rng(3)), shape=6, budget=1500)
    ended = Peeling("tanh")(poor, rng=np.random.default_rng(0))
    assert ended.outcome is Outcome.budget_ended
    assert poor.ledger.asked <= 1500


def test_places_of_fewer_neurons_than_inputs_lie_across_their_rows_too(rng):
    truth = random_network(9, (5, 3, 2), "tanh", rng)
    first = truth.layers[0]
    peeled = Peeled((first,), (np.linalg.svd(truth.layers[1].weights, full_matrices=False)[2],))
    x = peeled.places(60, rng)
    # Rows a little off their span change the answers nowhere else.
    off = np.linalg.svd(first.weights)[2][5:] @ x.T
    assert np.linalg.matrix_rank(off) == 4
    assert off.std() > 0.3 * x.std()
    # Where the neurons are is as it would be without.
    assert np.abs(first.affine(x)).max() < 20


def test_fewer_neurons_than_inputs_are_read_to_the_last_digits(seed):
    good = []
    for trial in range(2):
        truth = random_network(9, (6, 3, 2), "tanh", np.random.default_rng(seed + trial), outputs=2)
        found = Peeling("tanh")(as_oracle(flipped(truth, trial), shape=9, noisy=True), rng=np.random.default_rng(trial))
        if found.outcome is Outcome.complete:
            assert worst(found.network, truth) < 1e-8
            good.append(True)
    assert good


def test_steps_that_lead_to_no_number_are_refused():
    for seed in range(80, 100):
        rng = np.random.default_rng(seed)
        told = Slopes(2 * rng.standard_normal((8, 3)), rng.standard_normal((8, 3, 1)))
        start = Layer(np.eye(3), 3 * rng.standard_normal(3), ACTIVATIONS["gelu"])
        shifted = refined(told, start, 1 + seed % 2, np.zeros((3, 3), dtype=bool), 25)
        assert shifted is not None
        scaled = refined(told, shifted.layer, 1 + seed % 2, np.eye(3, dtype=bool))
        assert scaled is None or np.isfinite(scaled.layer.weights).all()
