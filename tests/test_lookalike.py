"""Lookalikes and large changes against other solvers, brute force over linear regions, and the original model."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog, minimize

from tests.helpers import random_weights, torch_net
from unveil.outcome import BadInput
from unveil.whitebox.large_change import large_change
from unveil.whitebox.lookalike import MARGIN, lookalike
from unveil.whitebox.network import Network
from unveil.whitebox.polytope import Polytope, _alone, _nearest_inside, nearest


def _net(rng: np.random.Generator, *sizes: int, last: str = "identity") -> Network:
    return Network.from_weights(random_weights(sizes, rng, bias=0.3), last=last)


@pytest.mark.parametrize("norm", [1, 2])
def test_first_layer_agrees_with_another_solver(norm: int, rng: np.random.Generator) -> None:
    for _ in range(15):
        n = int(rng.integers(3, 9))
        network = _net(rng, n, int(rng.integers(2, 8)), last="relu")
        x, target = rng.random((2, n))
        found = lookalike(network, x, target, norm=norm)
        weights, bias = network.layers[0].weights, network.layers[0].bias
        before = weights @ x + bias
        on = before > 0
        top = np.maximum(-MARGIN * np.abs(weights[~on]).sum(axis=1), np.minimum(before[~on], 0)) - bias[~on]
        if norm == 1:
            eye = np.eye(n)
            rows = np.block([[eye, -eye], [-eye, -eye], [weights[~on], np.zeros_like(weights[~on])]])
            result = linprog(
                np.r_[np.zeros(n), np.ones(n)],
                A_ub=rows,
                b_ub=np.r_[target, -target, top],
                A_eq=np.hstack([weights[on], np.zeros_like(weights[on])]),
                b_eq=weights[on] @ x,
                bounds=[(0, 1)] * n + [(0, None)] * n,
                method="highs-ipm",
            )
            truth = result.fun
        else:
            result = minimize(
                lambda z, target=target: ((z - target) ** 2).sum(),
                x,
                jac=lambda z, target=target: 2 * (z - target),
                bounds=[(0, 1)] * n,
                constraints=[
                    {"type": "eq", "fun": lambda z, a=weights[on], b=weights[on] @ x: a @ z - b},
                    {"type": "ineq", "fun": lambda z, a=weights[~on], b=top: b - a @ z},
                ],
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            truth = np.sqrt(result.fun)
        assert found.distance == pytest.approx(truth, abs=2e-5)
        assert found.bound <= found.distance + 1e-9
        # (the margin moves the bound by its size times what it costs)
        assert found.distance - found.bound < 1e-4
        assert found.deviation < 1e-12
        assert found.z.min() >= 0
        assert found.z.max() <= 1
        np.testing.assert_allclose(network(found.z), network(x), atol=1e-12)


@pytest.mark.parametrize("norm", [1, 2])
def test_no_point_beats_the_bound(norm: int, rng: np.random.Generator) -> None:
    # Weak duality, against random points of the polytope: whatever the solver did.
    for _ in range(10):
        n, p, q = 8, 2, 6
        inside = rng.random(n)
        equal, below = rng.standard_normal((p, n)), rng.standard_normal((q, n))
        polytope = Polytope(equal, equal @ inside, below, below @ inside + 0.2, np.zeros(n), np.ones(n))
        target = rng.random(n)
        found = nearest(polytope, target, norm)
        assert polytope.violation(found.z) < 1e-9
        lines = np.linalg.svd(equal)[2][p:].T @ rng.standard_normal((n - p, 4000))
        points = inside[:, None] + lines * rng.random(4000) / np.linalg.norm(lines, axis=0)
        legal = (points >= 0).all(axis=0) & (points <= 1).all(axis=0)
        legal &= (polytope.below @ points <= polytope.ceiling[:, None]).all(axis=0)
        distances = np.linalg.norm(points[:, legal] - target[:, None], norm, axis=0)
        assert distances.min(initial=np.inf) >= found.bound - 1e-9


@pytest.mark.parametrize("norm", [1, 2])
def test_the_bound_holds_for_inputs_nearer_than_the_margin_allows(
    norm: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    closer = 0
    for _ in range(15):
        n = int(rng.integers(3, 9))
        network, (x, target) = _net(rng, n, int(rng.integers(2, 8)), last="relu"), rng.random((2, n))
        monkeypatch.setattr("unveil.whitebox.lookalike.MARGIN", 0.02)
        kept = lookalike(network, x, target, norm=norm)
        monkeypatch.setattr("unveil.whitebox.lookalike.MARGIN", 0.0)
        nearest_of_all = lookalike(network, x, target, norm=norm)
        assert kept.bound <= nearest_of_all.distance + 1e-9
        assert nearest_of_all.distance <= kept.distance + 1e-9
        closer += nearest_of_all.distance < kept.distance - 1e-4
    assert closer > 0


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e6])
def test_the_size_of_a_layer_changes_no_lookalike(norm: int, size: float, rng: np.random.Generator) -> None:
    for _ in range(6):
        n = int(rng.integers(3, 9))
        network, (x, target) = _net(rng, n, int(rng.integers(2, 8)), last="relu"), rng.random((2, n))
        first = network.layers[0]
        sized = Network.from_weights(
            [(size * first.weights, size * first.bias), *((each.weights, each.bias) for each in network.layers[1:])],
            last="relu",
        )
        one, other = lookalike(network, x, target, norm=norm), lookalike(sized, x, target, norm=norm)
        assert abs(one.distance - other.distance) < 1e-6
        assert abs(one.bound - other.bound) < 1e-6
        assert other.deviation <= 1e-9 * np.abs(sized.features(x, 0)).max()


@pytest.mark.parametrize("norm", [1, 2])
def test_what_layers_cancel_but_for_rounding_binds_nothing(norm: int, rng: np.random.Generator) -> None:
    for _ in range(6):
        n, times = 6, 3 + rng.random()
        row, other = rng.standard_normal((2, n))
        x, target = rng.random((2, n))
        first = (np.array([row, times * row, other]), np.full(3, 40.0))  # active everywhere
        network = Network.from_weights([first, (np.array([[1, -1 / times, 0], [0, 0, 1.0]]), np.ones(2))])
        alone = Network.from_weights([(other[None], np.ones(1))])
        found, wanted = lookalike(network, x, target, 1, norm=norm), lookalike(alone, x, target, norm=norm)
        assert abs(found.distance - wanted.distance) < 1e-6
        assert abs(found.bound - wanted.bound) < 1e-6


def _best_over_all_patterns(network: Network, x: np.ndarray, target: np.ndarray) -> float:
    """Nearest in the 1-norm with x's features after layer 1, by one linear programme per pattern of layer 0."""
    (w0, b0), (w1, b1) = ((each.weights, each.bias) for each in network.layers[:2])
    values = network.preactivations(x)[1][0]
    n, best = network.n, np.inf
    for pattern in product((0.0, 1.0), repeat=len(b0)):
        d = np.array(pattern)
        sign = np.where(d > 0, -1.0, 1.0)[:, None]
        matrix, offset = w1 * d @ w0, w1 @ (d * b0) + b1
        eye, on = np.eye(n), values > 0
        below = np.vstack([sign * w0, matrix[~on]])
        rows = np.block([[eye, -eye], [-eye, -eye], [below, np.zeros_like(below)]])
        result = linprog(
            np.r_[np.zeros(n), np.ones(n)],
            A_ub=rows,
            b_ub=np.r_[target, -target, -sign[:, 0] * b0, -offset[~on]],
            A_eq=np.hstack([matrix[on], np.zeros_like(matrix[on])]),
            b_eq=values[on] - offset[on],
            bounds=[(0, 1)] * n + [(0, None)] * n,
        )
        if result.status == 0:
            best = min(best, result.fun)
    return best


