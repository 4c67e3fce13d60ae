"""Functions and tensor methods in a torch module's forward, as most people write them: as modules, or worked out."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from unveil.outcome import BadInput
from unveil.whitebox.formats.affine import Value, join, mean_over

ABS = "abs"


def name_of(node: Any) -> str:
    """What a node of a graph calls: a function or a method."""
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))


def worked_out(node: Any, args: tuple[Any, ...], kwargs: dict[str, Any], width: int) -> Any:
    """What a node gives that needs no layer of its own: a tensor, or numbers such as its shape.

    Args:
        node: Of torch's graph, a function or a method.
        args: What it is given, tensors as `Value`.
        kwargs: The same by name.
        width: Of the last layer.

    Returns:
        A `Value`, a number or a tuple of these; None if the node stands for a module.

    Raises:
        BadInput: A use that cannot be represented.
    """
    name = name_of(node)
    if not any(isinstance(each, Value) for each in (args[0] if _several(args) else args)):
        # (sizes only: batches are of one input here)
        function = getattr(operator, name, None)
        return function(*args, **kwargs) if function is not None and function is node.target else None
    if name in ("cat", "concat"):
        return join(args[0], int(kwargs.get("dim", args[1] if len(args) > 1 else 0)), width)
    value = args[0]
    if name in ("add", "iadd", "sub", "isub", "mul", "imul", "truediv", "itruediv", "div", "neg"):
        return _arithmetic(name, args, kwargs)
    if name == "size":
        return value.shape[args[1]] if len(args) > 1 else value.shape
    if name == "getattr":
        return value.shape if args[1] == "shape" else None
    if name in ("contiguous", "clone", "detach", "double", "float"):
        return value
    if name == "mean":
        return _mean(value, kwargs.get("dim", args[1] if len(args) > 1 else None), bool(kwargs.get("keepdim", False)))
    made = _places(name, np.arange(value.size).reshape(value.shape), args[1:], kwargs)
    if made is None:
        return None
    if not made.ndim or made.shape[0] != 1:
        raise BadInput(f"the function {name!r} in the module's forward mixes up the inputs of a batch")
    return value.move(made)


def _several(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], list | tuple)


def _arithmetic(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
    if kwargs:
        raise BadInput(f"the function {name!r} with {', '.join(kwargs)}= cannot be represented; save it as ONNX")
    if name == "neg":
        return _scaled(args[0], -1.0)
    one, other = args[:2]
    name = name.removeprefix("i")
    if name in ("add", "sub"):
        sign = -1.0 if name == "sub" else 1.0
        if isinstance(one, Value) and isinstance(other, Value):
            return one.plus(_scaled(other, sign))
        if isinstance(one, Value):
            return one.add(sign * np.asarray(other, float))
        return _scaled(other, sign).add(np.asarray(one, float))
    if isinstance(other, Value) and (name != "mul" or isinstance(one, Value)):
        raise BadInput(f"the function {name!r} of two tensors that depend on the input cannot be represented")
    value, factor = (one, other) if isinstance(one, Value) else (other, one)
    return _scaled(value, np.asarray(factor, float) if name == "mul" else 1 / np.asarray(factor, float))


def _scaled(value: Value, factor: Any) -> Value:
    return value.scale(np.asarray(factor, float))


def _mean(value: Value, axes: Any, keep: bool) -> Value:
    rank = len(value.shape)
    chosen = tuple(
        int(a) % rank for a in (axes if isinstance(axes, list | tuple) else [axes] if axes is not None else [0])
    )
    if 0 in chosen:
        raise BadInput("a mean over the batch in the module's forward cannot be represented; name the other axes")
    return mean_over(value, chosen, keep)


def _places(name: str, at: np.ndarray, args: tuple[Any, ...], kwargs: dict[str, Any]) -> np.ndarray | None:
    """Where each entry of the result comes from; None for a function that is no such move."""
    flat = tuple(args[0]) if _several(args) else args
    if name in ("view", "reshape"):
        return at.reshape(flat or tuple(kwargs.get("shape", ())))
    if name == "flatten":
        start = kwargs.get("start_dim", flat[0] if flat else 0) % at.ndim
        end = kwargs.get("end_dim", flat[1] if len(flat) > 1 else -1) % at.ndim
        return at.reshape((*at.shape[:start], -1, *at.shape[end + 1 :]))
    if name == "squeeze":
        dim = kwargs.get("dim", flat[0] if flat else None)
        chosen = range(1, at.ndim) if dim is None else [dim % at.ndim]
        return at.squeeze(tuple(i for i in chosen if at.shape[i] == 1))
    if name == "unsqueeze":
        return np.expand_dims(at, kwargs.get("dim", flat[0] if flat else 0))
    if name == "permute":
        return at.transpose(flat or tuple(kwargs["dims"]))
    if name == "transpose":
        return at.swapaxes(*(flat or (kwargs["dim0"], kwargs["dim1"])))
    if name == "getitem":
        taken = args[0] if isinstance(args[0], tuple) else (args[0],)
        return at[taken] if taken[0] in (slice(None), Ellipsis) else at[:0]
    return None


def as_module(node: Any, parts: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The module that a node stands for.

    Raises:
        BadInput: A function that has no module here.
    """
    import torch
    from torch import nn

    if node.op == "call_module":
        return parts[node.target]
    name = name_of(node)
    if name == "abs" and node.target in (torch.abs, "abs", abs):
        return ABS
    if name in ("dropout", "dropout2d", "alpha_dropout"):
        if kwargs.get("training", True):
            raise BadInput(f"{name!r} in the module's forward drops in evaluation too: pass training=self.training")
        return nn.Identity()
    if name in ("clamp", "clip"):
        low, high = (kwargs.get(key, args[i] if len(args) > i else None) for i, key in ((1, "min"), (2, "max")))
        if low == 0 and high is None:
            return nn.ReLU()
        if low is not None and high is not None:
            return nn.Hardtanh(float(low), float(high))
    kinds: dict[str, Any] = {
        "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU, "relu6": nn.ReLU6,
        "selu": nn.SELU, "mish": nn.Mish, "softsign": nn.Softsign, "hardswish": nn.Hardswish, "hardtanh": nn.Hardtanh,
        "hardsigmoid": nn.Hardsigmoid, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU,
        "gelu": nn.GELU, "softplus": nn.Softplus, "softmax": nn.Softmax, "log_softmax": nn.LogSoftmax,
        "max_pool2d": nn.MaxPool2d, "avg_pool2d": nn.AvgPool2d, "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
    }  # fmt: skip
    # (torch's own functions pass these on wherever they are called)
    given = {key: value for key, value in kwargs.items() if key not in ("input", "_stacklevel", "inplace")}
    if given.get("dtype", 0) is None:
        del given["dtype"]
    if name in kinds and not any(isinstance(each, Value) for each in (*args[1:], *given.values())):
        try:
            return kinds[name](*args[1:], **given)
        except TypeError:
            pass
    raise BadInput(f"the function {name!r} in the module's forward cannot be represented; save it as ONNX")
