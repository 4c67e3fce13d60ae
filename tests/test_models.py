"""Models as people have them: every row of the table in docs/models.md, with the real thing where there is one."""

from __future__ import annotations

import io
import json
import re
import signal
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import unveil as uv
from tests.helpers import onnx_net, random_weights
from unveil.blackbox.sources.confined import Confined
from unveil.blackbox.sources.onnx import OnnxSource, Unbounded
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


def _in_few_bits(kind: str, seed: int = 0):
    """A network 6-5-3 whose weights are stored as `kind` says, and the same in the float type of its scales."""
    from onnx import TensorProto, helper, numpy_helper

    rng, small = np.random.default_rng(seed), np.float16 if kind == "half" else np.float32
    nodes, tensors, whole = [], [], []
    for i, shape in enumerate(((6, 5), (5, 3))):
        w, given = rng.standard_normal(shape), {}
        names = [f"q{i}", f"s{i}"]
        levels = 7 if kind == "4 bits" else 127
        size = np.abs(w).max(axis={"columns": 0, "rows": 1}.get(kind))
        if kind == "blocks":
            given = {"axis": 0, "block_size": 3 if shape[0] == 6 else 5}
            size = np.abs(w.reshape(-1, given["block_size"], shape[1])).max(axis=1)
        scale = (np.asarray(size) / levels).astype(small)
        wide = {"rows": scale[:, None] if scale.ndim else scale}.get(kind, scale)
        wide = np.repeat(scale, given["block_size"], axis=0) if kind == "blocks" else wide
        q = np.clip(np.round(w / wide), -levels, levels).astype(np.int8)
        if kind in ("columns", "rows"):
            given = {"axis": 1 if kind == "columns" else 0}
        whole.append((q * wide).astype(small).astype(np.float64))
        if kind == "with zero":
            q = (q.astype(np.int32) + 128).astype(np.uint8)
            tensors.append(numpy_helper.from_array(np.array(128, np.uint8), f"z{i}"))
            names.append(f"z{i}")
        if kind == "4 bits":
            tensors.append(helper.make_tensor(names[0], TensorProto.INT4, q.shape, q.ravel().tolist()))
        elif kind == "constant nodes":
            nodes.append(helper.make_node("Constant", [], names[:1], value=numpy_helper.from_array(q)))
        elif kind == "both ways":
            tensors.append(numpy_helper.from_array(whole[-1].astype(np.float32), f"f{i}"))
            nodes.append(helper.make_node("QuantizeLinear", [f"f{i}", names[1]], ["u" + names[0]]))
            whole[-1] = (np.clip(np.round(whole[-1] / scale), 0, 255) * scale).astype(np.float32).astype(np.float64)
            names[0] = "u" + names[0]
        else:
            tensors.append(numpy_helper.from_array(q, names[0]))
        tensors.append(numpy_helper.from_array(scale, names[1]))
        nodes.append(helper.make_node("DequantizeLinear", names, [f"w{i}"], **given))
        nodes.append(helper.make_node("MatMul", ["xh"[i], f"w{i}"], ["ay"[i]]))
    nodes.insert(
        next(k for k, n in enumerate(nodes) if n.op_type == "MatMul") + 1, helper.make_node("Relu", ["a"], ["h"])
    )
    kind_of = TensorProto.FLOAT16 if kind == "half" else TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind_of, ["N", size]) for name, size in (("x", 6), ("y", 3))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), whole


