"""Inputs behind features and outputs, against exact elimination in rational numbers over all activation patterns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unveil as uv
from tests.helpers import assert_rate
from unveil.outcome import BadInput
from unveil.whitebox.activation import activation
from unveil.whitebox.formats import load
from unveil.whitebox.inputs_of import inputs_of
from unveil.whitebox.network import Layer, Network
from unveil.whitebox.preimage import preimage
from unveil.whitebox.starting_points import starting_points

Row = tuple[Fraction, ...]


def solvable(rows: Sequence[Row]) -> bool:
    """Whether some z has `row[:-1] @ z <= row[-1]` for all rows: Fourier-Motzkin elimination, exact."""
    left = {tuple(row) for row in rows}
    for k in range(len(rows[0]) - 1):
        above, below = [r for r in left if r[k] > 0], [r for r in left if r[k] < 0]
        left = {r for r in left if r[k] == 0}
        for p in above:
            for q in below:
                made = [a / p[k] - b / q[k] for a, b in zip(p, q, strict=True)]
                size = max(map(abs, made[:-1]), default=Fraction(0)) or Fraction(1)
                left.add(tuple(value / size for value in made))
    return all(row[-1] >= 0 for row in left)


def _rational(values: np.ndarray) -> list[Fraction]:
    return [Fraction(float(v)) for v in values]


def _wanted(name: str, y: Fraction) -> tuple[Fraction | None, Fraction | None] | None:
    """Lowest and highest preactivation with this feature; None for an open end, or for all if there is none at all."""
    if name == "relu":
        return None if y < 0 else (y, y) if y > 0 else (None, Fraction(0))
    if name == "clip(0.0,2.0)":
        inside = (None if y == 0 else y, None if y == 2 else y)
        return inside if 0 <= y <= 2 else None
    return (y, y) if y > 0 else (2 * y, 2 * y)


def _box(n: int, end: int) -> list[Row]:
    unit = [[Fraction(int(i == k)) for i in range(n)] for k in range(n)]
    return [(*(sign * v for v in row), Fraction(end)) for row in unit for sign in (1, -1)]


def _one_layer(name: str, weights: np.ndarray, bias: np.ndarray, y: np.ndarray, end: int | None) -> bool:
    rows = _box(weights.shape[1], end) if end else []
    for row, b, value in zip(weights, _rational(bias), _rational(y), strict=True):
        asked = _wanted(name, value)
        if asked is None:
            return False
        a = _rational(row)
        if asked[1] is not None:
            rows.append((*a, asked[1] - b))
        if asked[0] is not None:
            rows.append((*(-v for v in a), b - asked[0]))
    return solvable(rows)


def test_features_of_one_layer_agree_with_exact_elimination() -> None:
    told: Counter[tuple[bool, str]] = Counter()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n, m = int(rng.integers(1, 4)), int(rng.integers(1, 6))
        name = ["relu", "clip(0.0,2.0)", "leaky_relu(0.5)"][seed % 3]
        weights, bias = rng.integers(-3, 4, (m, n)).astype(float), rng.integers(-3, 4, m).astype(float)
        network = Network((Layer(weights, bias, activation(name)),))
        x = rng.integers(-2, 3, n).astype(float)
        known = network(x)
        y = known.copy()
        if rng.random() < 0.6:
            y[rng.integers(m)] += rng.integers(-1, 2)
        end = 1 if rng.random() < 0.5 else None
        within = None if end is None else (-1.0, 1.0)
        truth = _one_layer(name, weights, bias, y, end)
        found = preimage(network, features=y, within=within)
        told[truth, found.verdict] += 1
        assert (found.verdict == "found") == truth, seed
        assert found.check(), seed
        if not truth:
            assert found.verdict == "none", seed
            assert found.kind == "empty", seed
            # Features of a flat end are at most so far off, however far preactivations are.
            assert found.tolerance < found.least <= found.deviation + 1e-9, seed
            assert found.proof is None or end is None or found.proof.check_exactly(1e-7), seed
            continue
        assert np.abs(network(found.x) - y).max() <= 1e-9, seed
        if within is not None:
            assert (np.abs(found.x) <= 1).all(), seed
        near = preimage(network, features=y, within=within, near=np.zeros(n))
        assert near.distance is not None, seed
        assert near.bound is not None, seed
        assert near.distance <= np.linalg.norm(found.x) + 1e-7, seed
        assert near.distance <= near.bound + 1e-6, seed
        if (y == known).all():
            assert found.kind == preimage(network, x).kind, seed
    assert min(told[True, "found"], told[False, "none"]) > 15


@pytest.mark.parametrize("name", ["relu", "clip(-1.0,1.0)", "leaky_relu"])
def test_features_off_by_less_than_the_tolerance_are_found(name: str) -> None:
    # Those of silent neurons are a little above zero then, and those near a kink on its other side.
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, m = int(rng.integers(1, 6)), int(rng.integers(5, 12))
        weights, bias = rng.integers(-2, 3, (m, n)).astype(float), rng.integers(-1, 2, m).astype(float)
        network = Network((Layer(weights, bias, activation(name)),))
        x = rng.integers(0, 2, n).astype(float)
        y = network(x) + 0.9e-6 * rng.uniform(-1, 1, m)
        found = preimage(network, features=y, within=(0, 1), tolerance=1e-6)
        assert found.verdict == "found", seed
        assert np.abs(network(found.x) - y).max() <= 1e-6, seed
        assert found.check(), seed


def test_proofs_of_others_fail() -> None:
    rng = np.random.default_rng(0)
    network = Network((Layer(rng.standard_normal((8, 3)), rng.standard_normal(8), activation("leaky_relu")),))
    y = network(rng.standard_normal(3))
    wrong = preimage(network, features=y + 0.1)
    assert wrong.verdict == "none"
    assert wrong.proof is not None
    assert wrong.least > 1e-3
    assert wrong.deviation >= wrong.least
    right = preimage(network, features=y)
    assert right.verdict == "found"
    # The same multipliers prove nothing of features that an input gives.
    from dataclasses import replace

    from unveil.whitebox.wanted import wanted

    forged = replace(wrong.proof, wanted=wanted(activation("leaky_relu"), y, 1e-6))
    assert not forged.check(1e-6)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "softplus", "arctan", "erf", "leaky_relu", "relu"])
def test_features_of_wide_layers_are_inverted_in_both_precisions(name: str) -> None:
    good = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        n, m = int(rng.integers(5, 20)), int(rng.integers(5, 30))
        network = Network.from_weights(
            [(rng.standard_normal((m, n)) / np.sqrt(n), rng.standard_normal(m) / 2)], last=name
        )
        x = rng.random(n)
        y = network(x)
        found = preimage(network, features=y, within=(0, 1))
        single = preimage(network, features=y.astype(np.float32))
        near = preimage(network, features=y, within=(0, 1), near=x)
        good.append(
            found.verdict == single.verdict == "found"
            and found.check()
            and found.deviation < 1e-10
            and single.deviation < 1e-6
            and near.distance is not None
            and near.distance < 1e-5
            and found.kind == preimage(network, x).kind
        )
        if m > n + 5 and name != "relu":
            off = preimage(network, features=y + 0.01 * rng.standard_normal(m) * (y < 0.9))
            assert off.verdict == "none", seed
            assert off.check(), seed
    assert_rate(good, 0.97, name)


def test_the_bound_on_the_nearest_input_holds_where_the_box_is_open(rng: np.random.Generator) -> None:
    """The bound is by weak duality, and the optimum's own multipliers make it the distance: also without walls."""
    tight = 0
    for _ in range(12):
        weights, bias = rng.standard_normal((4, 3)), rng.standard_normal(4)
        network = Network((Layer(weights, bias, activation("relu")),))
        features, near = network(rng.standard_normal((1, 3)))[0], 3 * rng.standard_normal(3)
        for within in (None, (-5.0, np.inf), (-np.inf, 5.0)):
            found = preimage(network, features=features, near=near, norm=1, within=within)
            assert found.verdict == "found"
            assert found.distance == pytest.approx(np.abs(found.x - near).sum())
            assert found.bound is not None
            assert found.bound <= found.distance * (1 + 1e-9) + 1e-12
            tight += found.bound >= found.distance * (1 - 1e-5) - 1e-6
    assert tight >= 33


