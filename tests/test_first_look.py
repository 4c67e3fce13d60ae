"""What the first look tells of an unknown model, and that it says nothing of ordinary ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

import unveil as uv
from tests.helpers import random_weights, relu_net
from unveil.audit.run import run
from unveil.audit.stage import Audit
from unveil.audit.stages import STAGES
from unveil.blackbox.sources.sklearn import SklearnSource
from unveil.cli.options import Asking


def network(rng: np.random.Generator, sizes: tuple[int, ...] = (6, 9, 4)) -> Any:
    return relu_net(random_weights(list(sizes), rng, bias=1.0))


def brain(x: np.ndarray, bits: int) -> np.ndarray:
    """Rounded to so many bits of mantissa."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)


# company


def test_batch_statistics_are_refused() -> None:
    W = np.random.default_rng(0).standard_normal((3, 12))
    for f in (
        lambda x: np.tanh((x - x.mean(0)) / (x.std(0) + 1e-12) @ W.T),
        lambda x: np.tanh(x / np.abs(x).max() @ W.T),
        lambda x: np.cumsum(x @ W.T, axis=0),
        lambda x: x @ W.T + 1e-3 * len(x),
    ):
        with pytest.raises(uv.UnsteadyAnswers, match="which others are asked with it"):
            uv.as_oracle(f, 12)


def test_labels_that_depend_on_company_are_refused() -> None:
    with pytest.raises(uv.UnsteadyAnswers, match="which others are asked with it"):
        uv.as_oracle(lambda x: np.argsort(np.argsort(x[:, 0])), 3, answers="labels")


def test_batch_norm_in_train_mode_is_refused_and_in_eval_mode_is_not() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2))

    def ask(x: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(x).float()).detach().numpy()

    net.train()
    with pytest.raises(uv.UnsteadyAnswers, match="alone"):  # torch itself refuses a batch of one
        uv.as_oracle(ask, 6)
    uv.as_oracle(net)  # a module is asked in eval mode
    net.eval()
    uv.as_oracle(ask, 6)
    stateless = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8, track_running_stats=False))
    with pytest.raises(uv.UnsteadyAnswers):
        uv.as_oracle(stateless)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_another_order_of_summation_is_no_company(dtype: Any, rng: np.random.Generator) -> None:
    net = network(rng, (40, 60, 3))

    def flipped(x: np.ndarray) -> np.ndarray:
        y = net(x).astype(dtype)
        return (y + (1e3 * np.finfo(dtype).eps * np.abs(y).max() * rng.standard_normal(y.shape))).astype(dtype)

    oracle = uv.as_oracle(flipped, 40)
    # What company changes is part of what answers can be trusted to.
    assert oracle.resolution > 50 * np.finfo(dtype).eps
    assert oracle.unchanged()


# sorted scores, whole numbers, probabilities, noise, steps


@pytest.mark.parametrize("m", [5, 20])
@pytest.mark.parametrize("falling", [True, False])
def test_sorted_scores_are_positions(m: int, falling: bool, rng: np.random.Generator) -> None:
    net = network(rng, (6, 12, m))

    def ranked(x: np.ndarray) -> np.ndarray:
        p = np.sort(special.softmax(net(x), axis=1), axis=1)
        return p[:, ::-1] if falling else p

    oracle = uv.as_oracle(ranked, 6)
    assert oracle.ordered == ("falling" if falling else "rising")
    y = oracle(oracle.sample(3, rng))
    for verb in (oracle.predictions, oracle.probabilities):
        with pytest.raises(uv.BadInput, match="positions, not classes"):
            verb(y)
    for refused in (lambda: uv.LabelsOnly(oracle), lambda: uv.as_oracle(ranked, 6, answers="labels")):
        with pytest.raises(uv.BadInput, match="sorted"):
            refused()
    oracle.ordered = ""
    oracle.predictions(y)


def test_three_sorted_scores_are_found_or_suspected(rng: np.random.Generator) -> None:
    found = 0
    for _ in range(30):
        net = network(rng, (6, 12, 3))
        oracle = uv.as_oracle(lambda x: np.sort(net(x), axis=1), 6)  # noqa: B023
        found += oracle.ordered == "rising"
        assert any("sorted" in note for note in oracle.notes)
    assert found >= 18


def test_outputs_with_levels_of_their_own_are_classes(rng: np.random.Generator) -> None:
    net = network(rng, (6, 12, 4))
    oracle = uv.as_oracle(lambda x: net(x) + 1000 * np.arange(4), 6)
    assert oracle.ordered == ""
    assert any("all 256 questions" in note for note in oracle.notes)
    oracle.predictions(oracle(oracle.sample(3, rng)))
    for _ in range(40):
        levels = rng.normal(0, 6, 3)
        free = network(rng, (6, 12, 3))
        assert uv.as_oracle(lambda x: special.softmax(free(x) + levels, axis=1), 6).ordered == ""  # noqa: B023