@pytest.mark.parametrize(
    "kind",
    ["one scale", "with zero", "columns", "rows", "blocks", "4 bits", "constant nodes", "both ways", "half"],
)
@row("weights in few bits")
def test_weights_in_few_bits_are_read_as_the_model_multiplies_by_them(tmp_path, kind):
    ort = pytest.importorskip("onnxruntime")
    model, (first, second) = _in_few_bits(kind)
    path = tmp_path / "small.onnx"
    path.write_bytes(model.SerializeToString())
    network = uv.load(path)
    x = points(6).astype(np.float16).astype(np.float64)
    assert np.abs(network(x) - np.maximum(x @ first, 0) @ second).max() < 1e-12
    # Fused operators answer otherwise: those of the file are asked here.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    small = np.float16 if kind == "half" else np.float32
    y = session.run(None, {"x": x.astype(small)})[0]
    assert np.abs(network(x) - y).max() < (2e-2 if kind == "half" else 1e-5)
    assert uv.as_oracle(str(path)).m == 3


def test_what_is_dequantised_from_answers_is_still_refused(tmp_path):
    from onnx import helper

    model, _ = _in_few_bits("one scale")
    at = next(k for k, n in enumerate(model.graph.node) if n.op_type == "Relu")
    model.graph.node[at].output[0] = "r"
    for node in (
        helper.make_node("DequantizeLinear", ["r8", "s0"], ["h"]),
        helper.make_node("QuantizeLinear", ["r", "s0"], ["r8"]),
    ):
        model.graph.node.insert(at + 1, node)
    path = tmp_path / "steps.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(uv.BadInput, match="QuantizeLinear"):
        uv.load(path)


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
def test_weights_without_a_model_are_one_clear_sentence(tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(uv.BadInput, match="module=Net"):
        uv.as_oracle(str(path))
    with pytest.raises(uv.BadInput, match="weights, and not what is computed"):
        uv.load(path)
    end = CliRunner().invoke(app, ["span", str(path)])
    assert end.exit_code == 2
    assert end.stderr.count("\n") == 1


@row("weights and their module")
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights_are_put_into_the_module_they_belong_to(ending, tmp_path):
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file if ending == "safetensors" else torch.save
    torch.manual_seed(1)
    (tmp_path / "net.py").write_text(
        "import torch\ndef Net():\n    a, b = torch.nn.Linear(4, 5), torch.nn.Linear(5, 2)\n"
        "    return torch.nn.Sequential(a, torch.nn.ReLU(), b)\nnet = Net()\n"
    )
    module, other = (torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)) for _ in "ab")
    path = tmp_path / f"weights.{ending}"
    save(module.state_dict(), path)
    oracle, x = uv.as_oracle(str(path), module=other), points(4)
    with torch.no_grad():
        truth = module(torch.from_numpy(x).float()).numpy()
    assert np.allclose(oracle(oracle.nearest(x)), truth, atol=1e-6)
    assert np.allclose(uv.from_torch(other, weights=path)(x), truth, atol=1e-5)
    assert not np.allclose(uv.from_torch(other)(x), truth, atol=1e-2)  # the module itself is left as it was
    with pytest.raises(uv.BadInput, match="do not fit Linear"):
        uv.as_oracle(str(path), module=torch.nn.Linear(4, 2))
    with pytest.raises(uv.BadInput, match="without arguments"):
        uv.as_oracle(str(path), module=torch.nn.Linear)
    path.write_bytes(b"nothing")
    with pytest.raises(uv.SourceError, match="no weights that can be read"):
        uv.as_oracle(str(path), module=other)
    save(module.state_dict(), path)
    end = CliRunner().invoke(app, ["audit", "--plan", str(path), "--module", f"{tmp_path / 'net.py'}:net", "--json"])
    assert end.exit_code == 0, end.output