def test_features_that_no_activation_gives_are_named() -> None:
    network = Network.from_weights([(np.eye(2), np.zeros(2))], last="relu")
    found = preimage(network, features=np.array([1.0, -0.5]))
    assert (found.verdict, found.kind) == ("none", "empty")
    assert "feature 1" in found.reason
    assert found.check()
    assert abs(found.least - 0.5) < 1e-12
    saturated = preimage(
        Network.from_weights([(np.eye(2), np.zeros(2))], last="sigmoid"), features=np.array([1.0, 0.5])
    )
    assert saturated.verdict == "found"
    assert saturated.kind == "infinite"


def test_bad_questions_are_named() -> None:
    network = Network.from_weights([(np.eye(2), np.zeros(2)), (np.eye(2), np.zeros(2))])
    for given, match in (
        ({"features": np.zeros(3)}, "layer 0 has 2 features"),
        ({"features": np.array([np.nan, 0])}, "NaN"),
        ({"features": np.zeros(2), "x": np.zeros(2)}, "either x"),
        ({}, "either x"),
        ({"x": np.zeros(2), "near": np.zeros(2)}, "go with features"),
        ({"features": np.zeros(2), "within": (1, 0)}, "lowest <= highest"),
        ({"features": np.zeros(2), "within": (0, 1), "near": np.array([2.0, 0])}, "outside of within"),
        ({"features": np.zeros(2), "near": np.zeros(3)}, "one input of the layer"),
        ({"features": np.zeros(2), "norm": 3, "near": np.zeros(2)}, "norm must be"),
        ({"features": np.zeros(2), "tolerance": 0.0}, "tolerance must be"),
    ):
        with pytest.raises(BadInput, match=match):
            preimage(network, **given)  # type: ignore[call-overload]
    bent = Network.from_weights([(np.eye(2), np.zeros(2))], last="abs")
    with pytest.raises(BadInput, match="neither injective nor piecewise linear"):
        preimage(bent, features=np.ones(2))