def test_counts_are_values_and_classes_are_labels(rng: np.random.Generator) -> None:
    w = rng.standard_normal(5)

    def counts(x: np.ndarray) -> np.ndarray:
        return np.floor(300 * np.exp(0.5 * np.tanh(x @ w))).astype(int)

    with pytest.warns(UserWarning, match="answers='labels'"):
        oracle = uv.as_oracle(counts, 5)
    assert (oracle.answers, oracle.step) == ("values", 1)
    W = rng.standard_normal((1000, 5))
    with pytest.warns(UserWarning, match="answers='values'"):
        assert uv.as_oracle(lambda x: (x @ W[:7].T).argmax(axis=1), 5).answers == "labels"
    with pytest.warns(UserWarning, match="answers='values'"):
        assert uv.as_oracle(lambda x: (x @ W.T).argmax(axis=1), 5).answers == "labels"
    assert uv.as_oracle(counts, 5, answers="labels").answers == "labels"
    assert uv.as_oracle(lambda x: (x @ W[:7].T).argmax(axis=1), 5, answers="values").answers == "values"


def test_one_probability_is_named_and_asked_as_a_logit(rng: np.random.Generator) -> None:
    w = rng.standard_normal(5)
    oracle = uv.as_oracle(lambda x: special.expit(x @ w), 5)
    assert any("answers='probabilities'" in note for note in oracle.notes)
    logit = uv.as_oracle(lambda x: special.expit(x @ w), 5, answers="probabilities")
    x = logit.sample(50, rng)
    assert np.abs(logit(x)[:, 0] - x @ w).max() < 1e-11
    assert not any("saturated" in note for note in logit.notes)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_probability_may_be_a_last_bit_above_one(dtype: Any, rng: np.random.Generator) -> None:
    W = rng.standard_normal((3, 5)) * 100

    def above(x: np.ndarray) -> np.ndarray:
        return np.nextafter(special.softmax(x @ W.T, axis=1).astype(dtype), dtype(2))

    oracle = uv.as_oracle(above, 5)
    assert isinstance(oracle, uv.LogRatios)
    assert np.isfinite(oracle(oracle.sample(50, rng))).all()


@pytest.mark.parametrize("m", [1, 3])
def test_saturated_answers_are_said_to_be(m: int, rng: np.random.Generator) -> None:
    W = 1e4 * rng.standard_normal((m, 5))

    def sure(x: np.ndarray) -> np.ndarray:
        z = (x @ W.T).astype(np.float32)
        return special.expit(z) if m == 1 else special.softmax(z, axis=1)

    for answers in ("auto", "probabilities"):
        assert any("saturated" in note for note in uv.as_oracle(sure, 5, answers=answers).notes)


def test_noisy_answers_report_signal_to_noise(rng: np.random.Generator) -> None:
    w = rng.standard_normal((5, 8))
    for noise in (1e-3, 0.3, 30.0):
        oracle = uv.as_oracle(lambda x: x @ w + noise * rng.standard_normal((len(x), 8)), 5, noisy=True)  # noqa: B023
        assert 0.5 < oracle.noise / noise < 2
        assert oracle.signal_to_noise == pytest.approx(oracle.signal / oracle.noise)
        assert any("signal to noise" in note for note in oracle.notes)
        assert any("hides" in note for note in oracle.notes) == (oracle.signal_to_noise < 10)
    assert uv.as_oracle(lambda x: x @ w, 5).signal_to_noise == np.inf


def test_trees_and_neighbours_are_known_to_answer_in_steps(rng: np.random.Generator) -> None:
    ensemble, linear_model = pytest.importorskip("sklearn.ensemble"), pytest.importorskip("sklearn.linear_model")
    neighbors, pipeline = pytest.importorskip("sklearn.neighbors"), pytest.importorskip("sklearn.pipeline")
    preprocessing, tree = pytest.importorskip("sklearn.preprocessing"), pytest.importorskip("sklearn.tree")
    x, t = rng.standard_normal((80, 4)), rng.integers(0, 2, 80)
    for estimator in (
        tree.DecisionTreeRegressor(max_depth=3),
        ensemble.RandomForestClassifier(5),
        ensemble.GradientBoostingRegressor(n_estimators=5),
        ensemble.HistGradientBoostingClassifier(max_iter=3),
        neighbors.KNeighborsClassifier(3),
        pipeline.make_pipeline(preprocessing.StandardScaler(), ensemble.ExtraTreesClassifier(5)),
    ):
        oracle = uv.as_oracle(estimator.fit(x, t))
        assert oracle.in_steps
        assert "in steps" in oracle.notes[-1]
    assert SklearnSource(linear_model.LogisticRegression().fit(x, t)).in_steps == ""


