"""Every way of asking, held to the model asked directly; odd and hostile models end in one clear error."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unveil as uv
from tests.helpers import random_weights, relu_gradients, relu_net, torch_net


def softmax(z: np.ndarray) -> np.ndarray:
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


# what the first look sees


def test_first_look_costs_eight_queries_of_four_points(rng: np.random.Generator) -> None:
    asked = []
    oracle = uv.as_oracle(lambda x: asked.append(x.copy()) or x.sum(1) * 1.1, 3, within=(2, 3), grid=0.01)
    assert [len(x) for x in asked] == [4, 1, 3]
    assert np.array_equal(asked[0], np.concatenate([asked[1], asked[2][::-1]]))
    assert len(np.unique(asked[0], axis=0)) == 4
    assert asked[0].min() >= 2
    assert asked[0].max() <= 3
    assert oracle.ledger.asked == oracle.ledger.sent == 8


def test_inputs_that_a_model_rounds_to_float32_are_found_out(rng: np.random.Generator) -> None:
    found = []
    for within in [None, (0.0, 1.0)] * 10:
        n = int(rng.integers(2, 40))
        net = relu_net(random_weights([n, 8, 2], rng))
        rounded = lambda x, net=net: net(x.astype(np.float32).astype(np.float64))  # noqa: E731
        assert uv.as_oracle(net, n, within=within).dtype == np.float64
        oracle = uv.as_oracle(rounded, n, within=within)
        assert oracle.ledger.asked == 8
        found.append(oracle.dtype == np.float32)
    assert sum(found) >= 17  # where no neuron is active at the one point nothing shows


def test_the_first_look_measures_noise_from_all_four_points(rng: np.random.Generator) -> None:
    model = lambda x: x.sum(axis=1) + 0.1 * rng.standard_normal(len(x))  # noqa: E731
    noise = [uv.as_oracle(model, 3, noisy=True).noise for _ in range(400)]
    assert np.mean(np.square(noise)) == pytest.approx(0.01, rel=0.2)


def test_the_span_of_a_model_that_rounds_its_inputs_is_complete(rng: np.random.Generator) -> None:
    complete = 0
    for _ in range(6):
        weights = random_weights([20, 5, 2], rng)
        net = relu_net(weights)
        span = uv.row_span(uv.as_oracle(lambda x, net=net: net(x.astype(np.float32).astype(float)), 20), rng=rng)
        complete += span.outcome is uv.Outcome.complete
        if span.outcome is uv.Outcome.complete:
            assert span.rank == 5
            assert span.distance(weights[0][0]) <= span.accuracy
    assert complete >= 4


@pytest.mark.parametrize(
    ("f", "m", "answers", "dtype", "low", "high"),
    [
        (lambda x: x @ np.full((5, 3), 0.3), 3, "values", "float64", 2e-16, 3e-16),
        (lambda x: x.sum(axis=1) * 0.3, 1, "values", "float64", 2e-16, 3e-16),
        (lambda x: x.astype("f4").sum(axis=1), 1, "values", "float32", 1e-7, 2e-7),
        # computed in float32, handed over in float64
        (lambda x: x.astype("f4").sum(axis=1).astype("f8"), 1, "values", "float32", 1e-7, 2e-7),
        (lambda x: x.astype("f2"), 5, "values", "float32", 9e-4, 1e-3),
        (lambda x: np.round(x[:, :2], 4), 2, "values", "float64", 1e-5, 1e-4),
        (lambda x: np.round(1000 * x[:, :2], 1), 2, "values", "float64", 1e-5, 1e-3),
        (lambda x: np.round(x[:, :2].astype("f4"), 2), 2, "values", "float32", 1e-3, 1e-2),
        # too little to tell: constants are not rounded
        (lambda x: np.full((len(x), 2), 0.75), 2, "values", "float64", 2e-16, 3e-16),
        (lambda x: np.zeros(len(x)), 1, "values", "float64", 2e-16, 3e-16),
        (lambda x: np.argmax(x, axis=1), 1, "labels", "float64", 2e-16, 3e-16),
        (lambda x: x[:, 0] > 0, 1, "labels", "float64", 2e-16, 3e-16),
        (lambda x: np.where(x[:, 0] > 0, "cat", "dog"), 1, "labels", "float64", 2e-16, 3e-16),
        (lambda x: [["cat"] if row[0] > 0 else ["dog"] for row in x], 1, "labels", "float64", 2e-16, 3e-16),
        (lambda x: np.round(x).astype(int), 5, "values", "float64", 0.1, 1.0),
    ],
)
def test_first_look(f: Callable[..., Any], m: int, answers: str, dtype: str, low: float, high: float) -> None:
    oracle = uv.as_oracle(f, 5)
    assert (oracle.m, oracle.answers, oracle.dtype) == (m, answers, np.dtype(dtype))
    assert low < oracle.resolution < high


@pytest.mark.parametrize("digits", [None, 2, 3, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m", [2, 10, 1000])
def test_probabilities_are_recognised(digits: int | None, dtype: str, m: int) -> None:
    def f(x: np.ndarray) -> np.ndarray:
        p = softmax(x @ np.random.default_rng(0).standard_normal((5, m)) / (100 if digits is None else 1)).astype(dtype)
        return p if digits is None else np.round(p, digits)

    assert isinstance(uv.as_oracle(f, 5), uv.LogRatios)


def test_positive_values_are_no_probabilities(rng: np.random.Generator) -> None:
    net = relu_net(random_weights([5, 8, 4], rng))
    assert isinstance(uv.as_oracle(lambda x: np.abs(net(x)), 5), uv.Oracle)
    assert uv.as_oracle(lambda x: np.abs(net(x)), 5).reference is None
    assert uv.as_oracle(lambda x: softmax(x), 5, answers="values").reference is None


def test_class_names_keep_their_number_whatever_came_first() -> None:
    names = np.array(["ant", "bee", "cat", "dog"])
    x = np.repeat(np.eye(4), 2, axis=0)
    first = uv.as_oracle(lambda x: names[x.argmax(axis=1)], 4)
    second = uv.as_oracle(lambda x: names[x.argmax(axis=1)].astype(object), 4)
    a, b = first(x), second(x[::-1])[::-1]
    assert np.array_equal(a, b)
    assert first.classes is not None
    assert [first.classes[int(v)] for v in a[:, 0]] == [n for n in names for _ in range(2)]


def test_labels_given_as_whole_numbers_in_floating_point() -> None:
    oracle = uv.as_oracle(lambda x: (x[:, 0] > 0) * 1.0, 2, answers="labels")
    assert oracle(np.array([[1.0, 0], [-1, 0]])).tolist() == [[1], [0]]
    assert oracle(np.array([[1.0, 0]])).dtype == np.int64


# answers that cannot be used


def late(bad: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    """Well during the first look, bad afterwards."""
    turn = itertools.count()
    return lambda x: x[:, :2] * 1.1 if next(turn) < 3 else bad(x)


BAD_ANSWERS = {
    "nan": lambda x: x[:, :2] * np.nan,
    "infinite": lambda x: x[:, :2] * np.inf,
    "one row for all": lambda x: np.ones(7),
    "a number for all": lambda x: 3.0,
    "rows missing": lambda x: x[:-1, :2],
    "nothing": lambda x: None,
    "no outputs": lambda x: x[:, :0],
    "complex": lambda x: x[:, :2] * 1j,
    "objects": lambda x: np.array([[{}, {}]] * len(x)),
    "ragged": lambda x: [[1.0] * (i + 1) for i in range(len(x))],
    "raises": lambda x: {}["missing"],
    "memory": lambda x: np.empty((len(x), 2**60)),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_unusable_answers_are_found_at_once(kind: str) -> None:
    with pytest.raises(uv.SourceError) as told:
        uv.as_oracle(BAD_ANSWERS[kind], 3)
    assert "lambda" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_unusable_answers_are_found_later(kind: str) -> None:
    oracle = uv.as_oracle(late(BAD_ANSWERS[kind]), 3)
    with pytest.raises(uv.SourceError):
        oracle(np.ones((5, 3)))
    assert oracle.ledger.asked == oracle.ledger.sent == 13


def test_what_a_model_raises_is_kept_as_the_cause() -> None:
    with pytest.raises(uv.SourceError, match="KeyError") as told:
        uv.as_oracle(BAD_ANSWERS["raises"], 3)
    assert isinstance(told.value.__cause__, KeyError)


def test_interrupts_pass() -> None:
    def stop(x: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        uv.as_oracle(stop, 3)


def test_several_labels_per_question() -> None:
    with pytest.raises(uv.SourceError, match="one"):
        uv.as_oracle(lambda x: np.where(x > 0, "yes", "no"), 3)


def test_unsteady_answers(rng: np.random.Generator) -> None:
    def unsteady(x: np.ndarray) -> np.ndarray:
        return x.sum(axis=1) + 1e-3 * rng.standard_normal(len(x))

    with pytest.raises(uv.UnsteadyAnswers, match="noisy=True"):
        uv.as_oracle(unsteady, 3)
    assert 1e-5 < uv.as_oracle(unsteady, 3, noisy=True).resolution < 1e-2


def test_unsteady_labels(rng: np.random.Generator) -> None:
    turn = itertools.count()
    with pytest.raises(uv.UnsteadyAnswers, match="noisy=True"):
        uv.as_oracle(lambda x: np.full(len(x), next(turn)), 3)
    uv.as_oracle(lambda x: np.full(len(x), next(turn)), 3, noisy=True)


def test_unsteady_number_of_outputs() -> None:
    turn = itertools.count(1)
    with pytest.raises(uv.UnsteadyAnswers, match="number of outputs"):
        uv.as_oracle(lambda x: np.ones((len(x), next(turn))), 3)


@pytest.mark.parametrize("size", [10, 300])
def test_a_function_may_write_into_its_input_and_reuse_its_buffer(size: int, rng: np.random.Generator) -> None:
    buffer = np.zeros((300, 2))

    def rude(x: np.ndarray) -> np.ndarray:
        buffer[: len(x)] = x[:, :2] * 1.1
        x[:] = np.nan
        return buffer[: len(x)]

    oracle = uv.as_oracle(rude, 3)
    x = oracle.sample(size, rng)
    kept = x.copy()
    y = oracle(x)
    oracle(oracle.sample(size, rng))
    assert np.array_equal(x, kept)
    assert np.array_equal(y, kept[:, :2] * 1.1)


def test_a_function_that_writes_into_its_input_only_later() -> None:
    def sly(x: np.ndarray) -> np.ndarray:
        if len(x) > 100:
            x[:] = 0
        return x.sum(axis=1) * 1.1

    oracle = uv.as_oracle(sly, 3)
    with pytest.raises(uv.SourceError, match="copy"):
        oracle(np.ones((200, 3)))


def test_inputs_get_the_model_s_own_shape() -> None:
    shapes = []
    oracle = uv.as_oracle(lambda x: shapes.append(x.shape) or x.sum(axis=(1, 2, 3)), (1, 4, 5))
    assert oracle.n == 20
    assert shapes == [(count, 1, 4, 5) for count in (4, 1, 3)]


def test_a_file_of_python_is_told_how_its_function_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("def predict(x):\n    return x\n")
    with pytest.raises(uv.BadInput, match=r"model\.py:predict"):
        uv.as_oracle(str(path), shape=3)


@pytest.mark.parametrize("thing", [3, None, "net.pkl", "net.npz", "net", b"x", [1, 2], {}])
def test_what_cannot_be_asked(thing: object) -> None:
    with pytest.raises(uv.BadInput):
        uv.as_oracle(thing, 3)


# torch


@pytest.mark.parametrize("double", [False, True])
def test_torch(double: bool, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    weights = random_weights([6, 8, 5], rng, bias=1.0, dtype=np.float64 if double else np.float32)
    module = torch_net(weights)
    oracle = uv.as_oracle(module)
    assert oracle.dtype == (np.float64 if double else np.float32)
    x = oracle.sample(40, rng)
    with torch.no_grad():
        truth = module(torch.tensor(x, dtype=torch.float64 if double else torch.float32)).numpy()
    assert np.abs(oracle(x) - truth).max() <= (1e-14 if double else 1e-6)
    # In float64, differences meet autograd's gradient to the last digits that a difference has.
    if double:
        step = 1e-6
        one = oracle(np.concatenate([x[:1] + step * np.eye(6), x[:1] - step * np.eye(6)]))
        gradient = torch.autograd.functional.jacobian(module, torch.tensor(x[0]))
        assert np.abs((one[:6] - one[6:]).T / (2 * step) - gradient.numpy()).max() < 1e-8
        assert np.abs(relu_gradients(weights, x[:1])[0] - gradient.numpy()).max() < 1e-14


def test_torch_module_is_left_as_it_was(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5))
    module[1].eval()
    module[0].weight.requires_grad_(True)
    before = [part.training for part in module.modules()]
    state = {key: value.clone() for key, value in module.state_dict().items()}
    oracle = uv.as_oracle(module)  # dropout would make it unsteady
    oracle(oracle.sample(3, rng))
    assert [part.training for part in module.modules()] == before
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert module[0].weight.grad is None
    assert oracle.fingerprint() == uv.as_oracle(module).fingerprint()


def test_torch_convolution_needs_a_shape(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.ReLU())
    with pytest.raises(uv.BadInput, match="shape="):
        uv.as_oracle(module)
    assert uv.as_oracle(module, (1, 6, 6)).m == 32
    with pytest.raises(uv.SourceError, match="RuntimeError"):
        uv.as_oracle(module, (3, 6, 6))


def test_torch_softmax_is_undone(rng: np.random.Generator) -> None:
    pytest.importorskip("torch")
    weights = random_weights([6, 8, 5], rng, bias=1.0)
    oracle = uv.as_oracle(torch_net(weights, softmax=True))
    x = oracle.sample(20, rng)
    assert np.abs(oracle.probabilities(oracle(x)) - softmax(relu_net(weights)(x))).max() < 1e-14


def test_torch_answers_that_are_no_tensor() -> None:
    torch = pytest.importorskip("torch")

    class Pair(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return [[1.0] * 3] * len(x)

    with pytest.raises(uv.SourceError, match="list"):
        uv.as_oracle(Pair(), 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_files_are_asked_and_pickles_are_not_opened(tmp_path: Path, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    weights = random_weights([6, 8, 5], rng)
    module = torch_net(weights)
    torch.jit.trace(module, torch.zeros(1, 6, dtype=torch.float64)).save(str(tmp_path / "net.pt"))
    oracle = uv.as_oracle(str(tmp_path / "net.pt"), 6)
    x = oracle.sample(20, rng)
    assert np.abs(oracle(x) - relu_net(weights)(x)).max() < 1e-14
    proof = tmp_path / "opened"
    torch.save(Trap(proof), tmp_path / "trap.pt")
    (tmp_path / "noise.pt").write_bytes(rng.bytes(1000))
    for name in ("trap.pt", "noise.pt", "missing.pt"):
        with pytest.raises(uv.SourceError, match="TorchScript"):
            uv.as_oracle(tmp_path / name, 6)
    assert not proof.exists()


class Trap:
    """Leaves a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