PIECES: dict[str, list[tuple[int | None, int | None, int, int]]] = {
    "identity": [(None, None, 1, 0)],
    "relu": [(None, 0, 0, 0), (0, None, 1, 0)],
    "abs": [(None, 0, -1, 0), (0, None, 1, 0)],
    "clip(0.0,2.0)": [(None, 0, 0, 0), (0, 2, 1, 0), (2, None, 0, 2)],
}
"""Lowest and highest preactivation, slope and offset of every linear piece, written down once more."""


def _some_pattern(layers: list[tuple[np.ndarray, np.ndarray, str]], y: list[Fraction], n: int) -> bool:
    """Whether any input in the box (-1, 1) has the output y: all activation patterns, each by exact elimination."""
    Maps = list[tuple[Fraction, ...]]

    def through(i: int, maps: Maps, rows: list[Row]) -> bool:
        if i == len(layers):
            ends = [(*a[:-1], v - a[-1]) for a, v in zip(maps, y, strict=True)]
            return solvable([*rows, *ends, *(tuple(-v for v in end) for end in ends)])
        weights, bias, name = layers[i]
        seen = [
            tuple(sum((w * a[k] for w, a in zip(_rational(row), maps, strict=True)), Fraction(0)) for k in range(n + 1))
            for row in weights
        ]
        seen = [(*a[:-1], a[-1] + b) for a, b in zip(seen, _rational(bias), strict=True)]

        def neuron(j: int, made: Maps, held: list[Row]) -> bool:
            if j == len(seen):
                return through(i + 1, made, held)
            a = seen[j]
            for low, high, slope, offset in PIECES[name]:
                rows = list(held)
                if high is not None:
                    rows.append((*a[:-1], high - a[-1]))
                if low is not None:
                    rows.append((*(-v for v in a[:-1]), a[-1] - low))
                there = tuple(slope * v for v in a)
                if solvable(rows) and neuron(j + 1, [*made, (*there[:-1], there[-1] + offset)], rows):
                    return True
            return False

        return neuron(0, [], rows)

    return through(0, [tuple(Fraction(int(i == k)) for i in range(n + 1)) for k in range(n)], _box(n, 1))