def test_ordinary_models_are_told_nothing_about(rng: np.random.Generator) -> None:
    for dtype in (np.float64, np.float32):
        for m in (1, 2, 3, 10):
            net = network(rng, (6, 9, m))
            for f in (lambda x: 5 + net(x).astype(dtype), lambda x: special.softmax(net(x).astype(dtype), axis=1)):  # noqa: B023
                if m > 1 or f(np.zeros((1, 6))).max() > 1:
                    oracle = uv.as_oracle(f, 6)
                    assert (oracle.notes, oracle.ledger.asked, oracle.step) == ((), 8, 0)


# missing answers


def test_missing_answers_are_counted_and_left_out(rng: np.random.Generator) -> None:
    net = network(rng)

    def gaps(x: np.ndarray) -> np.ndarray:
        return np.where(x[:, :1] > 2.05, np.nan, net(x))  # 2 in 100

    oracle = uv.as_oracle(gaps, 6)
    x = oracle.sample(500, rng)
    before = oracle.ledger.missing
    y = oracle.answered(x)
    gone = np.isnan(y).any(axis=1)
    assert np.array_equal(gone, x[:, 0] > 2.05)
    assert oracle.ledger.missing - before == gone.sum() > 0
    assert np.abs(y - net(x))[~gone].max() < 1e-12
    with pytest.raises(uv.MissingAnswers, match="NaN"):
        oracle(x)
    x, y = oracle.sample_answered(300, rng)
    assert x[:, 0].max() <= 2.05
    assert np.abs(y - net(x)).max() < 1e-12
    with pytest.raises(uv.MissingAnswers, match="5%"):
        oracle.answered(np.full((200, 6), 3.0))


@pytest.mark.parametrize(("share", "refused"), [(0.02, 0), (0.15, 20)])
def test_chance_does_not_turn_a_few_missing_answers_into_too_many(share: float, refused: int) -> None:
    def gaps(x: np.ndarray) -> np.ndarray:
        return np.where(np.modf(np.abs(x[:, :1]) * 1234.5)[0] < share, np.nan, x @ np.ones((6, 2)))

    ended = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        try:
            oracle = uv.as_oracle(gaps, 6)
            for count in (1, 2, 5, 10, 20, 500):
                oracle.sample_answered(count, rng)
        except uv.MissingAnswers:
            ended += 1
    assert ended == refused


def test_a_first_point_without_an_answer_is_replaced() -> None:
    seen = []

    def gap(x: np.ndarray) -> np.ndarray:
        if not seen:
            seen.append(x[1].copy())
        return np.where((x == seen[0]).all(axis=1), np.inf, x @ np.array([1.0, 2, 3]))

    oracle = uv.as_oracle(gap, 3)
    assert (oracle.ledger.asked, oracle.ledger.missing) == (10, 2)
    assert oracle.unchanged()
    with pytest.raises(uv.MissingAnswers, match="3 of 4"):
        uv.as_oracle(lambda x: np.where(np.arange(len(x)) > 0, np.nan, 1.0), 3)


def test_a_missing_answer_has_no_label() -> None:
    oracle = uv.as_oracle(lambda x: np.where(x[:, :1] > 9, np.nan, x[:, :2]), 3, answers="labels")
    with pytest.raises(uv.MissingAnswers):
        oracle.answered(np.array([[10.0, 0, 0], [0, 0, 0]]))


# bounds of their own