@pytest.mark.parametrize(
    ("wrapped", "fits"),
    [
        (lambda state: {"state_dict": state, "epoch": 3, "hyper": {"rate": 0.1}}, True),
        (lambda state: {"model": {f"module.{name}": value for name, value in state.items()}}, True),
        (lambda state: {f"_orig_mod.{name}": value for name, value in state.items()}, True),
        (lambda state: {"run": {"state": {f"net.{n}": v for n, v in state.items()}}}, True),
        (lambda state: {f"first.{n}": v for n, v in state.items()} | {"second.0.bias": state["0.bias"]}, "do not fit"),
        (lambda state: {"model": state, "optimizer": {"state": {0: {"m": state["0.bias"]}}, "groups": []}}, True),
        (lambda state: {"model": state, "ema": state}, "more than once .under 'ema/', 'model/'"),
        (lambda state: {"model": {n: v for n, v in state.items() if n != "2.bias"}}, 'do not fit Sequential.*"2.bias"'),
    ],
)
def test_weights_are_found_in_checkpoints(wrapped, fits, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    module, other = (torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)) for _ in "ab")
    path, x = tmp_path / "epoch3.ckpt", points(4)
    torch.save(wrapped(module.state_dict()), path)
    if fits is True:
        assert np.allclose(uv.from_torch(other, weights=path)(x), uv.from_torch(module)(x), rtol=0, atol=1e-12)
    else:
        with pytest.raises(uv.BadInput, match=fits):
            uv.as_oracle(str(path), module=other)