def test_inputs_of_small_networks_agree_with_all_their_patterns() -> None:
    told: Counter[str] = Counter()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, m = int(rng.integers(1, 3)), int(rng.integers(1, 3))
        sizes = [n, *(int(rng.integers(2, 5)) for _ in range(int(rng.integers(1, 3)))), m]
        names = [["relu", "abs", "clip(0.0,2.0)"][seed % 3]] * (len(sizes) - 2) + ["identity"]
        layers = [
            (rng.integers(-2, 3, (q, p)).astype(float), rng.integers(-2, 3, q).astype(float), name)
            for p, q, name in zip(sizes[:-1], sizes[1:], names, strict=True)
        ]
        network = Network(tuple(Layer(w, b, activation(name)) for w, b, name in layers))
        x = rng.integers(-4, 5, n) / 4
        y = network(x) + (rng.random() < 0.6) * rng.integers(-2, 3, m)
        truth = _some_pattern(layers, _rational(y), n)
        found = inputs_of(network, y, within=(-1, 1))
        told[found.verdict] += 1
        assert found.verdict == ("found" if truth else "none"), seed
        assert found.complete, seed
        if not truth:
            assert found.least > found.tolerance, seed
            assert found.deviation >= found.least - 1e-9, seed
            sample = network(rng.uniform(-1, 1, (200, n)))
            assert np.abs(sample - y).max(axis=1).min() >= found.least - 1e-9, seed
            continue
        assert np.abs(network(found.x) - y).max() <= found.tolerance, seed
        near = inputs_of(network, y, within=(-1, 1), near=x)
        assert near.bound is not None, seed
        assert near.distance is not None, seed
        assert near.distance <= near.bound + 1e-5, seed
        if (network(x) == y).all():
            assert near.distance < 1e-5, seed
    assert min(told.values()) >= 4


@pytest.mark.slow
def test_inputs_behind_outputs_of_a_larger_network_are_found_without_one_to_start_from(seed):
    examples = Path(__file__).parents[1] / "examples"
    network = load(examples / "digits.onnx")
    images = np.load(examples / "digits.npz")["images"].reshape(-1, 784).astype(float)
    found, rng = 0, np.random.default_rng(seed)
    for image in images[rng.permutation(len(images))[:4]]:
        output = network.features(image)[0]
        one = inputs_of(network, output, programmes=1, rng=rng)
        if one.verdict == "found":
            assert np.abs(network.features(one.x)[0] - output).max() <= one.tolerance
            assert np.abs(one.x - 0.5).max() <= 0.5
            found += 1
        else:
            assert one.verdict == "not found"
            assert not one.complete
    assert found >= 1