def test_every_input_has_bounds_of_its_own(rng: np.random.Generator) -> None:
    low, high = np.array([0.0, -5, 1000]), np.array([1.0, 5, 3000])
    oracle = uv.as_oracle(lambda x: x.sum(axis=1) * 1.1, 3, within=(low, high))
    x = oracle.sample(2000, rng)
    assert (x >= low).all()
    assert (x <= high).all()
    assert np.allclose(x.mean(axis=0), (low + high) / 2, rtol=0.05, atol=0.3)
    assert np.array_equal(oracle.nearest(np.array([[9.0, 9, 9]])), [[1, 5, 1000]])
    with pytest.raises(uv.BadInput, match="bounds of its own"):
        oracle(np.array([[0.5, 6.0, 2000.0]]))
    assert np.array_equal(oracle.low, low)
    assert np.array_equal(oracle.middle, [0.5, 0, 2000])
    room = oracle.room(np.array([[0.5, 0.0, 2000.0]] * 2), np.array([[1.0, 1, 1], [0, -2, 0]]))
    assert np.allclose(room, [0.5, 2.5])
    gridded = uv.as_oracle(lambda x: x.sum(axis=1) * 1.1, 3, within=(low, high), grid=0.25)
    y = gridded.sample(100, rng)
    assert np.array_equal((y - low) % 0.25, np.zeros_like(y))
    # Bounds that all are alike are two numbers again, and one number stands for all.
    assert uv.as_oracle(lambda x: x.sum(axis=1), 3, within=([0] * 3, [1] * 3)).within == (0.0, 1.0)
    assert np.array_equal(uv.as_oracle(lambda x: x.sum(axis=1), 3, within=(0, [1, 2, 3])).high, [1, 2, 3])
    for bad in ((low[:2], high), (high, low), (low, [1, 5, np.inf]), ([0, 0], [1, 1])):
        with pytest.raises(uv.BadInput, match="within"):
            uv.as_oracle(lambda x: x.sum(axis=1), 3, within=bad)


def test_wrappers_carry_bounds_over(rng: np.random.Generator) -> None:
    inner = uv.as_oracle(lambda x: x.sum(axis=1) * 1.1, 3, within=(-1, 1))
    mean, deviation = np.array([0.0, 10, 100]), np.array([1.0, 2, 30])
    outer = uv.Affine(inner, mean, deviation)
    assert np.array_equal(outer.low, mean - deviation)
    assert np.array_equal(outer.high, mean + deviation)
    outer(outer.sample(50, rng))
    small = uv.Restricted(outer, within=(mean, mean + deviation))
    assert np.array_equal(small.low, mean)
    with pytest.raises(uv.BadInput, match="reaches beyond"):
        uv.Restricted(outer, within=(mean, mean + 2 * deviation))


# a model that changes


def test_known_questions_notice_another_model(rng: np.random.Generator) -> None:
    nets, which = [network(rng), network(rng)], [0]
    oracle = uv.as_oracle(lambda x: nets[which[0]](x), 6)
    around = uv.Rounded(uv.Restricted(oracle, within=(-9, 9)), 6)
    before = oracle.ledger.asked
    assert around.unchanged() is True
    assert oracle.ledger.asked == before + 4
    oracle.require_unchanged()
    which[0] = 1
    assert around.unchanged() is False
    with pytest.raises(uv.ModelChanged, match="changed while it was asked"):
        around.require_unchanged()
    oracle.ledger.budget = oracle.ledger.asked + 3
    assert around.unchanged() is None
    around.require_unchanged()  # not known is not changed


def test_known_labels_and_noisy_answers(rng: np.random.Generator) -> None:
    w, sign = rng.standard_normal((6, 3)), [1.0]
    labels = uv.as_oracle(lambda x: (sign[0] * x @ w).argmax(axis=1), 6, answers="labels")
    loud = uv.as_oracle(lambda x: sign[0] * x @ w + 1e-3 * rng.standard_normal((len(x), 3)), 6, noisy=True)
    assert labels.unchanged()
    assert all(loud.unchanged() for _ in range(20))
    sign[0] = -1.0
    assert labels.unchanged() is False
    assert loud.unchanged() is False


# on the command line and on the page

