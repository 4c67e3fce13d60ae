"""Graphs in files: what is held, kept, written and read again computes what it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from scipy import signal

from tests.helpers import random_weights
from unveil.blackbox.sources.onnx_file import extent, in_single_precision, read_model
from unveil.keras_graph import _snake
from unveil.keras_layers import LAYERS, Graph
from unveil.onnx_graph import hold_inputs, one_output
from unveil.outcome import BadInput
from unveil.torch_weights import with_weights
from unveil.whitebox.formats.onnx_in import read_onnx
from unveil.whitebox.formats.onnx_out import write_onnx
from unveil.whitebox.formats.sklearn import from_sklearn
from unveil.whitebox.formats.torch import from_torch, to_torch
from unveil.whitebox.network import Network


def value(name: str, *shape: int, kind: int = TensorProto.DOUBLE) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def two_inputs(weights: np.ndarray) -> Any:
    """`sum = x W + shift`, `prob = softmax(sum)`, and a third output that takes a node of its own."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["prob"], axis=-1),
        helper.make_node("Tanh", ["product"], ["other"]),
    ]
    m = weights.shape[1]
    outputs = [value(name, 4, m) for name in ("sum", "prob", "other")]
    held = [numpy_helper.from_array(weights, "w")]
    inputs = [value("x", 4, len(weights)), value("shift", 1, m)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, held))


def test_an_input_that_is_held_is_a_constant_and_an_output_that_is_kept_needs_its_own_nodes_alone(
    rng: np.random.Generator,
) -> None:
    weights, x, shift = rng.standard_normal((5, 3)), rng.standard_normal((4, 5)), rng.standard_normal(3)
    model = two_inputs(weights)
    with pytest.raises(BadInput, match="one input is asked"):
        hold_inputs(model, {})
    hold_inputs(model, {"shift": shift})
    assert [entry.name for entry in model.graph.input] == ["x"]
    sums = ReferenceEvaluator(model).run(["sum"], {"x": x})[0]
    np.testing.assert_allclose(sums, x @ weights + shift, atol=1e-14)
    assert "prob" in one_output(model)  # probabilities before other numbers
    assert {node.op_type for node in model.graph.node} == {"MatMul", "Add", "Softmax"}
    told = np.exp(sums) / np.exp(sums).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(ReferenceEvaluator(model).run(None, {"x": x})[0], told, atol=1e-14)
    wide = two_inputs(weights)
    hold_inputs(wide, {"shift": 2.0})
    one_output(wide, "sum")
    np.testing.assert_allclose(ReferenceEvaluator(wide).run(None, {"x": x})[0], x @ weights + 2, atol=1e-14)


