"""What each ONNX operator does to an affine function of the last activations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import sparse

from unveil.whitebox.activation import Activation, activation, elu, hard_sigmoid, leaky_relu
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.formats.affine import Value, join, mean_over
from unveil.whitebox.formats.onnx_step import Operand, Step
from unveil.whitebox.formats.pooling import average, pooled, widen


def is_top(step: Step) -> bool:
    value, axis = step.value, int(step.attributes.get("axis", -1 if step.opset >= 13 else 1))
    axis %= len(value.shape)
    together = math.prod(value.shape[axis:]) if step.opset < 13 else value.shape[axis]
    if together != value.size:
        raise step.refuse(f"a softmax over {together} of {value.size} outputs; only one over all of them")
    return True


def _add(step: Step) -> Operand:
    one, other = step.operands[:2]
    if isinstance(one, Value):
        return one.plus(other) if isinstance(other, Value) else one.add(np.asarray(other))
    return other.add(np.asarray(one)) if isinstance(other, Value) else np.asarray(one) + np.asarray(other)


def _subtract(step: Step) -> Operand:
    one, other = step.operands[:2]
    if isinstance(other, Value):
        minus = other.scale(np.array(-1.0))
        return one.plus(minus) if isinstance(one, Value) else minus.add(np.asarray(one))
    return one.add(-np.asarray(other)) if isinstance(one, Value) else np.asarray(one) - np.asarray(other)


def _multiply(step: Step) -> Operand:
    one, other = step.operands[:2]
    if isinstance(one, Value) and isinstance(other, Value):
        raise step.refuse("a product of two values that both depend on the input is not piecewise affine")
    if isinstance(one, Value):
        return one.scale(np.asarray(other))
    return other.scale(np.asarray(one)) if isinstance(other, Value) else np.asarray(one) * np.asarray(other)


def _divide(step: Step) -> Operand:
    one, by = step.operands[0], step.constant(1)
    if by is None or not np.all(by):
        raise step.refuse("a division by zero")
    return one.scale(1 / by) if isinstance(one, Value) else np.asarray(one) / by


def _product(one: Operand, other: Operand, step: Step) -> Operand:
    """Matrix product of which one side is constant, stacks of matrices included."""
    if isinstance(one, Value) and isinstance(other, Value):
        raise step.refuse("a product of two values that both depend on the input is not piecewise affine")
    if not isinstance(one, Value) and not isinstance(other, Value):
        return np.asarray(np.asarray(one) @ np.asarray(other))
    value, from_left = (one, False) if isinstance(one, Value) else (other, True)
    assert isinstance(value, Value)
    weights = np.asarray(one if from_left else other, dtype=np.float64)
    if value.size == value.shape[-1] and weights.ndim == 2 and not from_left and value.size == weights.shape[0]:
        return value.map(weights.T, (*value.shape[:-1], weights.shape[1]))
    if from_left and len(value.shape) == 1 and weights.ndim == 2 and value.size == weights.shape[1]:
        return value.map(weights, (weights.shape[0],))
    # Both sides as (stack, row, column, inner), so that every product entry says where its two factors lie.
    places = np.arange(value.size).reshape(value.shape)
    left, right = (weights, places) if from_left else (places, weights)
    shape = np.matmul(np.empty(left.shape, bool), np.empty(right.shape, bool)).shape
    left = left[None, :] if left.ndim == 1 else left
    right = right[:, None] if right.ndim == 1 else right
    left, right = np.broadcast_arrays(left[..., :, None, :], np.swapaxes(right, -1, -2)[..., None, :, :])
    columns, values = (right, left) if from_left else (left, right)
    rows = np.repeat(np.arange(math.prod(shape)), columns.shape[-1])
    operator = sparse.csr_array((values.ravel(), (rows, columns.ravel())), shape=(math.prod(shape), value.size))
    return value.map(operator, shape)


def _matmul(step: Step) -> Operand:
    one, other = step.operands[:2]
    if one is None or other is None:
        raise step.refuse("two inputs are expected")
    return _product(one, other, step)


def _gemm(step: Step) -> Operand:
    sides: list[Operand] = []
    for operand, name in zip(step.operands[:2], ("transA", "transB"), strict=True):
        if operand is None or len(operand.shape) != 2:
            raise step.refuse("two matrices are expected")
        flipped = operand if not step.attributes.get(name) else _transposed(operand, (1, 0))
        sides.append(flipped)
    product = _product(sides[0], sides[1], step)
    alpha, beta = float(step.attributes.get("alpha", 1.0)), float(step.attributes.get("beta", 1.0))
    if alpha != 1.0:
        product = product.scale(np.array(alpha)) if isinstance(product, Value) else alpha * product
    extra = step.operands[2] if len(step.operands) > 2 else None
    if extra is None or beta == 0.0:
        return product
    if isinstance(extra, Value):
        extra = extra.scale(np.array(beta))
        return extra.plus(product) if isinstance(product, Value) else extra.add(product)
    return product.add(beta * extra) if isinstance(product, Value) else product + beta * extra


def _transposed(operand: Operand, order: tuple[int, ...]) -> Operand:
    if isinstance(operand, Value):
        return operand.move(np.arange(operand.size).reshape(operand.shape).transpose(order))
    return operand.transpose(order)


def _convolution(step: Step) -> Operand:
    value, kernel = step.value, step.constant(1)
    if kernel is None or kernel.ndim not in (3, 4) or len(value.shape) != kernel.ndim or value.shape[0] != 1:
        raise step.refuse("a convolution in one or two dimensions with constant kernel is expected")
    convolution = widen(step, value, kernel, int(step.attributes.get("group", 1)))
    made = convolution.output_shape
    out = value.convolve(convolution, (1, *made) if kernel.ndim == 4 else (1, made[0], made[2]))
    bias = step.constant(2)
    return out if bias is None else out.add(bias.reshape(-1, *[1] * (kernel.ndim - 2)))


def _transposed_convolution(step: Step) -> Operand:
    """The adjoint of the convolution that leads from what comes out to what goes in."""
    value, kernel = step.value, step.constant(1)
    if kernel is None or kernel.ndim != 4 or len(value.shape) != 4 or value.shape[0] != 1:
        raise step.refuse("a transposed convolution in two dimensions with constant kernel is expected")
    if step.attributes.get("output_shape") or step.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise step.refuse("only padding by numbers is supported, not output_shape or auto_pad")

    def pair(name: str, otherwise: int) -> tuple[int, int]:
        given = [int(i) for i in step.attributes.get(name) or [otherwise] * 2]
        return given[0], given[1]

    pads = [int(p) for p in step.attributes.get("pads") or [0] * 4]
    out = adjoint(
        value, kernel, pair("strides", 1), (pads[0], pads[1], pads[2], pads[3]), pair("dilations", 1),
        int(step.attributes.get("group", 1)), pair("output_padding", 0),
    )  # fmt: skip
    bias = step.constant(2)
    return out if bias is None else out.add(bias.reshape(-1, 1, 1))


def adjoint(  # noqa: PLR0913 - attributes of an ONNX operator
    value: Value,
    kernel: np.ndarray,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    extra: tuple[int, int],
) -> Value:
    """A transposed convolution, whose kernel is (in, out / groups, height, width)."""
    sides = [
        (size - 1) * by - before - after + apart * (taps - 1) + 1 + more
        for size, by, before, after, apart, taps, more in zip(
            value.shape[2:], stride, padding[:2], padding[2:], dilation, kernel.shape[2:], extra, strict=True
        )
    ]
    shape = (int(kernel.shape[1]) * groups, sides[0], sides[1])
    forward = Convolution(np.asarray(kernel, dtype=np.float64), shape, stride, padding, dilation, groups)
    return value.map(sparse.csr_array(forward.matrix().T), (1, *shape))


def repeated(a: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """Nearest-neighbour upsampling by whole factors."""
    for axis, factor in enumerate(factors):
        a = np.repeat(a, factor, axis=axis)
    return a


def _resize(step: Step, a: np.ndarray) -> np.ndarray:
    if step.attributes.get("mode", b"nearest") != b"nearest":
        raise step.refuse("only mode nearest is supported")
    if step.attributes.get("coordinate_transformation_mode", b"half_pixel") in (
        b"align_corners",
        b"tf_crop_and_resize",
    ):
        raise step.refuse("only the coordinates asymmetric, half_pixel and pytorch_half_pixel are supported")
    places = (1,) if step.node.op_type == "Upsample" else (2, 3)
    given = [step.constant(place) for place in places]
    if given[0] is not None and np.size(given[0]):
        factors = np.ravel(given[0]).astype(float)
    elif len(given) > 1 and given[1] is not None:
        factors = np.ravel(given[1]) / np.array(a.shape)
    else:
        factors = np.ravel(step.attributes.get("scales", ())).astype(float)
    if len(factors) != a.ndim or (factors != np.rint(factors)).any() or (factors < 1).any():
        raise step.refuse(f"only whole factors of at least 1, one for each axis, are supported; got {factors}")
    return repeated(a, tuple(int(f) for f in factors))


def largest(step: Step) -> tuple[list[Value], tuple[int, ...]]:
    """The tensors whose largest entries an operator takes, and the shape of the result."""
    if step.node.op_type in ("MaxPool", "GlobalMaxPool"):
        if len(step.node.output) > 1 and step.node.output[1]:
            raise step.refuse("the places of the largest entries are not values")
        return pooled(step, step.value)
    width = step.widest().operator().shape[1]
    given = [v for v in step.operands if v is not None]
    shape = np.broadcast_shapes(*(v.shape for v in given))
    parts = [
        v if isinstance(v, Value) else Value(sparse.csr_array((v.size, width)), np.ravel(v).astype(float), v.shape)
        for v in given
    ]
    # (min(a, b) = -max(-a, -b): whoever asked turns the result back)
    if step.node.op_type == "Min":
        parts = [v.scale(np.array(-1.0)) for v in parts]
    return [v.spread(np.empty(shape)) for v in parts], shape


def _batch_norm(step: Step) -> Operand:
    if step.attributes.get("training_mode") or any(step.node.output[1:]):
        raise step.refuse("it is in training mode; export the model in evaluation mode")
    scale, shift, mean, variance = (np.asarray(step.constant(i), dtype=np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(variance + float(step.attributes.get("epsilon", 1e-5)))
    along = (-1, *[1] * (len(step.value.shape) - 2))
    return step.value.scale(factor.reshape(along)).add((shift - mean * factor).reshape(along))


def normalisation(step: Step) -> tuple[tuple[int, ...], float]:
    """Axes and epsilon of a LayerNormalization or RMSNormalization; only its first output can be represented."""
    if any(step.node.output[1:]):
        raise step.refuse("its mean and variance are asked for as outputs")
    axis, count = int(step.attributes.get("axis", -1)), len(step.value.shape)
    axes = tuple(range(axis % count, count))
    if 0 in axes:
        raise step.refuse("it normalises over the batch")
    return axes, float(step.attributes.get("epsilon", 1e-5))


def gained(step: Step, value: Value) -> Value:
    """With the scale and the shift that follow a normalisation."""
    scale, shift = (step.constant(place) for place in (1, 2))
    value = value if scale is None else value.scale(np.asarray(scale, dtype=np.float64))
    return value if shift is None else value.add(np.asarray(shift, dtype=np.float64))


def _move(places: Callable[[Step, np.ndarray], np.ndarray]) -> Callable[[Step], Operand]:
    """An operator that only moves entries, from how it moves an array."""

    def operator(step: Step) -> Operand:
        operand = step.operands[0]
        if not isinstance(operand, Value):
            return places(step, np.asarray(operand))
        return operand.move(places(step, np.arange(operand.size).reshape(operand.shape)))

    return operator


def _flatten(step: Step, a: np.ndarray) -> np.ndarray:
    axis = int(step.attributes.get("axis", 1))
    axis = axis + a.ndim if axis < 0 else axis
    return a.reshape(math.prod(a.shape[:axis]), -1)


def _reshape(step: Step, a: np.ndarray) -> np.ndarray:
    target = step.integers("shape", 1)
    if target is None:
        raise step.refuse("the new shape is missing")
    if not step.attributes.get("allowzero"):
        target = [a.shape[i] if t == 0 else t for i, t in enumerate(target)]
    return a.reshape(target)


def _squeeze(step: Step, a: np.ndarray) -> np.ndarray:
    axes = step.integers("axes", 1)
    return a.squeeze(None if axes is None else tuple(axes))


def _unsqueeze(step: Step, a: np.ndarray) -> np.ndarray:
    return np.expand_dims(a, tuple(step.integers("axes", 1) or ()))


def _gather(step: Step, a: np.ndarray) -> np.ndarray:
    indices = step.constant(1)
    if indices is None or indices.dtype.kind not in "iu" or indices.size * a.size > 10**10:
        raise step.refuse("constant integer indices of a sensible number are expected")
    return np.take(a, indices, axis=int(step.attributes.get("axis", 0)))


def _concat(step: Step) -> Operand:
    values = [v for v in step.operands if v is not None]
    first = next((v for v in values if isinstance(v, Value)), None)
    axis = int(step.attributes["axis"])
    if first is None:
        return np.concatenate([np.asarray(v) for v in values], axis=axis)
    width = first.operator().shape[1]
    return join(values, axis, width)


def _constant(step: Step) -> Operand:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in step.attributes:
            return np.asarray(step.attributes[name])
    raise step.refuse("a constant number is expected")


def _cast(step: Step) -> Operand:
    if isinstance(step.operands[0], Value) and step.attributes.get("to") not in (1, 10, 11):
        raise step.refuse("a cast of values to integers is not affine")
    return np.asarray(step.operands[0]) if not isinstance(step.operands[0], Value) else step.operands[0]


def _dropout(step: Step) -> Operand:
    if bool(np.any(step.constant(2, False))):
        raise step.refuse("it is in training mode; export the model in evaluation mode")
    return step.value


ACTIVATIONS_BY_OPERATOR: dict[str, Callable[[Step], Activation]] = {
    "Relu": lambda s: activation("relu"),
    "LeakyRelu": lambda s: leaky_relu(s.alpha(0.01)),
    "Elu": lambda s: elu(s.alpha(1.0)),
    "Tanh": lambda s: activation("tanh"),
    "Sigmoid": lambda s: activation("sigmoid"),
    "Softplus": lambda s: activation("softplus"),
    "Erf": lambda s: activation("erf"),
    "Atan": lambda s: activation("arctan"),
    "Sin": lambda s: activation("sin"),
    "Gelu": lambda s: s.gelu(),
    "Abs": lambda s: activation("abs"),
    "Clip": lambda s: s.clip(),
    "HardSigmoid": lambda s: hard_sigmoid(float(s.attributes.get("alpha", 0.2)), float(s.attributes.get("beta", 0.5))),
    "PRelu": lambda s: s.prelu(),
    "Swish": lambda s: activation("silu"),
    "Selu": lambda s: s.selu(),
    "Mish": lambda s: activation("mish"),
    "Softsign": lambda s: activation("softsign"),
    "HardSwish": lambda s: activation("hardswish"),
}

OPERATORS: dict[str, Callable[[Step], Operand]] = {
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Resize": _move(_resize),
    "Upsample": _move(_resize),
    "BatchNormalization": _batch_norm,
    "AveragePool": lambda s: average(s, s.value),
    "GlobalAveragePool": lambda s: mean_over(s.value, tuple(range(2, len(s.value.shape))), True),
    "ReduceMean": lambda s: mean_over(
        s.value,
        tuple(a % len(s.value.shape) for a in s.integers("axes", 1) or range(len(s.value.shape))),
        bool(s.attributes.get("keepdims", 1)),
    ),
    "Flatten": _move(_flatten),
    "Reshape": _move(_reshape),
    "Transpose": _move(lambda s, a: a.transpose(s.attributes.get("perm"))),
    "Squeeze": _move(_squeeze),
    "Unsqueeze": _move(_unsqueeze),
    "Gather": _move(_gather),
    "Concat": _concat,
    "Constant": _constant,
    "Cast": _cast,
    "Dropout": _dropout,
    "Identity": _move(lambda s, a: a),
}
MAXIMUM_OPERATORS = ("MaxPool", "GlobalMaxPool", "Max", "Min")
"""Operators that become several layers."""
NORMALISING = ("LayerNormalization", "RMSNormalization")
"""Normalisations over the last axes, which become several layers, too."""
SUPPORTED = {*OPERATORS, *ACTIVATIONS_BY_OPERATOR, *MAXIMUM_OPERATORS, *NORMALISING, "Softmax"}
