"""A network into an ONNX file that any runtime answers from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from scipy import sparse

from unveil.outcome import BadInput
from unveil.whitebox.activation import SELU_ALPHA, SELU_SCALE, Activation, elu
from unveil.whitebox.formats.onnx_step import OURS
from unveil.whitebox.network import Layer, Network
from unveil.writing import written

LARGEST_DENSE = 100_000_000
OPSET = 20
SINGLE_ONLY = ("erf", "arctan", "gelu", "gelu_tanh")
POSITIVE = "p = Relu x; n = Sub x p; "
LOG_SUM = "p = Relu x; a = Abs x; n = Neg a; e = Exp n; m = Add e alpha; l = Log m; "
BODIES = {
    "leaky_relu": ("LeakyRelu", POSITIVE + "s = Mul n alpha; y = Add p s"),
    "elu": ("Elu", POSITIVE + "e = Exp n; one = Div alpha alpha; m = Sub e one; s = Mul m alpha; y = Add p s"),
    "softplus": ("Softplus", LOG_SUM + "y = Add p l"),
    "mish": ("Mish", LOG_SUM + "s = Add p l; t = Tanh s; y = Mul x t"),
    "softsign": ("Softsign", "a = Abs x; d = Add a alpha; y = Div x d"),
    "hardswish": (
        "HardSwish",
        "u = Add x alpha; r = Relu u; d = Add alpha alpha; c = Min r d; h = Div c d; y = Mul x h",
    ),
}
SIMPLE = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "erf": "Erf",
    "arctan": "Atan",
    "sin": "Sin",
    "gelu": "Gelu",
    "abs": "Abs",
}


@dataclass
class _Graph:
    dtype: Any
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        made = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [made], name=made, **attributes))
        return made

    def constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        kept = array if array.dtype.kind in "iu" else array.astype(self.dtype)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(kept), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value))


def write_onnx(network: Network, path: str | Path, dtype: str = "float64") -> None:
    """Write a network as ONNX.

    Float64 files use only operators that onnxruntime has in double precision: a convolution becomes a gather of patches
    and one matrix product, and keeps its kernel's size. Float32 files use Conv.

    Raises:
        BadInput: A sparse layer that is no convolution is too large to be written densely.
    """
    graph = _Graph(np.dtype(dtype))
    kind = TensorProto.DOUBLE if dtype == "float64" else TensorProto.FLOAT
    x = "input"
    if len(network.shape) > 1:
        x = graph.add("Reshape", x, graph.constant(np.array([-1, network.n])))
    for layer in network.layers:
        x = _activate(graph, layer.activation, _affine(graph, layer, x, dtype), dtype)
    if network.softmax:
        x = graph.add("Softmax", x, axis=1)
    graph.add("Identity", x)
    graph.nodes[-1].output[0] = "output"
    entry = helper.make_tensor_value_info("input", kind, ["N", *network.shape])
    answer = helper.make_tensor_value_info("output", kind, ["N", network.m])
    made = helper.make_graph(graph.nodes, "unveil", [entry], [answer], graph.constants)
    opsets = [helper.make_opsetid("", OPSET)] + [helper.make_opsetid(OURS, 1)] * bool(graph.functions)
    functions = [_function(family) for family in graph.functions.values()]
    model = helper.make_model(made, producer_name="unveil", opset_imports=opsets, ir_version=9, functions=functions)
    if model.ByteSize() >= 2**31:
        raise BadInput(f"the network takes {model.ByteSize():,} bytes, ONNX files end at 2 GiB; save as .npz")
    with written(path) as file:
        file.write(model.SerializeToString())


def _affine(graph: _Graph, layer: Layer, x: str, dtype: str) -> str:
    convolution = layer.convolution
    if convolution is None:
        if sparse.issparse(layer.weights) and layer.inputs * layer.neurons > LARGEST_DENSE:
            raise BadInput(
                f"a sparse layer of {layer.neurons} x {layer.inputs} is too large for ONNX, "
                "which has no sparse product; save as .npz"
            )
        return graph.add("Gemm", x, graph.constant(layer.dense()), graph.constant(layer.bias), transB=1)
    channels = convolution.kernel.shape[0]
    bias = layer.bias.reshape(channels, -1)
    if dtype == "float32":
        picture = graph.add("Reshape", x, graph.constant(np.array([-1, *convolution.input_shape])))
        picture = graph.add(
            "Conv",
            picture,
            graph.constant(convolution.kernel),
            strides=convolution.stride,
            pads=convolution.padding,
            dilations=convolution.dilation,
            group=convolution.groups,
        )
        flat = graph.add("Reshape", picture, graph.constant(np.array([-1, layer.neurons])))
        return graph.add("Add", flat, graph.constant(layer.bias))
    sources = convolution.sources()
    sources[sources < 0] = layer.inputs
    groups, positions, taps = sources.shape
    spare = graph.add("Mul", graph.add("Gather", x, graph.constant(np.array([0])), axis=1), graph.number(0.0))
    patches = graph.add("Gather", graph.add("Concat", x, spare, axis=1), graph.constant(sources), axis=1)
    kernel = convolution.kernel.reshape(groups, channels // groups, taps).transpose(0, 2, 1)
    flipped = graph.add("Transpose", graph.add("MatMul", patches, graph.constant(kernel)), perm=[0, 1, 3, 2])
    flat = graph.add("Reshape", flipped, graph.constant(np.array([-1, layer.neurons])))
    return graph.add("Add", flat, graph.constant(np.broadcast_to(bias, (channels, positions)).ravel()))


def _activate(graph: _Graph, phi: Activation, x: str, dtype: str) -> str:
    family, _, rest = phi.name.partition("(")
    if family == "identity":
        return x
    if family in SINGLE_ONLY and dtype == "float64":
        raise BadInput(f"onnxruntime has {phi.name} in single precision only; save with dtype='float32' or as .npz")
    if family in SIMPLE:
        return graph.add(SIMPLE[family], x)
    if family == "silu":
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    if family == "gelu_tanh":
        return graph.add("Gelu", x, approximate="tanh")
    if family == "clip":
        return graph.add("Clip", x, *(graph.number(float(v)) for v in rest[:-1].split(",")))
    if family == "selu":
        return graph.add("Mul", _activate(graph, elu(SELU_ALPHA), x, dtype), graph.number(SELU_SCALE))
    if family not in BODIES:
        raise BadInput(f"ONNX has no operator for the activation {phi.name!r}; save as .npz")
    operator, _ = BODIES[family]
    graph.functions[operator] = family
    alpha = float(rest[:-1]) if rest else {"leaky_relu": 0.01, "hardswish": 3.0}.get(family, 1.0)
    return graph.add(operator, x, graph.number(alpha), domain=OURS)


def _function(family: str) -> Any:
    """An activation as a function inside the model, from operators that exist in double precision everywhere."""
    operator, lines = BODIES[family]
    nodes = []
    for line in lines.split(";"):
        made, _, call = line.strip().partition(" = ")
        name, *inputs = call.split()
        nodes.append(helper.make_node(name, inputs, [made]))
    return helper.make_function(OURS, operator, ["x", "alpha"], ["y"], nodes, [helper.make_opsetid("", OPSET)])