@pytest.mark.parametrize("kind", ["relu", "tanh", "softplus"])
def test_a_network_is_written_and_read_to_the_last_bit_and_in_single_precision_to_its_rounding(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    network = Network.from_weights(random_weights((6, 5, 4, 2), rng, bias=0.5), kind)
    x = rng.standard_normal((50, 6))
    for dtype, off in (("float64", 1e-13), ("float32", 1e-5)):
        path = tmp_path / f"{dtype}.onnx"
        write_onnx(network, path, dtype)
        model, digest = read_model(path)
        assert digest == read_model(path)[1]
        entry = model.graph.input[0].name
        assert extent(model, "net", entry, (50, 6)).widest == 300
        np.testing.assert_allclose(
            ReferenceEvaluator(model).run(None, {entry: x.astype(dtype)})[0], network(x), atol=off
        )
        again = read_onnx(path)
        for one, other in zip(network.layers, again.layers, strict=True):
            assert (one.dense().astype(dtype) == other.dense()).all()
            assert (one.bias.astype(dtype) == other.bias).all()
    model, _ = read_model(tmp_path / "float64.onnx")
    single = in_single_precision(model)
    entry = single.graph.input[0].name
    got = ReferenceEvaluator(single).run(None, {entry: x.astype(np.float32)})[0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, network(x), atol=1e-5)


def evaluated(graph: Graph, name: str, x: np.ndarray) -> np.ndarray:
    """What a graph of Keras's layers makes of one input called `in`."""
    made = helper.make_graph(
        graph.nodes, "g", [value("in", *x.shape)], [value(name, 1, *graph.shapes[name])], graph.constants
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    return np.asarray(ReferenceEvaluator(model).run(None, {"in": x})[0])


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_convolution_of_keras_is_a_correlation_with_channels_last(
    padding: str, steps: int, rng: np.random.Generator
) -> None:
    x, kernel, bias = rng.standard_normal((1, 8, 7, 2)), rng.standard_normal((3, 2, 2, 4)), rng.standard_normal(4)
    graph = Graph(np.dtype(np.float64), shapes={"in": (8, 7, 2)})
    told = {"padding": padding, "strides": steps, "use_bias": True}
    found = evaluated(graph, LAYERS["Conv2D"](graph, ["in"], told, [kernel, bias]), x)
    if padding == "same":
        # TensorFlow pads as much as the last window needs, the odd one below and to the right.
        need = [max(0, (-(-n // steps) - 1) * steps + k - n) for n, k in zip((8, 7), (3, 2), strict=True)]
        x = np.pad(x, ((0, 0), *((each // 2, each - each // 2) for each in need), (0, 0)))
    for f in range(4):
        true = sum(signal.correlate(x[0, :, :, c], kernel[:, :, c, f], "valid") for c in range(2)) + bias[f]
        np.testing.assert_allclose(found[0, :, :, f], true[::steps, ::steps], atol=1e-13)


def test_layers_of_keras_are_what_they_are_called(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 4, 4, 3))

    def of(kind: str, told: dict[str, Any], weights: list[np.ndarray]) -> np.ndarray:
        graph = Graph(np.dtype(np.float64), shapes={"in": (4, 4, 3)})
        return evaluated(graph, LAYERS[kind](graph, ["in"], told, weights), x)

    windows = x.reshape(1, 2, 2, 2, 2, 3)
    np.testing.assert_allclose(of("MaxPooling2D", {}, []), windows.max(axis=(2, 4)), atol=1e-14)
    np.testing.assert_allclose(of("AveragePooling2D", {}, []), windows.mean(axis=(2, 4)), atol=1e-14)
    np.testing.assert_allclose(of("GlobalAveragePooling2D", {}, []), x.mean(axis=(1, 2)), atol=1e-14)
    np.testing.assert_allclose(of("Flatten", {}, []), x.reshape(1, -1), atol=1e-14)
    gamma, beta, mean, variance = rng.uniform(0.5, 2, (4, 3))
    norm = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(of("BatchNormalization", {}, [gamma, beta, mean, variance]), norm, atol=1e-13)
    w, b = rng.standard_normal((3, 5)), rng.standard_normal(5)
    np.testing.assert_allclose(of("Dense", {"activation": "relu"}, [w, b]), np.maximum(x @ w + b, 0), atol=1e-13)
    assert [_snake(name) for name in ("Conv2D", "BatchNormalization", "MaxPooling2D")] == [
        "conv2d", "batch_normalization", "max_pooling2d",
    ]  # fmt: skip


def test_a_network_of_torch_or_scikit_learn_answers_as_the_module_does(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    from sklearn.neural_network import MLPRegressor

    network = Network.from_weights(random_weights((6, 5, 2), rng, bias=0.5), "tanh")
    x = rng.standard_normal((40, 6))
    module = to_torch(network)
    np.testing.assert_allclose(module(torch.tensor(x)).detach().numpy(), network(x), atol=1e-13)
    np.testing.assert_allclose(from_torch(module)(x), network(x), atol=1e-13)
    torch.save(module.state_dict(), tmp_path / "w.pt")
    with torch.no_grad():
        other = to_torch(network)
        other[0].weight.zero_()
    np.testing.assert_allclose(
        with_weights(other, tmp_path / "w.pt")(torch.tensor(x)).detach().numpy(), network(x), atol=1e-13
    )
    model = MLPRegressor(hidden_layer_sizes=(5,), max_iter=5, random_state=0)
    with pytest.warns(match="converged"):
        model.fit(x, np.sin(x[:, 0]))
    np.testing.assert_allclose(from_sklearn(model)(x)[:, 0], model.predict(x), atol=1e-12)
