"""Random networks with known weights, as functions, ONNX files and torch modules: the truth that tests compare with.

Also what makes a test hold on any processor: answers whose last bits are flipped at random, and rates over seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binom

Weights = list[tuple[np.ndarray, np.ndarray]]
Answer = Callable[[np.ndarray], np.ndarray]


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


def single(weights: Weights) -> Weights:
    """The nearest network whose weights are exact in float32."""
    return [(w.astype(np.float32).astype(float), b.astype(np.float32).astype(float)) for w, b in weights]


def roundings(weights: Weights) -> Answer:
    """x -> the size of the roundings inside `relu_net`, per answer, in units of the precision's relative spacing.

    Every product sum is rounded in proportion to the root mean square of its terms, and what a layer rounds goes on
    through the active weights behind it. A sum of zeros is exact: where no neuron is active nothing is rounded.
    """

    def size(x: np.ndarray) -> np.ndarray:
        h = np.asarray(x, dtype=float).reshape(len(x), -1)
        variance = np.zeros_like(h)
        for i, (w, b) in enumerate(weights):
            squares = (w**2).T
            variance = (variance + h**2 / 4) @ squares
            h = h @ w.T + b
            if i < len(weights) - 1:
                variance = variance * (h > 0)
                h = np.maximum(h, 0)
        return np.sqrt(variance)

    return size


def flipped(answer: Answer, rng: np.random.Generator, inside: Answer | float = 0.0) -> Answer:
    """The same source on another processor: the last bits of its answers are flipped at random.

    Another processor (or another BLAS kernel, number of threads or batch size) sums the same products in another order,
    so that every sum is rounded otherwise. What cancels afterwards leaves an error of the size of the numbers added,
    not of the answer: a wrapper cannot see these, so `inside` tells them, exactly for the networks of this file
    (`roundings`). With `inside` left at 0 this stands for a processor that differs in the answers' own last bit only,
    which is less than real ones do. Errors are a fixed function of the question, as a processor's are: the same
    question gets the same answer, alone or in a batch. NaN, infinite and exact zero answers stay what they are.

    Args:
        answer: The source: x of shape (N, ...) to float answers (N, ...); their type is kept.
        rng: Draws which processor this is.
        inside: Size of the rounded numbers inside: a number, or a function of x that gives it for every answer.
    """
    odd = rng.integers(0, 2**63, size=3, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

    def mixed(bits: np.ndarray) -> np.ndarray:
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(bits ^ (bits >> np.uint64(31)))

    def ask(x: np.ndarray) -> np.ndarray:
        y = np.asarray(answer(x))
        eps = np.finfo(y.dtype).eps
        flat = y.reshape(len(y), -1).astype(float)
        question = np.ascontiguousarray(np.asarray(x, dtype=float).reshape(len(x), -1)).view(np.uint64)
        place = mixed(np.arange(question.shape[1], dtype=np.uint64) * odd[0] + odd[1])
        seed = (mixed(question + place) * odd[2]).sum(axis=1, dtype=np.uint64)
        each = mixed(seed[:, None] + np.arange(1, flat.shape[1] + 1, dtype=np.uint64) * odd[0])
        # Uniform in [-1, 1], of standard deviation 0.58.
        uniform = (each >> np.uint64(11)) * 2.0**-52 - 1
        size = inside(x).reshape(flat.shape) if callable(inside) else inside
        off = uniform * eps * np.maximum(np.abs(flat), 2 * np.asarray(size)) * (flat != 0)
        return np.where(np.isfinite(flat), flat + off, flat).astype(y.dtype).reshape(y.shape)

    return ask


def relu_elsewhere(weights: Weights, rng: np.random.Generator, dtype: Any = np.float64) -> Answer:
    """`relu_net` as another processor computes it (`flipped`)."""
    return flipped(relu_net(weights, dtype), rng, roundings(weights))


def assert_rate(good: Sequence[bool], at_least: float, what: object = "") -> None:
    """Fails where so few successes have a chance below 1 in 1,000 if the true rate is `at_least`."""
    needed = int(binom.ppf(1e-3, len(good), at_least))
    failed = [i for i, one in enumerate(good) if not one]
    assert sum(map(bool, good)) >= needed, f"{what}: {sum(map(bool, good))} of {len(good)}, not {needed}; not {failed}"


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
