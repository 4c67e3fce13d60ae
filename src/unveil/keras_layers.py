"""What each layer of Keras becomes in an ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unveil.outcome import BadInput

# What only training does.
IDENTITY = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "ActivityRegularization", "InputLayer",
)  # fmt: skip
KERAS_ACTIVATIONS = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "elu": "Elu", "selu": "Selu",
    "gelu": "Gelu", "exponential": "Exp", "softsign": "Softsign",
}  # fmt: skip
Shape = tuple[int, ...]


@dataclass
class Graph:
    """What has been built so far: nodes, constants, and the shape of every value without its batch axis."""

    dtype: np.dtype[Any]
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype(self.dtype) if array.dtype.kind == "f" else array.astype(np.int64)
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, kind: str, inputs: list[str], shape: Shape, **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.shapes[name] = tuple(int(side) for side in shape)
        return name


Weights = list[np.ndarray]
Told = Mapping[str, Any]


def _activated(g: Graph, value: str, activation: Any) -> str:
    shape = g.shapes[value]
    if isinstance(activation, Mapping):
        activation = activation.get("config", activation.get("class_name"))
    if isinstance(activation, Mapping):
        activation = activation.get("name")
    if activation in (None, "linear"):
        return value
    if activation == "softmax":
        return g.node("Softmax", [value], shape, axis=-1)
    if activation == "leaky_relu":
        return g.node("LeakyRelu", [value], shape, alpha=0.2)
    if activation in ("silu", "swish"):
        return g.node("Mul", [value, g.node("Sigmoid", [value], shape)], shape)
    if activation == "relu6":
        return g.node("Clip", [value, g.constant(0.0), g.constant(6.0)], shape)
    if activation not in KERAS_ACTIVATIONS:
        raise BadInput(f"the activation {activation!s:.60} is not among those that are read; export the model to ONNX")
    return g.node(KERAS_ACTIVATIONS[activation], [value], shape)


def _dense(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    kernel = weights[0]
    shape = (*g.shapes[given[0]][:-1], kernel.shape[1])
    value = g.node("MatMul", [given[0], g.constant(kernel)], shape)
    if told.get("use_bias", True):
        value = g.node("Add", [value, g.constant(weights[1])], shape)
    return _activated(g, value, told.get("activation"))


def _channels_first(g: Graph, value: str) -> str:
    high, wide, channels = g.shapes[value]
    return g.node("Transpose", [value], (channels, high, wide), perm=[0, 3, 1, 2])


def _channels_last(g: Graph, value: str) -> str:
    channels, high, wide = g.shapes[value]
    return g.node("Transpose", [value], (high, wide, channels), perm=[0, 2, 3, 1])


def _window(sides: Shape, size: list[int], steps: list[int], told: Told) -> tuple[list[int], Shape]:
    """Padding before and after each side, and the sides that result."""
    if told.get("padding", "valid") == "valid":
        return [0, 0, 0, 0], tuple((n - k) // s + 1 for n, k, s in zip(sides, size, steps, strict=True))
    ends = tuple(-(-n // s) for n, s in zip(sides, steps, strict=True))
    all_ = [max(0, (e - 1) * s + k - n) for e, s, k, n in zip(ends, steps, size, sides, strict=True)]
    return [all_[0] // 2, all_[1] // 2, all_[0] - all_[0] // 2, all_[1] - all_[1] // 2], ends


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(part) for part in value]


def _convolution(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    depthwise = "depth_multiplier" in told
    kernel = weights[0]
    high, wide, channels, filters = kernel.shape
    value = _channels_first(g, given[0])
    steps, holes = _pair(told.get("strides", 1)), _pair(told.get("dilation_rate", 1))
    groups = int(told.get("groups", 1))
    if depthwise:
        groups, kernel = channels, kernel.reshape(high, wide, 1, channels * filters)
        filters *= channels
    size = [(k - 1) * d + 1 for k, d in zip((high, wide), holes, strict=True)]
    pads, sides = _window(g.shapes[value][1:], size, steps, told)
    inputs = [value, g.constant(kernel.transpose(3, 2, 0, 1))]
    if told.get("use_bias", True):
        inputs.append(g.constant(weights[1]))
    shaped = {"kernel_shape": [high, wide], "strides": steps, "dilations": holes, "pads": pads, "group": groups}
    value = _channels_last(g, g.node("Conv", inputs, (filters, *sides), **shaped))
    return _activated(g, value, told.get("activation"))


def _pool(kind: str) -> Callable[[Graph, list[str], Told, Weights], str]:
    def layer(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
        value = _channels_first(g, given[0])
        size = _pair(told.get("pool_size", 2))
        steps = _pair(told.get("strides") or size)
        pads, sides = _window(g.shapes[value][1:], size, steps, told)
        shaped = {"kernel_shape": size, "strides": steps, "pads": pads}
        return _channels_last(g, g.node(kind, [value], (g.shapes[value][0], *sides), **shaped))

    return layer


def _global(kind: str) -> Callable[[Graph, list[str], Told, Weights], str]:
    def layer(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
        channels = g.shapes[given[0]][-1]
        value = g.node(kind, [_channels_first(g, given[0])], (channels, 1, 1))
        return _channels_last(g, value) if told.get("keepdims") else g.node("Flatten", [value], (channels,), axis=1)

    return layer


def _scaled(g: Graph, value: str, factor: Any, offset: Any) -> str:
    shape = g.shapes[value]
    value = g.node("Mul", [value, g.constant(np.asarray(factor, dtype=float))], shape)
    return g.node("Add", [value, g.constant(np.asarray(offset, dtype=float))], shape)


def _batch_norm(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    axis = told.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) else axis
    if axis not in (-1, len(g.shapes[given[0]])):
        raise BadInput(f"a BatchNormalization along axis {axis} is not read, only along the last one; export to ONNX")
    held = list(weights)
    scale = held.pop(0) if told.get("scale", True) else 1.0
    centre = held.pop(0) if told.get("center", True) else 0.0
    factor = scale / np.sqrt(held[1] + float(told.get("epsilon", 1e-3)))
    return _scaled(g, given[0], factor, centre - held[0] * factor)


def _flatten(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    return g.node("Flatten", [given[0]], (math.prod(g.shapes[given[0]]),), axis=1)


def _reshape(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    size, shape = math.prod(g.shapes[given[0]]), [int(side) for side in told["target_shape"]]
    if -1 in shape:
        shape[shape.index(-1)] = size // -math.prod(shape)
    return g.node("Reshape", [given[0], g.constant(np.array([0, *shape]))], tuple(shape))


def _relu(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    if told.get("max_value") is not None or told.get("threshold"):
        raise BadInput("a ReLU layer with max_value or threshold is not read; export the model to ONNX")
    slope = float(told.get("negative_slope") or 0.0)
    shape = g.shapes[given[0]]
    return g.node("LeakyRelu", given, shape, alpha=slope) if slope else g.node("Relu", given, shape)


def _leaky(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    slope = float(told.get("negative_slope", told.get("alpha", 0.3)))
    return g.node("LeakyRelu", given, g.shapes[given[0]], alpha=slope)


def _elu(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    return g.node("Elu", given, g.shapes[given[0]], alpha=float(told.get("alpha", 1.0)))


def _joined(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    axis = int(told.get("axis", -1))
    shapes = [g.shapes[value] for value in given]
    place = axis - 1 if axis > 0 else axis % len(shapes[0])
    shape = list(shapes[0])
    shape[place] = sum(sides[place] for sides in shapes)
    return g.node("Concat", given, tuple(shape), axis=place + 1)


def _added(g: Graph, given: list[str], told: Told, weights: Weights) -> str:
    value = given[0]
    for other in given[1:]:
        if g.shapes[other] != g.shapes[value]:
            raise BadInput("an Add of different shapes is not read; export the model to ONNX")
        value = g.node("Add", [value, other], g.shapes[value])
    return value


LAYERS: dict[str, Callable[[Graph, list[str], Told, Weights], str]] = {
    **{kind: lambda g, given, told, weights: given[0] for kind in IDENTITY},
    "Dense": _dense,
    "Conv2D": _convolution,
    "DepthwiseConv2D": _convolution,
    "BatchNormalization": _batch_norm,
    "Activation": lambda g, given, told, weights: _activated(g, given[0], told["activation"]),
    "ReLU": _relu,
    "LeakyReLU": _leaky,
    "ELU": _elu,
    "Softmax": lambda g, given, told, weights: _activated(g, given[0], "softmax"),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "MaxPooling2D": _pool("MaxPool"),
    "AveragePooling2D": _pool("AveragePool"),
    "GlobalAveragePooling2D": _global("GlobalAveragePool"),
    "GlobalMaxPooling2D": _global("GlobalMaxPool"),
    "Rescaling": lambda g, given, told, weights: _scaled(g, given[0], told["scale"], told.get("offset", 0.0)),
    "Concatenate": _joined,
    "Add": _added,
}