MODEL = """
import numpy as np

W = np.random.default_rng(0).standard_normal((3, 5))


def sigmoid(x):
    return 1 / (1 + np.exp(-np.maximum(x @ W.T, 0) @ np.array([0.1, -0.2, 0.3]))) + 0.0


def wide(x):
    return np.maximum((x / [1, 1, 100, 1, 1]) @ W.T, 0)


def ranked(x):
    return -np.sort(-np.tanh(x @ W.T @ np.arange(15.0).reshape(3, 5) % 7), axis=1)


asked = [0]


def changing(x):
    asked[0] += len(x)
    return np.tanh(x @ W.T) + (asked[0] > 300)


def gaps(x):
    return np.where(x[:, :1] > 2.2, np.nan, np.tanh(x @ W.T))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def test_kind_and_bounds_are_options_and_notes_are_told(model: Path, tmp_path: Path) -> None:
    asking, told = Asking(shape="5", answers="probabilities"), []
    oracle = asking.oracle(f"{model}:sigmoid", told.append)
    assert isinstance(oracle, uv.LogRatios)
    assert not told
    assert isinstance(Asking(shape="5").oracle(f"{model}:sigmoid", told.append), uv.Oracle)
    assert any("--answers probabilities" in text for text in told)
    np.savez(tmp_path / "box.npz", low=np.zeros(5), high=[1, 1, 100, 1, 1])
    boxed = Asking(shape="5", within=str(tmp_path / "box.npz")).oracle(f"{model}:wide")
    assert boxed.high[2] == 100
    np.savez(tmp_path / "short.npz", low=np.zeros(4), high=np.ones(4))
    with pytest.raises(uv.BadInput, match="4 lower and 4 upper bounds"):
        Asking(shape="5", within=str(tmp_path / "short.npz")).oracle(f"{model}:wide")
    np.savez(tmp_path / "bad.npz", low=np.zeros(5))
    (tmp_path / "text.npz").write_text("low")
    for bad in ("bad.npz", "text.npz", "none.npz"):
        with pytest.raises(uv.BadInput, match="--within"):
            Asking(shape="5", within=str(tmp_path / bad)).oracle(f"{model}:wide")
    for wrong in ({"answers": "logits"}, {"answers": "values", "labels": True}):
        with pytest.raises(uv.BadInput, match="answers"):
            Asking(shape="5", **wrong).oracle(f"{model}:wide")


def audited(model: Path, name: str, **options: Any) -> Any:
    stages = [stage for stage in STAGES if stage.key in ("oracle", "answers")]
    return run(Audit(Asking(shape="5", **options).oracle(f"{model}:{name}")), stages)


def test_an_audit_notices_a_change_and_counts_what_it_asks_again(model: Path) -> None:
    page = audited(model, "changing")
    assert page.exit_code == 3
    assert any("changed" in cause for cause in page.findings.causes)
    calm = audited(model, "wide")
    assert calm.figures["queries"] == sum(entry["questions"] for entry in calm.all_figures()["asked"]["for"])
    assert calm.all_figures()["asked"]["unchanged"] is True


def test_an_audit_tells_notes_and_missing_answers(model: Path) -> None:
    oracle = audited(model, "ranked").all_figures()["oracle"]
    assert any("sorted" in note for note in oracle["notes"])
    x = np.random.default_rng(0).standard_normal((5, 500)).T
    audit = Audit(Asking(shape="5").oracle(f"{model}:gaps"), x)
    audit.look()
    y = audit.findings["seen"][1]
    assert np.isfinite(y).all()


def test_known_questions_on_a_grid_may_be_asked_again_where_answers_are_single_precision() -> None:
    weights = np.random.default_rng(0).standard_normal((7, 2)).astype(np.float32)
    oracle = uv.as_oracle(lambda x: x.astype(np.float32) @ weights, shape=7, within=(0, 1), grid=1 / 255)
    assert oracle.unchanged() is not False


def test_sorted_probabilities_make_no_predictions_but_their_span_is_found() -> None:
    rng = np.random.default_rng(1)
    rows, last = rng.standard_normal((3, 12)), 3 * rng.standard_normal((3, 5))
    oracle = uv.as_oracle(lambda x: -np.sort(-special.softmax(np.tanh(x @ rows.T) @ last, axis=1), axis=1), shape=12)
    span = uv.row_span(oracle, rng=rng)
    assert span.rank == 3
    assert span.distance(rows) <= max(span.accuracy, 1e-9)
    with pytest.raises(uv.BadInput, match="sorted"):
        oracle.predictions(oracle(oracle.sample(3, rng)))


@pytest.mark.parametrize(("share", "steady"), [(1e-9, True), (1e-6, False)])
def test_sums_in_another_order_are_no_dependence_on_the_batch(
    share: float, steady: bool, rng: np.random.Generator
) -> None:
    rows = rng.standard_normal((3, 8))

    def model(x: np.ndarray) -> np.ndarray:
        return np.tanh(x @ rows.T) * (1 + share * len(x))  # as of an ill-conditioned sum

    if steady:
        assert uv.as_oracle(model, shape=8).resolution > share / 10
    else:
        with pytest.raises(uv.UnsteadyAnswers, match="which others are asked with it"):
            uv.as_oracle(model, shape=8)


@pytest.mark.parametrize("size", [1e-310, 1e-150, 1e150, 1e308])
def test_answers_whose_squares_are_no_numbers_are_refused(size: float, rng: np.random.Generator) -> None:
    rows = rng.standard_normal((4, 6))
    with pytest.raises(uv.SourceError, match="divide its answers"):
        uv.as_oracle(lambda x: size * np.tanh(x @ rows.T), 6)
    assert uv.row_span(uv.as_oracle(lambda x: 1e-100 * np.tanh(x @ rows.T), 6), rng=rng).rank == 4
