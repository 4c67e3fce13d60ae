"""Models as people have them: every row of the table in docs/models.md, with the real thing where there is one."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import unveil as uv
from tests.helpers import onnx_net, random_weights
from unveil.cli import app

ROWS = {}


def row(name: str):
    """The test of one row of the table."""

    def register(function):
        assert ROWS.setdefault(name, function) is function
        return function

    return register


def test_every_row_of_the_table_has_a_test_and_every_test_a_row():
    told = re.findall(r"^\| `([^`]+)` \|", Path("docs/models.md").read_text(encoding="utf-8"), re.M)
    assert sorted(told) == sorted(ROWS)


def points(n: int, count: int = 20) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, n))


@row("name.onnx.data")
def test_weights_beside_a_model_are_followed_and_nowhere_else(tmp_path):
    path = onnx_net(random_weights([6, 40, 3], np.random.default_rng(0)), tmp_path / "one.onnx")
    whole = uv.load(path)
    model = onnx.load(path)
    (tmp_path / "sub").mkdir()
    apart = tmp_path / "sub" / "model.onnx"
    onnx.save_model(model, apart, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert (tmp_path / "sub" / "model.onnx.data").exists()
    x = points(6)
    assert np.array_equal(uv.load(apart)(x), whole(x))
    asked = uv.as_oracle(str(apart))
    assert np.allclose(asked(asked.nearest(x)), whole(x), atol=1e-5)
    np.savez(tmp_path / "x.npz", x=x[:3])
    for command in ("stability", "preimage", "lookalike"):
        arguments = [command, str(apart), "--inputs", str(tmp_path / "x.npz")]
        arguments += ["--within=-9,9"] if command == "lookalike" else ["--jobs", "1"]
        end = CliRunner().invoke(app, arguments)
        assert end.exit_code == 0, end.output
    (tmp_path / "sub" / "model.onnx.data").rename(tmp_path / "model.onnx.data")
    (tmp_path / "sub" / "model.onnx.data").symlink_to(tmp_path / "model.onnx.data")
    for load in (uv.load, uv.as_oracle):
        with pytest.raises(uv.SourceError, match="no file in its folder"):
            load(str(apart))


def two_heads(path: Path) -> Path:
    """Labels first, then scores and probabilities of the same three classes."""
    rng = np.random.default_rng(5)
    weights = numpy_helper.from_array(rng.standard_normal((4, 3)), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("scores", TensorProto.DOUBLE, ["N", 3]),
        helper.make_tensor_value_info("probabilities", TensorProto.DOUBLE, ["N", 3]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["N", 4])], outputs, [weights]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@row("several outputs")
def test_of_several_outputs_probabilities_come_first_and_it_is_said(tmp_path):
    path = two_heads(tmp_path / "heads.onnx")
    with pytest.warns(UserWarning, match=r"'probabilities' is looked at; output="):
        known = uv.load(path)
    assert known.softmax
    oracle = uv.as_oracle(str(path))
    assert any("'probabilities' is looked at" in note for note in oracle.notes)
    x = points(4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = uv.load(path, output="scores")
    assert not scores.softmax
    assert np.allclose(uv.as_oracle(str(path), output="scores")(x), scores(x), atol=1e-12)
    assert uv.as_oracle(str(path), output="label").answers == "labels"
    with pytest.raises(uv.SourceError, match="it has label, scores, probabilities"):
        uv.as_oracle(str(path), output="logits")
    with pytest.raises(uv.BadInput, match="it has label, scores, probabilities"):
        uv.load(path, output="logits")
    np.savez(tmp_path / "x.npz", x=x)
    end = CliRunner().invoke(app, ["stability", str(path), "--inputs", str(tmp_path / "x.npz")])
    assert end.exit_code == 0, end.output
    assert "'probabilities' is looked at" in end.stderr
    assert ".py:" not in end.stderr
    end = CliRunner().invoke(app, ["outputs", str(path), "--output", "scores", "--json"])
    assert '"reading": "values"' in end.stdout, end.output


@row("ZipMap")
@pytest.mark.parametrize("classes", [2, 3])
def test_a_zipmap_is_unpacked_into_columns(tmp_path, classes):
    skl2onnx = pytest.importorskip("skl2onnx")
    neural = pytest.importorskip("sklearn.neural_network")
    x, rng = points(5, 200), np.random.default_rng(0)
    model = neural.MLPClassifier((8,), max_iter=30, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, rng.integers(0, classes, len(x)))
    made = skl2onnx.to_onnx(model, x[:1].astype(np.float32), target_opset=15)
    assert any(node.op_type == "ZipMap" for node in made.graph.node)
    path = tmp_path / "zip.onnx"
    onnx.save(made, path)
    oracle = uv.as_oracle(str(path), answers="values")
    y = oracle(oracle.nearest(x))
    assert y.shape == (200, classes)
    assert np.allclose(y, model.predict_proba(x), atol=1e-5)


@row("sklearn pipeline")
@pytest.mark.parametrize("kind", ["binary", "classes", "several labels", "regressor", "logistic", "linear"])
def test_a_pipeline_becomes_a_network(kind):
    pytest.importorskip("sklearn")
    from sklearn import decomposition, linear_model, neural_network, pipeline, preprocessing

    rng = np.random.default_rng(1)
    x = points(7, 150) * 3 + 1
    targets = {
        "binary": rng.integers(0, 2, 150), "classes": rng.integers(0, 4, 150),
        "several labels": rng.integers(0, 2, (150, 3)), "logistic": rng.integers(0, 3, 150),
    }  # fmt: skip
    perceptron = neural_network.MLPRegressor(hidden_layer_sizes=(9, 5), activation="tanh", max_iter=20, random_state=0)
    last = {
        "regressor": perceptron,
        "logistic": linear_model.LogisticRegression(),
        "linear": linear_model.Ridge(),
    }.get(kind, neural_network.MLPClassifier((9, 5), max_iter=20, random_state=0))
    before = [preprocessing.StandardScaler(), preprocessing.MinMaxScaler(), decomposition.PCA(4, whiten=True)]
    model = pipeline.make_pipeline(*before, last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, targets.get(kind, rng.standard_normal(150)))
    network, fresh = uv.from_sklearn(model), points(7, 60) * 5
    truth = model.predict_proba(fresh) if hasattr(model, "predict_proba") else model.predict(fresh)[:, None]
    assert np.allclose(network(fresh), truth, atol=1e-9)
    assert network.shape == (7,)


@row("sklearn trees")
def test_what_is_no_network_is_named():
    ensemble = pytest.importorskip("sklearn.ensemble")
    x, rng = points(4), np.random.default_rng(0)
    forest = ensemble.RandomForestClassifier(3, random_state=0).fit(x, rng.integers(0, 2, 20))
    with pytest.raises(uv.BadInput, match="RandomForestClassifier cannot be represented"):
        uv.from_sklearn(forest)
    with pytest.raises(uv.BadInput, match="fit it first"):
        uv.from_sklearn(ensemble.RandomForestClassifier())
    assert uv.as_oracle(forest).in_steps


@row("onnxruntime's quantiser")
def test_a_quantised_model_is_asked(tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization")
    path = onnx_net(random_weights([6, 20, 3], np.random.default_rng(0), dtype=np.float32), tmp_path / "a.onnx")
    quantization.quantize_dynamic(path, tmp_path / "q.onnx")
    x = points(6)
    full, small = uv.as_oracle(str(path)), uv.as_oracle(str(tmp_path / "q.onnx"))
    spread = np.abs(full(full.nearest(x))).max()
    assert np.median(np.abs(small(small.nearest(x)) - full(full.nearest(x)))) < 0.05 * spread
    with pytest.raises(uv.BadInput, match="cannot be represented"):
        uv.load(tmp_path / "q.onnx")


@row("TorchScript")
def test_torchscript_is_asked_by_any_of_its_endings(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(4, 2))
    for ending in ("pt", "ts", "jit"):
        path = tmp_path / f"net.{ending}"
        torch.jit.trace(net, torch.zeros(1, 4)).save(str(path))
        oracle = uv.as_oracle(str(path), shape=4)
        assert oracle.m == 2
        with pytest.raises(uv.BadInput, match="from_torch"):
            uv.load(path)


@row("weights alone")
@pytest.mark.parametrize("ending", ["keras", "h5", "safetensors"])
def test_weights_without_a_model_are_one_clear_sentence(tmp_path, ending):
    path = tmp_path / f"net.{ending}"
    path.write_bytes(b"\x89HDF\r\n")
    with pytest.raises(uv.BadInput, match=r"export|module"):
        uv.as_oracle(str(path))
    with pytest.raises(uv.BadInput, match="weights, and not what is computed"):
        uv.load(path)
    end = CliRunner().invoke(app, ["span", str(path)])
    assert end.exit_code == 2
    assert end.stderr.count("\n") == 1


@row("several inputs")
def test_several_inputs_are_named(tmp_path):
    one, two = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "state"))
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("Add", ["x", "state"], ["y"])], "g", [one, two], [out])
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    with pytest.raises(uv.SourceError, match=r"2 inputs.*state"):
        uv.as_oracle(str(tmp_path / "m.onnx"))
    with pytest.raises(uv.BadInput, match="has 2: x, state"):
        uv.load(tmp_path / "m.onnx")