def test_starting_points_are_of_many_kinds_and_in_the_box():
    network = Network.from_weights([(np.ones((2, 36)), np.zeros(2))])
    low, high = -np.ones(36), np.linspace(0, 2, 36)
    points = starting_points(network, low, high, np.random.default_rng(3))
    assert (np.clip(points, low, high) == points).all()
    assert (points == starting_points(network, low, high, np.random.default_rng(3))).all()
    share = ((points == low) | (points == high)).mean(axis=1)
    assert (share == 0).mean() > 0.3
    assert (share > 0.8).mean() > 0.05
    pictures = points[-len(points) // 3 :].reshape(-1, 6, 6)
    assert (
        np.abs(np.diff(pictures, axis=1)).mean() < 0.7 * np.abs(np.diff(points[:100].reshape(-1, 6, 6), axis=1)).mean()
    )


def test_a_budget_that_ends_first_proves_nothing() -> None:
    ended = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sizes = [4, 10, 10, 1]
        network = Network.from_weights(
            [(rng.standard_normal((q, p)) / np.sqrt(p), rng.standard_normal(q) / 3) for p, q in pairwise(sizes)]
        )
        y = network(rng.random((20000, 4))).max(axis=0) + 0.1
        short, long = inputs_of(network, y, programmes=1), inputs_of(network, y)
        if short.verdict == "not found":
            ended += 1
            assert (short.complete, short.least, short.programmes) == (False, 0.0, 1), seed
        assert long.complete, seed
        assert long.verdict == "none", seed
    assert ended


def test_smooth_layers_are_inverted_where_they_determine_their_inputs() -> None:
    good = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        wide = Network.from_weights(
            [
                (rng.standard_normal((6, 4)) / 2, rng.standard_normal(6) / 2),
                (rng.standard_normal((8, 6)) / 2, rng.standard_normal(8) / 2),
            ],
            activation="tanh",
            last="sigmoid",
        )
        x = rng.random(4)
        y = wide(x)
        found = inputs_of(wide, y)
        off = y + 0.05 * (rng.random(8) - 0.5)
        good.append(
            found.verdict == "found" and np.abs(found.x - x).max() < 1e-3 and inputs_of(wide, off).verdict == "none"
        )
    assert_rate(good, 0.95)
    narrow = Network.from_weights([(np.ones((1, 3)), np.zeros(1)), (np.ones((1, 1)), np.zeros(1))], activation="sin")
    nothing = inputs_of(narrow, np.array([2.0]))
    assert nothing.verdict == "not found"
    assert not nothing.complete
    assert "proves nothing" in nothing.reason


def test_probabilities_are_asked_through_their_logarithms() -> None:
    rng = np.random.default_rng(2)
    network = Network.from_weights(
        [(rng.standard_normal((6, 5)), rng.standard_normal(6)), (rng.standard_normal((3, 6)), np.zeros(3))],
        last="softmax",
    )
    found = inputs_of(network, network(rng.random(5)))
    assert found.verdict == "found"
    with pytest.raises(BadInput, match="probabilities"):
        inputs_of(network, np.array([0.5, 0.5, 0.0]))
    with pytest.raises(BadInput, match="finite"):
        inputs_of(network, np.full(3, 1 / 3), within=(0, np.inf))


def test_the_commands_find_or_prove(tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from unveil.cli import app
    from unveil.whitebox.formats import load, save

    network = load("examples/digits.onnx")
    with np.load("examples/digits.npz") as digits:
        x = digits["images"][:1].astype(float)
    first = network.features(x, 0)
    np.savez(tmp_path / "y.npz", y=np.concatenate([first, first + 1]))
    given = ["preimage", "examples/digits.onnx", "--features", str(tmp_path / "y.npz"), "--within", "0,1"]
    told = json.loads(CliRunner().invoke(app, [*given, "--json"]).stdout)
    assert [each["verdict"] for each in told["each"]] == ["found", "none"]
    assert told["uncertified"] == 0
    rng = np.random.default_rng(3)
    small = Network.from_weights(
        [(rng.standard_normal((6, 4)), rng.standard_normal(6)), (rng.standard_normal((2, 6)), np.zeros(2))]
    )
    save(small, tmp_path / "small.npz")
    outputs = np.stack([small(rng.random(4)), np.full(2, 100.0)])
    np.save(tmp_path / "of.npy", outputs)
    result = CliRunner().invoke(
        app, ["inputs", f"{tmp_path}/small.npz", "--of", f"{tmp_path}/of.npy", "--out", f"{tmp_path}/x.npz"]
    )
    assert result.exit_code == 0
    assert "no input gives it, proved" in result.stdout
    with np.load(tmp_path / "x.npz") as found:
        assert found["found"].tolist() == [True, False]
        assert np.abs(small(found["x"][0]) - outputs[0]).max() < 1e-5
    for wrong in (["preimage", "examples/digits.onnx"], ["inputs", "examples/digits.onnx", "--of", "nowhere.npz"]):
        assert CliRunner().invoke(app, wrong).exit_code == 2


@pytest.mark.parametrize("given", [["a", "b"], "ab", [[1, 2], [3]], {"a": 1}, [1 + 2j] * 4])
def test_what_is_no_number_is_said_in_words(given: object) -> None:
    network = uv.Network.from_weights([(np.eye(4), np.zeros(4)), (np.ones((2, 4)), np.zeros(2))])
    value: Any = given
    x, box = np.full(4, 0.5), (0.0, 1.0)
    for ask in (
        lambda: uv.preimage(network, features=value),
        lambda: uv.preimage(network, features=x, near=value),
        lambda: uv.preimage(network, features=x, within=value),
        lambda: uv.preimage(network, value),
        lambda: uv.inputs_of(network, value, within=box),
        lambda: uv.inputs_of(network, network(x), within=value),
        lambda: uv.inputs_of(network, network(x), within=box, near=value),
        lambda: uv.linear_region(network, value),
        lambda: uv.stability(network, value),
        lambda: network(value),
    ):
        with pytest.raises(uv.BadInput):
            ask()


def test_no_output_within_the_tolerance_is_nearer_than_the_bound() -> None:
    """Also where no input gives the wanted output exactly: what is off by nearly the tolerance counts as well."""
    told = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, 7])
        sizes = [3, 4, 3, 4]
        layers = [(rng.standard_normal((q, p)), 0.3 * rng.standard_normal(q)) for p, q in pairwise(sizes)]
        network = Network.from_weights(layers)
        z, tolerance = rng.uniform(0, 1, 3), 1e-2
        y = network(z) + 0.98 * tolerance * rng.choice([-1.0, 1.0], 4)
        goal = np.clip(z + 0.05 * rng.standard_normal(3), 0, 1)
        found = inputs_of(network, y, near=goal, tolerance=tolerance)
        assert found.verdict == "found", seed
        assert found.bound is not None, seed
        assert found.distance is not None, seed
        assert found.bound <= np.abs(z - goal).sum() + 1e-9, seed
        assert found.bound <= found.distance + 1e-9, seed
        told += found.complete and found.bound > 1e-3
    assert told >= 20