# scikit-learn


@pytest.fixture
def points(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x = rng.standard_normal((120, 4))
    return x, np.array(["ant", "bee", "cat"])[(x[:, 0] > 0) * 1 + (x[:, 1] > 0)]


def test_sklearn_classifier(points: tuple[np.ndarray, np.ndarray]) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = points
    model = linear.LogisticRegression().fit(x, y)
    oracle = uv.as_oracle(model)
    assert isinstance(oracle, uv.LogRatios)
    z = model.decision_function(x)
    r = oracle.reference
    assert r is not None
    assert np.abs(oracle(x) - (np.delete(z, r, axis=1) - z[:, [r]])).max() < 1e-12
    assert np.array_equal(uv.as_oracle(model, answers="values")(x), z)
    labels = uv.as_oracle(model, answers="labels")
    assert labels.classes == {0: "ant", 1: "bee", 2: "cat"}
    assert [labels.classes[int(v)] for v in labels(x)[:, 0]] == model.predict(x).tolist()
    assert np.array_equal(oracle.predictions(oracle(x)), labels(x)[:, 0])


@pytest.mark.filterwarnings("ignore:Stochastic")
def test_sklearn_regressor_pipeline_and_margin(points: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("sklearn")
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    x, y = points
    net = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(5,), max_iter=300)).fit(x, x[:, :2])
    oracle = uv.as_oracle(net)
    assert oracle.m == 2
    assert np.array_equal(oracle(x), net.predict(x))
    margin = LinearSVC().fit(x, y)
    assert np.array_equal(uv.as_oracle(margin)(x), margin.decision_function(x))
    with pytest.raises(uv.BadInput, match="predict_proba"):
        uv.as_oracle(margin, answers="probabilities")


def test_sklearn_not_fitted() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    with pytest.raises(uv.BadInput, match="fit"):
        uv.as_oracle(linear.LinearRegression())