def test_deeper_features_stay_and_crossing_regions_helps(rng: np.random.Generator) -> None:
    reached = crossed = helped = 0
    for _ in range(25):
        network = _net(rng, 4, 6, 2, 2)
        x, target = rng.random((2, 4))
        inside, found = (lookalike(network, x, target, layer=1, moves=moves) for moves in (0, 20))
        truth = _best_over_all_patterns(network, x, target)
        assert found.deviation < 1e-10
        assert truth - 1e-6 <= found.distance <= inside.distance + 1e-9
        reached += found.distance < truth + 1e-4
        crossed += found.moves > 0
        helped += found.distance < inside.distance - 1e-4
    print(f"{reached} of 25 the nearest of all regions, {crossed} crossed regions, {helped} came nearer by it")
    assert reached >= 15
    assert helped >= 8


def test_large_changes_stay_within_epsilon_and_below_the_truth(rng: np.random.Generator) -> None:
    reached = 0
    for _ in range(15):
        network = _net(rng, 3, 5, 2)
        x, epsilon = rng.random(3), 0.05
        found = large_change(network, x, epsilon)
        assert found.difference <= epsilon + 1e-9
        assert found.z.min() >= 0
        assert found.z.max() <= 1
        grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 41)] * 3), axis=-1).reshape(-1, 3)
        close = np.abs(network.logits(grid) - network.logits(x)).max(axis=1) <= epsilon
        truth = np.abs(grid[close] - x).sum(axis=1).max(initial=0.0)
        assert found.change <= found.most + 1e-9
        reached += found.change >= truth - 0.1
    print(f"{reached} of 15 as far as a grid of 41 points a side")
    assert reached >= 9


