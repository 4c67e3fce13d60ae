"""Averages and the geometry of convolutions, as ONNX states them."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from unveil.whitebox.convolution import Convolution
from unveil.whitebox.formats.affine import Value


def widen(step: Any, value: Value, kernel: np.ndarray, groups: int = 1) -> Convolution:
    """The convolution that a Conv or AveragePool node states; one-dimensional ones become pictures of height 1."""
    flat = kernel.ndim == 3
    kernel = kernel[:, :, None] if flat else kernel
    channels, height, width = (value.shape[1], 1, value.shape[2]) if flat else value.shape[1:]
    shape = (channels, height, width)

    def pair(name: str, otherwise: int) -> tuple[int, int]:
        given = [int(i) for i in step.attributes.get(name) or [otherwise] * (1 if flat else 2)]
        return (otherwise, given[0]) if flat else (given[0], given[1])

    stride, dilation = pair("strides", 1), pair("dilations", 1)
    pads = [int(p) for p in step.attributes.get("pads") or [0] * (2 if flat else 4)]
    padding = (0, pads[0], 0, pads[1]) if flat else (pads[0], pads[1], pads[2], pads[3])
    automatic = step.attributes.get("auto_pad", b"NOTSET").decode()
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        wanted = []
        for size, by, taps, apart in zip(shape[1:], stride, kernel.shape[2:], dilation, strict=True):
            total = max((-(-size // by) - 1) * by + (taps - 1) * apart + 1 - size, 0)
            small, large = total // 2, total - total // 2
            wanted.append((small, large) if automatic == "SAME_UPPER" else (large, small))
        padding = (wanted[0][0], wanted[1][0], wanted[0][1], wanted[1][1])
    elif automatic not in ("NOTSET", "VALID"):
        raise step.refuse(f"auto_pad {automatic!r} is not known")
    return Convolution(np.asarray(kernel, dtype=np.float64), shape, stride, padding, dilation, groups)


def average(step: Any, value: Value) -> Value:
    """AveragePool: a convolution of every channel by itself."""
    if step.attributes.get("ceil_mode"):
        raise step.refuse("ceil_mode=1 is not supported; export with ceil_mode=0")
    if len(value.shape) not in (3, 4) or value.shape[0] != 1:
        raise step.refuse("a picture with channels is expected")
    taps = [int(k) for k in step.attributes["kernel_shape"]]
    kernel = np.full((value.shape[1], 1, *taps), 1 / np.prod(taps))
    convolution = widen(step, value, kernel, groups=value.shape[1])
    made = convolution.output_shape
    shape = (1, *made) if len(taps) == 2 else (1, made[0], made[2])
    if step.attributes.get("count_include_pad"):
        return value.convolve(convolution, shape)
    matrix = convolution.matrix()
    return value.map(sparse.diags_array(1 / matrix.sum(axis=1)) @ matrix, shape)


def averages(value: Value, wanted: Any) -> Value:
    """An adaptive average pooling of (1, channels, height, width), to a given height and width.

    Args:
        value: The pictures.
        wanted: The height and width, or one number for both; None keeps a side as it is.
    """
    sides = [
        size if made is None else int(made)
        for made, size in zip(
            wanted if isinstance(wanted, tuple | list) else (wanted,) * 2, value.shape[2:], strict=True
        )
    ]
    rows = [sparse.eye_array(value.shape[1])]
    for made, size in zip(sides, value.shape[2:], strict=True):
        spans = [(i * size // made, -(-(i + 1) * size // made)) for i in range(made)]
        rows.append(sparse.csr_array([[(a <= j < b) / (b - a) for j in range(size)] for a, b in spans]))
    operator = sparse.csr_array(sparse.kron(rows[0], sparse.kron(rows[1], rows[2])))
    return value.map(operator, (*value.shape[:2], *sides))


def windows(value: Value, convolution: Convolution) -> list[Value]:
    """What each tap of a pooling reads, a tensor per tap; padding stands for another entry of the same window."""
    sources = convolution.sources()
    filled = np.where(sources < 0, sources.max(axis=2, keepdims=True), sources)
    return [value.move(filled[:, :, t].reshape(1, *convolution.output_shape)) for t in range(filled.shape[2])]


def pooled(step: Any, value: Value) -> tuple[list[Value], tuple[int, ...]]:
    """MaxPool and GlobalMaxPool: what each tap reads, and the shape of the result."""
    if step.attributes.get("ceil_mode"):
        raise step.refuse("ceil_mode=1 is not supported; export with ceil_mode=0")
    if len(value.shape) not in (3, 4) or value.shape[0] != 1:
        raise step.refuse("a picture with channels is expected")
    taps = step.attributes.get("kernel_shape") or value.shape[2:]
    kernel = np.ones((value.shape[1], 1, *(int(k) for k in taps)))
    convolution = widen(step, value, kernel, groups=value.shape[1])
    made = convolution.output_shape
    return windows(value, convolution), (1, *made) if len(taps) == 2 else (1, made[0], made[2])