@pytest.mark.parametrize(
    ("names", "settled"), [(("relu", "tanh"), 38), (("relu", "relu", "softplus"), 35), (("relu", "tanh", "elu"), 25)]
)
def test_what_is_said_behind_smooth_layers_holds_for_a_fine_grid(names: tuple[str, ...], settled: int) -> None:
    """No input of the grid is nearer to the output than `least`, nor nearer to the goal than `bound`."""
    grid, told = np.linspace(0, 1, 20001)[:, None], Counter[str]()
    for seed in range(40):
        rng = np.random.default_rng([seed, len(names)])
        sizes = [1, *rng.integers(2, 5, len(names))]
        parts = zip(sizes, sizes[1:], names, strict=False)
        network = Network(
            tuple(
                Layer(rng.standard_normal((q, p)), 0.3 * rng.standard_normal(q), activation(name))
                for p, q, name in parts
            )
        )
        y = network(rng.uniform(0, 1, (1, 1)))[0] + rng.choice([0.0, 0.02]) * rng.standard_normal(sizes[-1])
        near, tolerance = rng.uniform(0, 1, 1), 10 ** rng.uniform(-4, -1.5)
        found = inputs_of(network, y, near=near, tolerance=tolerance)
        told[found.verdict] += 1
        off = np.abs(network(grid) - y).max(axis=1)
        assert found.least <= off.min() + 1e-12, seed
        assert (found.verdict == "none") <= (off.min() > tolerance), seed
        if found.verdict == "none":
            assert found.check(), seed
        if found.bound is not None and (off <= tolerance).any():
            assert found.bound <= np.abs(grid - near)[off <= tolerance].min() + 1e-9, seed
    assert told["found"] + told["none"] >= settled, told
    assert told["none"] >= 5, told