def test_the_original_model_agrees(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    weights = random_weights((30, 20, 12, 4), rng, bias=0.2, dtype=np.float32)
    module = torch_net(weights)
    network = Network.from_weights(weights)

    def model(x: np.ndarray) -> np.ndarray:
        return np.asarray(module(torch.tensor(x, dtype=torch.float32)).detach().numpy())

    x, target = rng.random((2, 30))
    for layer in (0, 1, 2):
        found = lookalike(network, x, target, layer=layer)
        answer = found.check(model)
        assert answer.difference < 2e-6
        assert answer.predictions[0] == answer.predictions[1]
        assert found.distance < found.start
    change = large_change(network, x, 0.1)
    assert change.check(model) < 0.1 + 2e-6


def test_leaky_relu_keeps_what_its_rank_keeps(rng: np.random.Generator) -> None:
    weights = random_weights((6, 3, 3), rng, bias=0.2)
    network = Network.from_weights(weights, activation="leaky_relu")
    x, target = rng.random((2, 6))
    for layer in (0, 1):
        found = lookalike(network, x, target, layer=layer)
        assert found.deviation < 1e-12
        assert found.distance < found.start


def test_third_party_network_in_float32(data: object) -> None:
    from papers.data import mnist_test, network
    from unveil import as_oracle, load

    path = str(network("mnist-net_256x2.onnx"))
    oracle, weights = as_oracle(path, within=(0, 1)), load(path)
    images = mnist_test().flat()[:3]
    for norm in (1, 2):
        found = lookalike(weights, images[0], images[1], norm=norm)
        answer = found.check(lambda x: oracle(oracle.nearest(x)))
        assert answer.difference < 4e-7
        assert found.distance < 0.9 * found.start


def test_bad_input_is_named(rng: np.random.Generator) -> None:
    network = _net(rng, 3, 4, 2)
    x = np.full(3, 0.5)
    with pytest.raises(BadInput, match="x lies outside the box in 1 of 3 coordinates"):
        lookalike(network, np.array([0.5, 2, 0.5]), x)
    with pytest.raises(BadInput, match="target lies outside"):
        lookalike(network, x, x + 1)
    with pytest.raises(BadInput, match="one input; got 2"):
        lookalike(network, np.stack([x, x]), x)
    with pytest.raises(BadInput, match="no layer 7"):
        lookalike(network, x, x, layer=7)
    with pytest.raises(BadInput, match="norm must be 1 or 2"):
        lookalike(network, x, x, norm=3)
    with pytest.raises(BadInput, match="beyond layer 0 this needs"):
        lookalike(Network.from_weights(random_weights((3, 4, 2), rng), activation="tanh"), x, x, layer=1)
    with pytest.raises(BadInput, match="epsilon"):
        large_change(network, x, -1.0)


def test_the_command_asks_the_file() -> None:
    import json

    from typer.testing import CliRunner

    from unveil.cli import app

    given = ["lookalike", "examples/digits.onnx", "--inputs", "examples/digits.npz", "--x", "0", "--json"]
    result = CliRunner().invoke(app, [*given, "--target", "20", "--norm", "2"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["asked"] == "the file"
    assert told["difference"] < 1e-4
    assert told["distance"] < told["start"]
    assert told["predictions"][0] == told["predictions"][1] != told["predictions"][2]
    assert CliRunner().invoke(app, [*given, "--target", "900"]).exit_code == 2
    itself = CliRunner().invoke(app, [*given, "--target", "0"])
    assert itself.exit_code == 2
    assert "look like itself" in itself.stderr


def test_the_audit_tells_what_features_forget() -> None:
    from unveil import as_oracle
    from unveil.audit.run import run
    from unveil.audit.sections.forgetting import FORGETTING
    from unveil.audit.stage import Audit

    oracle = as_oracle("examples/digits.onnx", within=(0, 1))
    with np.load("examples/digits.npz") as digits:
        inputs = oracle.nearest(digits["images"].astype(float))
    page = run(Audit(oracle, inputs=inputs, path="examples/digits.onnx"), [FORGETTING])
    told = page.all_figures()["forgetting"]
    assert [layer["kinds"]["infinite"] for layer in told["layers"]] == [40] * 5
    assert told["lookalikes"]["difference"] < 1e-4
    assert page.html().count('<div class="specimen three">') == 4
    assert "its weights were used" in page.html()
    # Where weights are not in hand, whoever asked to look at them is told so, and likewise what a file holds instead.
    closed = Audit(as_oracle(lambda x: x.sum(axis=1), 3), inputs=np.zeros((1, 3)))
    assert "not in hand" in run(closed, [FORGETTING]).html()
    closed.findings["weights_refused"] = "node MaxPool"
    assert "cannot be used: node MaxPool" in run(closed, [FORGETTING]).html()


def test_the_audit_looks_inside_of_what_normalises_first() -> None:
    from unveil import Affine, as_oracle, load
    from unveil.audit.sections.forgetting import known_network, look_alike
    from unveil.audit.stage import Audit

    mean, deviation = np.linspace(-0.3, 0.3, 784), np.linspace(0.4, 2.5, 784)
    oracle = Affine(as_oracle("examples/digits.onnx"), mean, deviation, within=(0, 1))
    audit = Audit(oracle, path="examples/digits.onnx")
    known = known_network(audit)
    assert known is not None
    with np.load("examples/digits.npz") as digits:
        x = oracle.nearest(digits["images"].astype(float))
    np.testing.assert_allclose(known(x), load("examples/digits.onnx")((x - mean) / deviation), atol=1e-12)
    pairs = look_alike(audit, known, x)
    assert pairs
    assert all(answer.difference < 1e-4 for _, answer in pairs)


def test_the_audit_shows_no_lookalikes_where_features_forget_nothing() -> None:
    from unveil import as_oracle
    from unveil.audit.sections.forgetting import look_alike
    from unveil.audit.stage import Audit

    wide = Network.from_weights([(np.r_[np.eye(3), -np.eye(3)], np.zeros(6)), (np.eye(6)[:2], np.zeros(2))])
    oracle = as_oracle(wide.logits, shape=3, within=(0, 1))
    assert look_alike(Audit(oracle), wide, np.array([[0.2, 0.8, 0.5], [0.9, 0.1, 0.5]])) == []


@pytest.mark.parametrize("norm", [1, 2])
def test_an_interior_point_method_finds_what_the_others_find(norm: int, rng: np.random.Generator) -> None:
    for _ in range(4):
        n, p, q = 20, 6, 40
        inside = np.clip(rng.random(n), 0.1, 0.9)
        inside[:3] = (0.0, 1.0, 0.0)  # on walls of the box, as pixels are
        equal, below = rng.standard_normal((p, n)), rng.standard_normal((q, n))
        room = rng.random(q) * (rng.random(q) > 0.2)  # and on walls of the region
        rows = sparse.csr_array(equal), equal @ inside, sparse.csr_array(below), below @ inside + room
        polytope = Polytope(*rows, np.zeros(n), np.ones(n), inside=inside)
        target = rng.random(n)
        found, other = _nearest_inside(polytope, target, norm), nearest(polytope, target, norm)
        assert polytope.violation(found.z) < 1e-9
        assert found.bound <= other.value + 1e-9
        assert other.value - 1e-9 <= found.value <= other.value * (1 + 1e-4) + 1e-6
        assert found.value - found.bound < 1e-4 * found.value + 1e-6


@pytest.mark.parametrize("norm", [1, 2])
def test_equations_that_determine_the_point_leave_nothing_else(norm: int, rng: np.random.Generator) -> None:
    n, inside, target = 12, rng.random(12), rng.random(12)
    equal, below = rng.standard_normal((30, n)), rng.standard_normal((9, n))
    rows = sparse.csr_array(equal), equal @ inside, sparse.csr_array(below), below @ inside + 0.1
    found = _alone(Polytope(*rows, np.zeros(n), np.ones(n), inside=inside), target, norm)
    assert found is not None
    assert (found.z == inside).all()
    assert found.bound == pytest.approx(np.linalg.norm(inside - target, norm), rel=1e-9)
    equal[:, 0] = equal[:, 1]  # now one direction is free
    rows = sparse.csr_array(equal), equal @ inside, *rows[2:]
    assert _alone(Polytope(*rows, np.zeros(n), np.ones(n), inside=inside), target, norm) is None
