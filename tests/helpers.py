"""Random networks with known weights, as functions, ONNX files and torch modules: the truth that tests compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Weights = list[tuple[np.ndarray, np.ndarray]]


def random_weights(
    sizes: Sequence[int], rng: np.random.Generator, bias: float = 0.0, dtype: Any = np.float64
) -> Weights:
    """Gaussian (W, b) for each layer, W of shape (out, in) and variance 1/in, b of deviation `bias`."""
    return [
        (
            (rng.standard_normal((out, width)) / np.sqrt(width)).astype(dtype),
            (bias * rng.standard_normal(out)).astype(dtype),
        )
        for width, out in pairwise(sizes)
    ]


def relu_net(weights: Weights, dtype: Any = np.float64) -> Callable[[np.ndarray], np.ndarray]:
    """x -> W_L relu(... relu(W_1 x + b_1) ...) + b_L, computed in `dtype`, for x of shape (N, n)."""
    layers = [(np.ascontiguousarray(w.T, dtype=dtype), b.astype(dtype)) for w, b in weights]

    def net(x: np.ndarray) -> np.ndarray:
        h = np.asarray(x).reshape(len(x), -1).astype(dtype)
        for i, (w, b) in enumerate(layers):
            h = h @ w + b
            if i < len(layers) - 1:
                h = np.maximum(h, 0)
        return h

    return net


def relu_gradients(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Jacobians (N, m, n) of `relu_net` by the chain rule."""
    h, jacobian = x, np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
    for i, (w, b) in enumerate(weights):
        h, jacobian = h @ w.T + b, w @ jacobian
        if i < len(weights) - 1:
            jacobian = jacobian * (h > 0)[:, :, None]
            h = np.maximum(h, 0)
    return jacobian


def torch_net(weights: Weights, softmax: bool = False) -> Any:
    """The same network as a torch module, in the precision of the weights."""
    import torch

    parts: list[Any] = []
    for i, (w, b) in enumerate(weights):
        linear = torch.nn.Linear(w.shape[1], w.shape[0])
        linear.weight = torch.nn.Parameter(torch.tensor(w))
        linear.bias = torch.nn.Parameter(torch.tensor(b))
        parts += [linear] + ([torch.nn.ReLU()] if i < len(weights) - 1 else [])
    return torch.nn.Sequential(*parts, *([torch.nn.Softmax(dim=1)] if softmax else []))


def onnx_net(
    weights: Weights,
    path: Path,
    batch: int | str | None = "N",
    shape: Sequence[int] | None = None,
    flatten: str | None = None,
    softmax: bool = False,
) -> Path:
    """The same network as an ONNX file, in the precision of the weights.

    Args:
        weights: (W, b) for each layer.
        path: Where to write.
        batch: First axis of input and output: free (a name), fixed (a number) or missing (None).
        shape: Shape of one input; by default (n,).
        flatten: How an input of several axes becomes a row: None (it is one already), "Flatten", or "Reshape" to a
            constant target.
        softmax: Whether a softmax ends the network.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.DOUBLE if weights[0][0].dtype == np.float64 else TensorProto.FLOAT
    n, m = weights[0][0].shape[1], weights[-1][0].shape[0]
    axis = [] if batch is None else [batch]
    nodes, constants, last = [], [], "x"
    if flatten == "Flatten":
        nodes.append(helper.make_node("Flatten", ["x"], ["flat"], axis=1))
        last = "flat"
    elif flatten == "Reshape":
        target = [n] if batch is None else [batch if isinstance(batch, int) else -1, n]
        constants.append(numpy_helper.from_array(np.array(target, dtype=np.int64), "target"))
        nodes.append(helper.make_node("Reshape", ["x", "target"], ["flat"]))
        last = "flat"
    for i, (w, b) in enumerate(weights):
        constants += [numpy_helper.from_array(w.T.copy(), f"W{i}"), numpy_helper.from_array(b.copy(), f"b{i}")]
        nodes.append(helper.make_node("MatMul", [last, f"W{i}"], [f"p{i}"]))
        nodes.append(helper.make_node("Add", [f"p{i}", f"b{i}"], [f"s{i}"]))
        last = f"s{i}"
        if i < len(weights) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"h{i}"]))
            last = f"h{i}"
    if softmax:
        nodes.append(helper.make_node("Softmax", [last], ["p"], axis=-1))
        last = "p"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", kind, [*axis, *(shape or [n])])],
        [helper.make_tensor_value_info(last, kind, [*axis, m])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
