"""Rooms of the sources: answers that name their classes, prompts, what is returned or held, and the first look."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from unveil.blackbox.digits import Digits
from unveil.blackbox.ledger import Ledger
from unveil.blackbox.sources.callable import CallableSource
from unveil.blackbox.sources.held_inputs import HeldInputs, refuse_inputs
from unveil.blackbox.sources.known_questions import Asking
from unveil.blackbox.sources.named_scores import NamedScores, number_in, without_quotes
from unveil.blackbox.sources.onnx_batch import batched, signature, whole_range
from unveil.blackbox.sources.prompts import PromptSource
from unveil.blackbox.sources.remarks import are_counts, of_digits, of_noise, of_probabilities, order_of, whole_numbers
from unveil.blackbox.sources.structured import part_of
from unveil.outcome import BadInput, MissingAnswers, SourceError, UnsteadyAnswers

SEEDS = range(5)


def pairs(scores: list[float], names: list[str]) -> list[dict[str, object]]:
    return [{"label": name, "score": score} for name, score in zip(names, scores, strict=True)]


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_are_matched_by_name_whatever_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"LABEL_{i}" for i in (0, 1, 2, 10)]
    y = rng.standard_normal((3, 4))
    asked, found = NamedScores(), []
    for row in y:
        order = rng.permutation(4)
        found.append(pairs([float(row[i]) for i in order], [names[i] for i in order]))
    # Columns are sorted with numbers as numbers: LABEL_2 before LABEL_10.
    np.testing.assert_array_equal(asked.read(found, 3, "it"), y)
    assert asked.names == tuple(names)
    np.testing.assert_array_equal(asked.read([found], 3, "it"), y)
    np.testing.assert_array_equal(asked.read(found[0], 1, "it"), y[:1])
    rows = [{name: str(value) for name, value in zip(names, row, strict=True)} for row in y]
    np.testing.assert_array_equal(asked.read(rows, 3, "it"), y)
    told = [{"labels": names[::-1], "scores": list(map(float, row[::-1]))} for row in y]
    np.testing.assert_array_equal(asked.read(told, 3, "it"), y)
    with pytest.raises(SourceError, match="without 'LABEL_10'"):
        asked.read([pairs([0.1, 0.2, 0.3], names[:3])], 1, "it")
    with pytest.raises(SourceError, match="with 'other'"):
        asked.read([found[0] + pairs([0.1], ["other"])], 1, "it")
    with pytest.raises(SourceError, match="twice"):
        asked.read([found[0] + found[0][:1]], 1, "it")
    with pytest.raises(SourceError, match="no numbers"):
        asked.read([[{**each, "score": "high"} for each in found[0]]], 1, "it")


def test_single_pairs_are_labels_and_what_names_nothing_is_left() -> None:
    asked = NamedScores()
    np.testing.assert_array_equal(
        asked.read([{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.6}], 2, "it"), [["cat"], ["dog"]]
    )
    for other in (3.0, [[1.0, 2.0]], [], [{"a": [1]}], [{}]):
        assert asked.read(other, 1, "it") is None
    assert asked.names is None
    assert [number_in(v) for v in ("1e-3", " 2 ", 4, "x", True, [1])] == [1e-3, 2.0, 4.0, None, None, None]
    assert np.isnan(number_in(None))
    assert without_quotes([["1", "2"], ["-3"]]) == [[1, 2], [-3]]
    assert without_quotes(["1.5", "nan"])[0] == 1.5
    assert without_quotes(["1", "a"]) == ["1", "a"]


def test_prompts_are_asked_by_their_place() -> None:
    seen: list[list[str]] = []

    def answer(prompts: list[str]) -> list[list[int]]:
        seen.append(prompts)
        return [[len(each)] for each in prompts]

    source = PromptSource(answer, ["a", "bb", "ccc"])
    np.testing.assert_array_equal(source.answer(np.array([[2.0], [0.0], [2.0]])), [[3], [1], [3]])
    assert seen == [["ccc", "a", "ccc"]]
    assert (source.within, source.grid) == ((0.0, 2.0), 1.0)
    assert (source.attempts(), source.attempts()) == (3, 0)
    assert source.fingerprint() != PromptSource(answer, ["a", "bb", "ccd"]).fingerprint()
    with pytest.raises(BadInput, match="two prompts"):
        PromptSource(answer, ["a"])


@dataclass
class Output:
    hidden: np.ndarray
    logits: np.ndarray | None = None


Both = namedtuple("Both", "first second")


def test_the_part_that_is_looked_at_is_the_most_telling_with_a_row_for_each_question() -> None:
    three, one = np.zeros((3, 2)), np.ones((1, 5))
    assert part_of(three, 3, "it")[0] is three
    found, said = part_of({"hidden": three, "logits": three + 1, "loss": one}, 3, "it")
    assert found[0, 0] == 1
    assert "'logits' is looked at" in said
    assert part_of({"loss": one, "hidden": three}, 3, "it")[0] is three
    assert part_of(Output(one, three), 3, "it")[0] is three
    assert part_of(Output(three), 3, "it")[0] is three
    assert part_of(Both(one, three), 3, "it")[0] is three
    assert part_of((one, three), 3, "it", output="0")[0] is one
    whole = np.zeros((3, 2), dtype=int)
    assert part_of({"b": whole, "a": three}, 3, "it")[0] is three
    with pytest.raises(BadInput, match="no 'x'"):
        part_of({"a": three}, 3, "it", output="x")
    with pytest.raises(BadInput, match="one array"):
        part_of(three, 3, "it", output="x")
    with pytest.raises(SourceError, match="none of it"):
        part_of({"loss": one}, 3, "it")


def test_inputs_that_are_held_are_passed_by_name_or_in_one_dictionary() -> None:
    def by_name(x: int, rate: int, state: int) -> tuple[int, int, int]:
        return x, rate, state

    held = HeldInputs({"rate": 7, "state": lambda count: 10 * count}, by_name, "it")
    assert held.call(by_name, 1, 4) == (1, 7, 40)
    marked = HeldInputs({"x": 7, "rate": ..., "state": 2}, by_name, "it")
    assert marked.call(by_name, 1, 4, lambda value: value + 1) == (8, 1, 3)
    assert HeldInputs(None, abs, "it").call(abs, -3, 1) == 3

    def whole(given: dict[str, int]) -> dict[str, int]:
        return given

    assert HeldInputs({"x": ..., "rate": 7}, whole, "it").call(whole, 1, 1) == {"x": 1, "rate": 7}
    with pytest.raises(BadInput, match="no parameter rate"):
        HeldInputs({"rate": 7}, whole, "it")
    with pytest.raises(BadInput, match="one input is asked"):
        HeldInputs({"x": ..., "y": ...}, by_name, "it")
    refuse_inputs({}, "it")
    with pytest.raises(BadInput, match="holds inputs"):
        refuse_inputs({"x": 1}, "it")


def asking(answer, n: int = 3, budget: int | None = None, **options: object) -> Asking:
    source = CallableSource(answer, shape=(n,), **options)  # type: ignore[arg-type]
    return Asking(source, Ledger(budget), None, None)


def test_the_first_questions_are_asked_twice_and_company_must_not_matter() -> None:
    calls: list[int] = []

    def steady(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return x[:, :2] * 2

    one = asking(steady)
    known = one.twice()
    assert calls == [4, 1, 3]
    assert one.ledger.asked == 8
    np.testing.assert_array_equal(known.first, known.second)
    np.testing.assert_array_equal(known.first, known.x[:, :2] * 2)
    # The same points in every run.
    np.testing.assert_array_equal(asking(steady).twice().x, known.x)
    batch = asking(lambda x: x - x.mean(axis=0))
    assert "which others are asked with it" in batch.why_unsteady(batch.twice())
    rng = np.random.default_rng(0)
    chance = asking(lambda x: x + rng.standard_normal(x.shape))
    assert chance.why_unsteady(chance.twice()).startswith("switch off whatever is random")
    with pytest.raises(UnsteadyAnswers, match="with 4 and then with"):
        asking(lambda x: np.zeros((len(x), len(x)))).twice()
    with pytest.raises(SourceError, match="no outputs"):
        asking(lambda x: np.zeros((len(x), 0))).twice()


def test_points_without_an_answer_are_replaced_unless_they_are_many() -> None:
    first = asking(lambda x: x).twice().x

    def lost(x: np.ndarray) -> np.ndarray:
        return np.where(np.isclose(x[:, :1], first[1, 0]), np.nan, x)

    one = asking(lost)
    known = one.twice()
    assert np.isfinite(known.first).all()
    np.testing.assert_array_equal(known.first, known.second)
    assert (known.x[[0, 2, 3]] == first[[0, 2, 3]]).all()
    # Two for the point replaced.
    assert (one.ledger.asked, one.ledger.missing) == (10, 2)
    with pytest.raises(MissingAnswers, match="4 of 4"):
        asking(lambda x: np.full((len(x), 1), np.inf)).twice()


def test_sorted_scores_are_told_from_outputs_with_levels_of_their_own() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 5))
    in_order = asking(lambda x: -np.sort(-(x @ w), axis=1))
    before = in_order.ledger.asked
    said = order_of(in_order.ask(in_order.points(4)), in_order)
    assert said[0] == "falling"
    assert in_order.ledger.asked - before == 4 + 60
    rising = asking(lambda x: np.sort(x @ w, axis=1))
    assert order_of(rising.ask(rising.points(4)), rising)[0] == "rising"
    free = asking(lambda x: x @ w)
    assert order_of(free.ask(free.points(4)), free) == ("", [])
    assert free.ledger.asked == 4
    levels = asking(lambda x: x @ w + 100.0 * np.arange(5))
    name, words = order_of(levels.ask(levels.points(4)), levels)
    assert name == ""
    assert "ordered" in words[0]
    # 60, and 192 more where these leave it open.
    assert levels.ledger.asked == 4 + 252


def test_counts_change_little_by_little_along_a_line() -> None:
    counts = asking(lambda x: np.round(100 * x[:, :1] + 7 * x[:, 1:2]).astype(int))
    assert are_counts(counts.ask(counts.points(4)), counts)
    assert counts.ledger.asked == 4 + 16
    hashed = asking(lambda x: (np.abs(x[:, :1] * 1e6).astype(int) * 7919) % 1000)
    assert not are_counts(hashed.ask(hashed.points(4)), hashed)
    classes = asking(lambda x: (x[:, :1] > 0).astype(int))
    assert not are_counts(classes.ask(classes.points(4)), classes)
    assert classes.ledger.asked == 4
    assert "counts do" in whole_numbers(True)
    assert "taken for classes" in whole_numbers(False)


def test_remarks_on_digits_saturation_and_noise() -> None:
    exact, halves, steps = Digits(53), Digits(11), Digits(53, 0.01)
    assert of_digits(exact) == []
    assert of_digits(halves) == ["answers have 11 significant bits, as in float16"]
    assert "multiples of 0.01" in of_digits(steps)[0]
    sure = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.4], [0.5, 0.5]])
    assert "saturated: 2 of 4" in of_probabilities(sure, exact, True)[0]
    assert of_probabilities(sure[1:], exact, True) == []
    single = np.array([[0.0], [0.4], [0.7], [1.0]])
    assert len(of_probabilities(single, exact, False)) == 2
    assert of_noise(1.0, 0.0) == []
    assert "hides" in of_noise(1.0, 0.2)[0]
    assert "hides" not in of_noise(1.0, 0.01)[0]


def graph(shape: list, out: list, nodes: list, constants: dict[str, np.ndarray], kind: int = TensorProto.DOUBLE):
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    ends = [
        helper.make_tensor_value_info("x", kind, shape),
        helper.make_tensor_value_info("y", TensorProto.DOUBLE, out),
    ]
    made = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_batch_axis_is_told_from_the_shape_of_a_question() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]

    def read(sides: list, out: list, shape=None):
        found = signature(graph(sides, out, nodes, {}), "it", shape, None)
        return found.batch, found.shape

    assert read(["N", 3], ["N", 3]) == (1, (3,))
    assert read([1, 3, 8, 8], [1, 10]) == (1, (3, 8, 8))
    assert read([2000, 5], [2000, 5]) == (2000, (5,))
    assert read([3, 32, 32], [10]) == (None, (3, 32, 32))
    assert read([3, 32, 32], [3, 10], (3, 32, 32)) == (None, (3, 32, 32))
    # The file's own shape counts where as many numbers are told in another.
    assert read([1, 3, 4], [1, 2], (12,)) == (1, (3, 4))
    for sides, shape, word in ((["N", "k"], None, "open"), (["N", 3], (4,), "got shape")):
        with pytest.raises(SourceError, match=word):
            read(sides, ["N", 3], shape)
    with pytest.raises(SourceError, match="no output"):
        signature(graph(["N", 3], ["N", 3], nodes, {}), "it", None, "z")


@pytest.mark.parametrize("seed", SEEDS)
def test_graphs_for_one_question_are_rewritten_for_many(seed: int) -> None:
    import onnxruntime as ort

    rng = np.random.default_rng(seed)
    w = rng.standard_normal((2, 6))
    flat = [
        helper.make_node("Reshape", ["x", "target"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    fixed = graph([1, 2, 3], [1, 2], flat, {"target": np.array([1, 6]), "w": w.T.copy()})
    bare = graph([6], [2], [helper.make_node("MatMul", ["w", "x"], ["y"])], {"w": w})
    for model, shape in ((fixed, (2, 3)), (bare, (6,))):
        told = signature(model, "it", None, None)
        session = ort.InferenceSession(batched(model, told, True).SerializeToString())
        x = rng.standard_normal((5, 6))
        (y,) = session.run(None, {"x": x.reshape(5, *shape)})
        np.testing.assert_allclose(y, x @ w.T)


def test_whole_inputs_have_the_range_of_what_they_choose() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.INT64),
        helper.make_node("Gather", ["t", "c"], ["y"]),
    ]
    model = graph(["N", 3], ["N", 3, 4], nodes, {"t": np.zeros((17, 4))}, TensorProto.INT32)
    assert whole_range(model, "x", np.dtype(np.int32)) == (0.0, 16.0)
    assert whole_range(model, "x", np.dtype(np.uint8)) == (0.0, 255.0)
    assert whole_range(model, "x", np.dtype(bool)) == (0.0, 1.0)
    other = graph(["N", 3], ["N", 3], [helper.make_node("Identity", ["x"], ["y"])], {}, TensorProto.INT32)
    assert whole_range(other, "x", np.dtype(np.int32)) is None