def test_a_pickled_module_is_named_as_such_with_a_module_given(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "whole.pt"
    torch.save(torch.nn.Linear(4, 2), path)
    with pytest.raises(uv.SourceError, match=r"^whole.pt holds a whole module as a pickle"):
        uv.as_oracle(str(path), module=torch.nn.Linear(4, 2))


def keras_file(path: Path) -> tuple[Path, Callable[[np.ndarray], np.ndarray]]:
    """A convolution, a normalisation, a pooling and a dense layer as Keras writes them, and what they compute."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(2)
    kernel, bias = rng.standard_normal((3, 3, 2, 4)), rng.standard_normal(4)
    norm = [rng.uniform(0.5, 2, 4), rng.standard_normal(4), rng.standard_normal(4), rng.uniform(0.5, 2, 4)]
    dense = [rng.standard_normal((16, 3)), rng.standard_normal(3)]
    held = {
        "conv2d": [kernel, bias], "batch_normalization": norm, "average_pooling2d": [], "flatten": [], "dense": dense,
    }  # fmt: skip
    told = [
        ("InputLayer", {"batch_shape": [None, 5, 6, 2], "name": "input_layer"}),
        ("Conv2D", {"strides": [1, 1], "padding": "same", "activation": "relu", "name": "conv2d"}),
        ("BatchNormalization", {"axis": -1, "epsilon": 1e-3, "name": "batch_normalization"}),
        ("AveragePooling2D", {"pool_size": [2, 3], "padding": "valid", "name": "average_pooling2d"}),
        ("Flatten", {"name": "flatten"}),
        ("Dense", {"activation": "tanh", "name": "dense"}),
    ]
    layers = [{"class_name": kind, "config": config} for kind, config in told]
    config = json.dumps({"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}})
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = config
            for name, arrays in held.items():
                group = file.create_group(f"model_weights/{name}")
                group.attrs["weight_names"] = [f"w{i}" for i in range(len(arrays))]
                for i, array in enumerate(arrays):
                    group[f"w{i}"] = array.astype(np.float32)
    else:
        inside = io.BytesIO()
        with h5py.File(inside, "w") as file:
            for name, arrays in held.items():
                file.create_group(f"layers/{name}/vars")
                for i, array in enumerate(arrays):
                    file[f"layers/{name}/vars/{i}"] = array.astype(np.float32)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("model.weights.h5", inside.getvalue())

    def model(x: np.ndarray) -> np.ndarray:
        x = np.pad(x.reshape(-1, 5, 6, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
        y = np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias, 0)
        y = norm[0] * (y - norm[2]) / np.sqrt(norm[3] + 1e-3) + norm[1]
        y = y[:, :4].reshape(-1, 2, 2, 2, 3, 4).mean(axis=(2, 4))
        return np.tanh(y.reshape(len(y), -1) @ dense[0] + dense[1])

    return path, model


@row("Keras")
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_keras_files_are_read_without_keras(ending, tmp_path):
    path, model = keras_file(tmp_path / f"net.{ending}")
    x = points(60) * 0.5
    oracle = uv.as_oracle(str(path), answers="values")
    assert oracle.shape == (5, 6, 2)
    assert np.allclose(oracle(oracle.nearest(x)), model(x), atol=1e-4)
    assert np.allclose(uv.load(path)(x), model(x), atol=1e-5)
    damaged = path.read_bytes()[:300]
    path.write_bytes(damaged)
    for reading in (uv.load, uv.as_oracle):
        with pytest.raises(uv.SourceError, match="not a model that Keras saved"):
            reading(str(path))


def test_keras_files_that_cannot_be_read_say_why(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file["dense/w"] = np.ones(3)
    with pytest.raises(uv.BadInput, match="save the whole model"):
        uv.load(path)
    entry = {"class_name": "InputLayer", "config": {"batch_shape": [None, 4], "name": "i"}}
    for kind, said in (("LSTM", r"'last' is a LSTM.*export"), ("Lambda", "is a Lambda")):
        layers = [entry, {"class_name": kind, "config": {"name": "last"}}]
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
            file.create_group("model_weights")
        with pytest.raises(uv.BadInput, match=said):
            uv.as_oracle(str(path))
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["w"] = np.ones((4, 2))
    dense = {"class_name": "Dense", "config": {"name": "dense", "use_bias": False}}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": [entry, dense]}})
        file.create_group("model_weights/dense").attrs["weight_names"] = ["w"]
        file["model_weights/dense/w"] = h5py.ExternalLink(str(other), "w")
    with pytest.raises(uv.SourceError, match="in another file"):
        uv.load(path)


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_files_of_keras_itself(ending, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    layers = keras.layers
    entry = keras.Input((8, 9, 3))
    a = layers.Conv2D(4, 3, padding="same", strides=2, activation="relu")(layers.Rescaling(0.5)(entry))
    b = layers.Add()([layers.DepthwiseConv2D(3, padding="same")(a), layers.BatchNormalization()(a)])
    c = layers.Flatten()(layers.AveragePooling2D(2, padding="same")(layers.ReLU()(b)))
    end = layers.Dense(3, activation="softmax")(layers.Dropout(0.5)(layers.Concatenate()([c, layers.Dense(5)(c)])))
    model = keras.Model(entry, end)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(np.abs(rng.standard_normal(weight.shape)) * 0.3)
    path = tmp_path / f"net.{ending}"
    model.save(path)
    x = points(216)
    truth = np.asarray(model.predict(x.reshape(-1, 8, 9, 3), verbose=0))
    assert np.allclose(uv.load(path)(x), truth, atol=1e-5)
    oracle = uv.as_oracle(str(path), answers="values")
    assert np.allclose(oracle(oracle.nearest(x)), truth, atol=1e-5)


def two_inputs(path: Path, free: str | int = "N") -> Path:
    """y = x @ w + state * rate: a state whose batch lies in its second axis, and a scalar of whole numbers."""
    rng = np.random.default_rng(6)
    entries = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, free, 2]),
        helper.make_tensor_value_info("rate", TensorProto.INT64, []),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Squeeze", ["state", "zero"], ["s"]),
        helper.make_node("Cast", ["rate"], ["r"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "r"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(rng.standard_normal((3, 2)).astype(np.float32), "w"),
        numpy_helper.from_array(np.array([0]), "zero"),
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "g", entries, [out], constants)
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@row("several inputs")
def test_one_of_several_inputs_is_asked_and_the_others_are_held(tmp_path):
    path = two_inputs(tmp_path / "m.onnx")
    with pytest.raises(uv.SourceError, match=r"3 inputs: x, state, rate.*--fix rate=0"):
        uv.as_oracle(str(path))
    with pytest.raises(uv.BadInput, match=r"3 inputs: x, state, rate.*inputs="):
        uv.load(path)
    x = points(3)
    weights = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).astype(np.float64)
    state = np.array([[[0.5, -2.0]]])
    held = {"state": state, "rate": 16}
    oracle = uv.as_oracle(str(path), inputs=held)
    assert np.allclose(oracle(oracle.nearest(x)), x @ weights + 16 * state[0], atol=1e-4)
    assert np.allclose(uv.load(path, inputs=held)(x), x @ weights + 16 * state[0], atol=1e-9)
    for wrong, said in (({"rate": 0.5}, "type int64"), ({"speed": 1}, "no input 'speed'")):
        with pytest.raises(uv.SourceError, match=said):
            uv.as_oracle(str(path), inputs={"state": 0, **wrong})
    with pytest.raises(uv.SourceError, match="all its inputs"):
        uv.as_oracle(str(path), inputs={"x": 0, "state": 0, "rate": 1})
    np.save(tmp_path / "state.npy", state)
    fixed = ["--fix", f"state={tmp_path / 'state.npy'}", "--fix", "rate=16"]
    end = CliRunner().invoke(app, ["span", str(path), *fixed, "--json"])
    assert end.exit_code == 0, end.output
    np.savez(tmp_path / "x.npz", x=x[:2])
    end = CliRunner().invoke(app, ["stability", str(path), "--inputs", str(tmp_path / "x.npz"), "--jobs", "1", *fixed])
    assert end.exit_code == 0, end.output


def test_functions_and_modules_take_held_inputs_by_name_or_in_one_dictionary():
    def named(x, rate):
        return x * rate

    x = points(3)
    by_name = uv.as_oracle(named, shape=3, inputs={"rate": 4})
    in_one = uv.as_oracle(lambda given: given["x"] * given["rate"], shape=3, inputs={"x": ..., "rate": 4})
    assert np.array_equal(by_name(x), 4 * x)
    assert np.array_equal(in_one(x), 4 * x)
    with pytest.raises(uv.BadInput, match="mark what is asked"):
        uv.as_oracle(lambda given: given["x"], shape=3, inputs={"rate": 4})
    with pytest.raises(uv.BadInput, match="is none"):
        uv.as_oracle(by_name, inputs={"rate": 4})


@row("recurrent state")
def test_a_recurrent_module_is_asked_about_tokens_from_one_state():
    torch = pytest.importorskip("torch")

    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.last = torch.nn.Embedding(40, 8), torch.nn.GRU(8, 6), torch.nn.Linear(6, 2)

        def forward(self, tokens, state):
            y, state = self.cell(self.table(tokens).transpose(0, 1), state)
            return self.last(y[-1]), state

    torch.manual_seed(0)
    module = Recurrent()
    oracle = uv.as_oracle(module, shape=5, inputs={"state": lambda count: torch.zeros(1, count, 6)})
    assert (oracle.within, oracle.grid, oracle.m) == ((0.0, 39.0), 1.0, 2)
    x = np.random.default_rng(0).integers(0, 40, (7, 5))
    with torch.no_grad():
        truth = module(torch.from_numpy(x), torch.zeros(1, 7, 6))[0].numpy()
    assert np.allclose(oracle(x), truth, atol=1e-6)


@row("whole numbers")
@pytest.mark.parametrize("kind", ["UINT8", "INT8", "INT64", "BOOL"])
def test_inputs_of_whole_numbers_are_asked_as_such(kind, tmp_path):
    table = numpy_helper.from_array(np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32), "w")
    tokens = kind == "INT64"
    node = helper.make_node("Gather", ["w", "x"], ["y"]) if tokens else helper.make_node("Cast", ["x"], ["y"], to=1)
    entry = helper.make_tensor_value_info("x", getattr(TensorProto, kind), ["N", 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, 2] if tokens else ["N", 3])
    graph = helper.make_graph([node], "g", [entry], [out], [table] if tokens else [])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")
    oracle = uv.as_oracle(str(tmp_path / "m.onnx"), answers="values")
    ranges = {"UINT8": (0, 255), "INT8": (-128, 127), "INT64": (0, 29), "BOOL": (0, 1)}
    assert (oracle.within, oracle.grid) == (ranges[kind], 1.0)
    x = oracle.sample(40, np.random.default_rng(1))
    assert np.array_equal(x, np.round(x))
    truth = numpy_helper.to_array(table)[x.astype(int)].reshape(40, -1) if tokens else x
    assert np.array_equal(oracle(x), truth)


@row("dict, dataclass or tuple")
def test_of_what_a_function_returns_the_logits_are_looked_at():
    @dataclass
    class Output:
        logits: np.ndarray
        hidden_states: np.ndarray

    def scores(x):
        return np.stack([x.sum(axis=1), x[:, 0]], axis=1)

    def hidden(x):
        return np.stack([x, x])

    returned = {
        "dict": lambda x: {"hidden_states": hidden(x), "logits": scores(x)},
        "dataclass": lambda x: Output(scores(x), hidden(x)),
        "tuple": lambda x: (np.float64(0.3), scores(x), hidden(x)),
        "object": lambda x: SimpleNamespace(logits=scores(x)),
    }
    x = points(3)
    for name, function in returned.items():
        oracle = uv.as_oracle(function, shape=3)
        assert np.array_equal(oracle(x), scores(x)), name
    both = uv.as_oracle(lambda x: {"a": x, "scores": scores(x)}, shape=3)
    assert any("'scores' is looked at" in note for note in both.notes)
    assert uv.as_oracle(lambda x: {"a": x, "scores": scores(x)}, shape=3, output="a").m == 3
    assert uv.as_oracle(lambda x: tuple(row for row in x), shape=3).m == 3
    with pytest.raises(uv.SourceError, match="none of it has one row"):
        uv.as_oracle(lambda x: {"loss": 0.1}, shape=3)


@row("time first")
@pytest.mark.parametrize("times", [1, 2, 3])
def test_outputs_with_time_first_are_told_from_batches(times, tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((times, 4, 2)).astype(np.float32)
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [times, "N", 2])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [entry], [out], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")
    oracle, x = uv.as_oracle(str(tmp_path / "m.onnx")), points(4)
    truth = np.einsum("ni,tio->nto", x, weights).reshape(len(x), -1)
    assert np.allclose(oracle(oracle.nearest(x)), truth, atol=1e-5)
    with pytest.raises(uv.SourceError, match="time comes first"):
        uv.as_oracle(lambda x: np.einsum("ni,tio->tno", x, weights), shape=4)


def hostile(path: Path, operator: str, hidden: bool) -> Path:
    """A small graph that makes a hundred million numbers of one question; `hidden`: how many, only running it tells."""
    size = {"Tile": [1, 10**8], "Expand": [1, 10**8], "ConstantOfShape": [1, 10**8], "Resize": [1, 10**8]}[operator]
    kind = np.float32 if operator == "Resize" else np.int64
    constants = [numpy_helper.from_array(np.array(size, dtype=kind), "size")]
    nodes, given = [], "size"
    if hidden:  # the size times 1, which is made of the question in a way that shape inference does not follow
        constants.append(numpy_helper.from_array(np.array(1, dtype=kind), "one"))
        nodes = [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["large"], to=helper.np_dtype_to_tensor_dtype(np.dtype(kind))),
            helper.make_node("Sub", ["large", "large"], ["nothing"]),
            helper.make_node("Add", ["nothing", "one"], ["factor"]),
            helper.make_node("Mul", ["size", "factor"], ["wanted"]),
        ]
        given = "wanted"
    if operator == "ConstantOfShape":
        nodes += [helper.make_node(operator, [given], ["c"]), helper.make_node("Mul", ["x", "c"], ["y"])]
    elif operator == "Resize":
        nodes.append(helper.make_node(operator, ["x", "", given], ["y"], mode="nearest"))
    else:
        nodes.append(helper.make_node(operator, ["x", given], ["y"]))
    last = [helper.make_node("ReduceMean", ["y"], ["m"], axes=[1], keepdims=1)]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])
    out = helper.make_tensor_value_info("m", TensorProto.FLOAT, ["N", 1])
    graph = helper.make_graph(nodes + last, "g", [entry], [out], constants)
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


@row("hostile sizes")
@pytest.mark.parametrize("operator", ["Tile", "Expand", "ConstantOfShape", "Resize"])
def test_a_hundred_million_numbers_are_refused_before_anything_is_run(operator, tmp_path):
    with pytest.raises(uv.SourceError, match=r"1e\+08 numbers"):
        uv.as_oracle(str(hostile(tmp_path / "m.onnx", operator, hidden=False)))
    hidden = hostile(tmp_path / "hidden.onnx", operator, hidden=True)
    with pytest.raises(Unbounded):
        OnnxSource(hidden, trusted=False)
    with pytest.raises(uv.BadInput):
        uv.load(hidden)


def test_a_file_that_does_not_tell_its_sizes_is_run_within_limits(tmp_path):
    hidden = hostile(tmp_path / "m.onnx", "Tile", hidden=True)
    with pytest.raises(uv.SourceError, match="memory"):
        Confined(hidden, memory=300 << 20)
    end = CliRunner().invoke(app, ["span", str(two_inputs(tmp_path / "two.onnx"))])
    assert end.exit_code == 3
    assert "3 inputs" in end.stderr


@row("files not trusted")
def test_a_confined_file_answers_as_it_would_unconfined(tmp_path):
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.standard_normal((3, 2)).astype(np.float32), "w")
    nodes = [
        helper.make_node("NonZero", ["w"], ["places"]),
        helper.make_node("Shape", ["places"], ["count"]),
        helper.make_node("Cast", ["count"], ["c"], to=1),
        helper.make_node("ReduceMax", ["c"], ["k"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "k"], ["y"]),
    ]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "g", [entry], [out], [weights])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path)
    free, confined = uv.as_oracle(str(path)), uv.as_oracle(str(path), trusted=False)
    assert isinstance(confined.source, Confined)
    x = free.nearest(points(3, 300))
    assert np.array_equal(free(x), confined(x))
    assert (free.fingerprint(), free.notes, free.resolution) == (
        confined.fingerprint(), confined.notes, confined.resolution,
    )  # fmt: skip
    confined.source._child.kill()
    with pytest.raises(uv.SourceError, match="brought its process to an end"):
        confined(x)
    slow = Confined(path)
    slow._seconds, slow._slowest = 0.0, 0.0
    slow._child.send_signal(signal.SIGSTOP)
    with pytest.raises(uv.SourceError, match="gave no answer within 0 s"):
        slow.answer(x)


@row("LightGBM, XGBoost")
@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_boosted_trees_are_asked_and_known_to_answer_in_steps(kind, tmp_path):
    library, tools = pytest.importorskip(kind), pytest.importorskip("onnxmltools")
    types = pytest.importorskip("onnxmltools.convert.common.data_types")
    x = points(5, 200).astype(np.float32)
    made = library.LGBMClassifier(n_estimators=5, verbose=-1) if kind == "lightgbm" else library.XGBClassifier(5)
    made.fit(x, np.random.default_rng(0).integers(0, 3, 200))
    graph = getattr(tools, f"convert_{kind}")(made, initial_types=[("x", types.FloatTensorType([None, 5]))])
    (tmp_path / "m.onnx").write_bytes(graph.SerializeToString())
    oracle = uv.as_oracle(str(tmp_path / "m.onnx"), answers="values", trusted=False)
    assert oracle.in_steps == "decision trees"
    assert np.allclose(oracle(x[:50].astype(float)), made.predict_proba(x[:50]), atol=1e-5)
