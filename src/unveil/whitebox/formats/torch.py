"""Networks from and to torch modules."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from unveil.arguments import must_be
from unveil.outcome import BadInput, SourceError, unreadable
from unveil.torch_weights import with_weights
from unveil.whitebox.activation import Activation, activation, by_rows, clip, elu, hard_sigmoid, leaky_relu
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.formats.affine import Trail, Value
from unveil.whitebox.formats.onnx_operators import adjoint, repeated
from unveil.whitebox.formats.pooling import averages, windows
from unveil.whitebox.formats.torch_functions import ABS, as_module, name_of, worked_out
from unveil.whitebox.network import Network, must_be_known

if TYPE_CHECKING:
    from torch import nn

TORCH_TOLERANCE = 1e-9


def from_torch(module: nn.Module, shape: tuple[int, ...] = (), weights: str | Path | None = None) -> Network:
    """The network in a torch module, in evaluation mode and float64.

    Args:
        module: A Sequential, or a module whose forward torch.fx can follow (residual blocks): sums, differences and
            concatenations of Linear, Conv1d, Conv2d, ConvTranspose2d, BatchNorm, LayerNorm, RMSNorm, GroupNorm,
            AvgPool2d, AdaptiveAvgPool2d, MaxPool1d, MaxPool2d, Upsample (nearest), Flatten, Dropout, elementwise
            activations and a final Softmax, as modules or as functions (`torch.nn.functional`), and tensors reshaped,
            averaged and scaled.
        shape: Shape of one input; may be left out when the first layer is Linear.
        weights: A file with the weights of `module` (or of its class, called without arguments), `.safetensors` or a
            state dictionary that torch saved.

    Raises:
        BadInput: A module of another kind; its name and class are told. Or the weights do not fit it.
        SourceError: The import disagrees with the module on random inputs.

    Examples:
        >>> from torch import nn
        >>> network = uv.from_torch(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
        >>> network.n, network.widths
        (4, (5, 2))
    """
    import torch

    if weights is not None:
        module = with_weights(module, weights)
    must_be(module, torch.nn.Module, "a torch module", "a file is read with load(path)")
    exact = copy.deepcopy(module).double().cpu().eval()
    if not list(exact.children()) and type(exact).__module__.startswith("torch.nn."):
        exact = torch.nn.Sequential(exact)  # a single layer
    parts = [(name, part) for name, part in exact.named_modules() if not list(part.children())]
    if not shape:
        first = parts[0][1]
        if not isinstance(first, torch.nn.Linear):
            raise BadInput("from_torch needs shape=, the shape of one input, unless the first module is Linear")
        shape = (first.in_features,)
    width = int(np.prod(shape))
    x = np.random.default_rng(0).uniform(-0.5, 1.5, size=(3, width))
    try:
        with torch.no_grad():
            expected = exact(torch.from_numpy(x).reshape(-1, *shape)).reshape(len(x), -1).numpy()
    except (RuntimeError, ValueError, IndexError, TypeError) as raised:
        raise BadInput(f"the module does not take inputs of shape {shape}: {unreadable(raised)}") from None
    trail = Trail(width)
    value, softmax = _followed(exact, trail, Value(None, np.zeros(width), (1, *shape)))
    network = trail.network(value, shape, softmax)
    error = np.abs(network(x) - expected).max() / (1 + np.abs(expected).max())
    if not error <= TORCH_TOLERANCE:
        raise SourceError(f"the import disagrees with the torch module by {error:.1e} (relative); please report it")
    return network


def _followed(module: Any, trail: Trail, entry: Value) -> tuple[Value, bool]:
    """What comes out of a module, and whether a softmax is on top, by its graph.

    Raises:
        BadInput: The graph cannot be followed, or holds what a `Network` cannot represent.
    """
    import torch

    try:
        graph = torch.fx.symbolic_trace(module).graph
    except Exception as error:  # whatever a forward may do
        name = next((n for n, p in module.named_modules() if not isinstance(p, torch.nn.Sequential)), "")
        raise BadInput(
            f"module {name or type(module).__name__!r} is no nn.Sequential and its forward cannot be followed "
            f"({type(error).__name__}); save it as ONNX"
        ) from error
    nodes, parts = list(graph.nodes), dict(module.named_modules())
    last_use = {each: i for i, node in enumerate(nodes) for each in node.all_input_nodes}
    known: dict[Any, Any] = {}  # of each node so far, its tensor, or numbers that do not depend on the input
    softmax = False
    for i, node in enumerate(nodes):
        if node.op == "placeholder":
            if known:
                raise BadInput("the module takes several inputs; one is expected")
            known[node] = entry
            continue
        if node.op == "output":
            if not isinstance(known.get(node.args[0]), Value):
                raise BadInput("the module gives several outputs; one is expected")
            return known[node.args[0]], softmax
        if softmax:
            raise BadInput(f"module {node.target!r} comes after a softmax, which can only be the last one")
        if node.op == "get_attr":
            held = functools.reduce(getattr, node.target.split("."), module)
            known[node] = np.asarray(held.detach().numpy(), dtype=np.float64)
            continue
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        if node.op != "call_module":
            made = worked_out(node, args, kwargs, trail.width)
            if made is not None:
                known[node] = made
                continue
        part, value = as_module(node, parts, args, kwargs), args[0] if args else kwargs.get("input")
        names = {each.name: each for each, v in known.items() if last_use.get(each, -1) > i and isinstance(v, Value)}
        alive = {name: known[each] for name, each in names.items()}
        phi = _activation(part, value)
        if isinstance(part, torch.nn.Softmax):
            softmax, known[node] = True, value
        elif phi is None and not isinstance(part, (torch.nn.MaxPool1d, torch.nn.MaxPool2d, *_normalising())):
            known[node] = _affine(name_of(node), part, value)
        else:
            if isinstance(part, _normalising()):
                made, moved = _normalised(part, value, trail, alive)
            elif phi is not None:
                made, moved = trail.activate(value, phi, alive)
            else:
                made, moved = trail.largest(_taps(name_of(node), part, value), alive)
            numbers = {each: v for each, v in known.items() if not isinstance(v, Value)}
            known = numbers | {names[name]: v for name, v in moved.items()} | {node: made}
    raise BadInput("the module gives no output")


def _taps(name: str, part: Any, value: Value) -> list[Value]:
    """What each tap of a MaxPool1d or MaxPool2d reads."""
    flat, given = len(value.shape) == 3, (part.kernel_size, part.stride, part.padding, part.dilation)
    if part.ceil_mode or part.return_indices:
        raise BadInput(f"module {name!r}: {type(part).__name__} is supported without ceil_mode and return_indices")
    # A sequence is a picture of height 1, which has no padding above and below.
    sides: list[Any] = [(int(i == 2) ^ 1, *_pair(v)[:1]) if flat else _pair(v) for i, v in enumerate(given)]
    shape = (value.shape[1], 1, value.shape[2]) if flat else value.shape[1:]
    kernel = np.ones((value.shape[1], 1, *sides[0]))
    taps = windows(value, Convolution(kernel, shape, sides[1], sides[2] * 2, sides[3], value.shape[1]))  # type: ignore[arg-type]
    return [replace(tap, shape=(*tap.shape[:2], tap.shape[3])) for tap in taps] if flat else taps


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def to_torch(network: Network) -> nn.Sequential:
    """The network as a float64 `torch.nn.Sequential` that takes (N, n).

    Raises:
        BadInput: An activation that torch has no module for.

    Examples:
        >>> first = np.array([[1.0, 0, 1], [0, 1, -1]])
        >>> network = uv.Network.from_weights([(first, np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
        >>> [type(module).__name__ for module in uv.to_torch(network)]
        ['Linear', 'ReLU', 'Linear']
    """
    must_be_known(network)
    import torch
    from torch import nn

    modules: list[nn.Module] = [nn.Flatten()] if len(network.shape) > 1 else []
    for layer in network.layers:
        c = layer.convolution
        shared = c is not None and (np.ptp(layer.bias.reshape(c.kernel.shape[0], -1), axis=1) == 0).all()
        if c is not None and shared:
            top, left, bottom, right = c.padding
            conv = nn.Conv2d(
                c.input_shape[0], c.kernel.shape[0], c.kernel.shape[2:], c.stride, 0, c.dilation, c.groups
            ).double()
            weights, bias = c.kernel, layer.bias.reshape(c.kernel.shape[0], -1)[:, 0]
            modules += [nn.Unflatten(1, c.input_shape), nn.ZeroPad2d((left, right, top, bottom)), conv, nn.Flatten()]
        else:
            conv = nn.Linear(layer.inputs, layer.neurons).double()
            weights, bias = layer.dense(), layer.bias
            modules.append(conv)
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(np.array(weights)))
            conv.bias.copy_(torch.from_numpy(np.array(bias)))
        modules += _module(layer.activation)
    if network.softmax:
        modules.append(nn.Softmax(dim=1))
    return nn.Sequential(*modules)


def _activation(part: Any, value: Value) -> Activation | None:
    from torch import nn

    if part is ABS:
        return activation("abs")
    if isinstance(part, nn.Hardtanh):  # ReLU6 is one
        return clip(float(part.min_val), float(part.max_val))
    if isinstance(part, nn.Hardsigmoid):
        return hard_sigmoid()
    if isinstance(part, nn.PReLU):
        slopes = [float(v) for v in part.weight.detach().numpy()]
        each = value.size // len(slopes)
        return by_rows([(leaky_relu(slope), each) for slope in slopes])
    if isinstance(part, nn.LeakyReLU):
        return leaky_relu(float(part.negative_slope))
    if isinstance(part, nn.ELU):
        return elu(float(part.alpha))
    if isinstance(part, nn.Softplus):
        if part.beta != 1:
            raise BadInput(f"Softplus with beta={part.beta} is not supported, only beta=1")
        return activation("softplus")
    if isinstance(part, nn.GELU):
        return activation("gelu" if part.approximate == "none" else "gelu_tanh")
    names = {nn.SiLU: "silu", nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
    names |= {nn.SELU: "selu", nn.Mish: "mish", nn.Softsign: "softsign", nn.Hardswish: "hardswish"}
    return next((activation(name) for kind, name in names.items() if isinstance(part, kind)), None)


def _module(phi: Activation) -> list[Any]:
    from torch import nn

    family, _, rest = phi.name.partition("(")
    simple = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softplus": _softplus, "gelu": nn.GELU}
    simple |= {"silu": nn.SiLU, "gelu_tanh": _gelu_tanh, "selu": nn.SELU, "mish": nn.Mish, "softsign": nn.Softsign}
    simple |= {"hardswish": nn.Hardswish}
    if family == "identity":
        return []
    if family == "clip":
        low, high = (float(v) for v in rest[:-1].split(","))
        return [nn.Hardtanh(low, high)]
    if family in simple:
        return [simple[family]()]
    if family == "leaky_relu":
        return [nn.LeakyReLU(float(rest[:-1]) if rest else 0.01)]
    if family == "elu":
        return [nn.ELU(float(rest[:-1]) if rest else 1.0)]
    raise BadInput(f"torch has no module for the activation {phi.name!r}; save it as ONNX")


def _gelu_tanh() -> Any:
    from torch import nn

    return nn.GELU(approximate="tanh")


def _softplus() -> Any:
    from torch import nn

    # torch switches to the identity above a threshold; a large one keeps the function exact to rounding.
    return nn.Softplus(threshold=50)


def _normalising() -> tuple[type, ...]:
    from torch import nn

    return (nn.LayerNorm, nn.GroupNorm, *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []))


def _normalised(part: Any, value: Value, trail: Trail, alive: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
    """A LayerNorm, RMSNorm or GroupNorm, with its gain and shift."""
    from torch import nn

    shape = value.shape
    grouped = isinstance(part, nn.GroupNorm)
    axes: tuple[int, ...]
    if grouped:
        apart = (1, int(part.num_groups), value.size // int(part.num_groups))
        value, axes = value.move(np.arange(value.size).reshape(apart)), (2,)
    else:
        axes = tuple(range(len(shape) - len(part.normalized_shape), len(shape)))
    centred = isinstance(part, nn.LayerNorm | nn.GroupNorm)
    # (without one of its own: that of the precision, which is double here)
    epsilon = float(np.finfo(np.float64).eps if part.eps is None else part.eps)
    made, moved = trail.normalised(value, axes, epsilon, alive, centred=centred)
    made = made.move(np.arange(made.size).reshape(shape))
    along = (-1, *[1] * (len(shape) - 2)) if grouped else None
    for name in ("weight", "bias"):
        given = getattr(part, name, None)
        if given is not None:
            array = np.asarray(given.detach().numpy(), dtype=np.float64)
            array = array if along is None else array.reshape(along)
            made = made.scale(array) if name == "weight" else made.add(array)
    return made, moved


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().numpy(), dtype=np.float64)


def _affine(name: str, part: Any, value: Value) -> Value:
    from torch import nn

    if isinstance(part, nn.Linear):
        weights, rows = _array(part.weight), value.size // value.shape[-1]
        operator = weights if rows == 1 else sparse.kron(sparse.eye_array(rows), weights, format="csr")
        out = value.map(operator, (*value.shape[:-1], part.out_features))
        return out if part.bias is None else out.add(_array(part.bias))
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        spatial = [1] * (len(value.shape) - 2)
        factor = 1 / np.sqrt(_array(part.running_var) + part.eps)
        shift = -_array(part.running_mean) * factor
        if part.affine:
            factor, shift = factor * _array(part.weight), shift * _array(part.weight) + _array(part.bias)
        return value.scale(factor.reshape(-1, *spatial)).add(shift.reshape(-1, *spatial))
    if isinstance(part, nn.LogSoftmax):
        raise BadInput(
            f"{name!r} is a log-softmax, which cannot be represented: leave it off, as logits tell the same up to a "
            "shift, or take Softmax in its place"
        )
    made = _moved(name, part, value)
    made = _pooled(name, part, value) if made is None else made
    if made is not None:
        return made
    raise BadInput(
        f"module {name!r} ({type(part).__name__}) cannot be represented; affine modules and elementwise activations can"
    )


def _pooled(name: str, part: Any, value: Value) -> Value | None:
    """A convolution or an average; None if it is neither."""
    from torch import nn

    if isinstance(part, nn.Conv1d | nn.Conv2d):
        if part.padding_mode != "zeros":
            raise BadInput(f"module {name!r}: only padding with zeros is supported, not {part.padding_mode!r}")
        # torch keeps what "same" and "valid" come to, last side first: an even kernel has one more behind than before.
        left, right, top, bottom = [*part._reversed_padding_repeated_twice, 0, 0][:4]
        stride, dilation, around = tuple(part.stride), tuple(part.dilation), (top, left, bottom, right)
        kernel, shape, made = _array(part.weight), value.shape[1:], slice(None)
        if isinstance(part, nn.Conv1d):  # of pictures of height 1
            kernel, stride, dilation = kernel[:, :, None], (1, *stride), (1, *dilation)
            shape, made = (shape[0], 1, shape[1]), slice(None, None, 2)
        convolution = Convolution(kernel, shape, stride, around, dilation, part.groups)  # type: ignore[arg-type]
        whole: tuple[int, ...] = convolution.output_shape
        out = value.convolve(convolution, (1, *whole[made]))
        return out if part.bias is None else out.add(_array(part.bias).reshape(-1, *[1] * (len(value.shape) - 2)))
    if isinstance(part, nn.ConvTranspose2d):
        (p, q), extra = part.padding, tuple(part.output_padding)
        out = adjoint(
            value, _array(part.weight), tuple(part.stride), (p, q, p, q), tuple(part.dilation), part.groups, extra
        )
        return out if part.bias is None else out.add(_array(part.bias).reshape(-1, 1, 1))
    if isinstance(part, nn.AvgPool2d):
        sides = [_pair(v) for v in (part.kernel_size, part.stride, part.padding)]
        if part.ceil_mode or part.divisor_override:
            raise BadInput(f"module {name!r}: AvgPool2d is supported without ceil_mode and divisor_override")
        kernel = np.full((value.shape[1], 1, *sides[0]), 1 / np.prod(sides[0]))
        convolution = Convolution(kernel, value.shape[1:], sides[1], sides[2] * 2, (1, 1), value.shape[1])  # type: ignore[arg-type]
        if any(sides[2]) and not part.count_include_pad:
            matrix = convolution.matrix()
            return value.map(sparse.diags_array(1 / matrix.sum(axis=1)) @ matrix, (1, *convolution.output_shape))
        return value.convolve(convolution, (1, *convolution.output_shape))
    if isinstance(part, nn.AdaptiveAvgPool2d):
        return averages(value, part.output_size)
    return None


def _moved(name: str, part: Any, value: Value) -> Value | None:
    """What only moves and repeats entries; None if it does more."""
    from torch import nn

    if isinstance(part, nn.Upsample):
        factors = part.scale_factor if isinstance(part.scale_factor, tuple) else (part.scale_factor,) * 2
        if part.mode != "nearest" or len(value.shape) != 4 or any(s is None or int(s) != s for s in factors):
            raise BadInput(f"module {name!r}: Upsample is supported in mode nearest, by whole factors")
        places = np.arange(value.size).reshape(value.shape)
        return value.move(repeated(places, (1, 1, *(int(s) for s in factors))))
    if isinstance(part, nn.ZeroPad2d):
        left, right, top, bottom = part.padding
        places = np.arange(value.size).reshape(value.shape)
        return value.move(np.pad(places, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-1))
    if isinstance(part, nn.Flatten):
        return value.move(np.arange(value.size).reshape(value.shape).reshape(1, -1))
    if isinstance(part, nn.Unflatten):
        return value.move(np.arange(value.size).reshape(1, *part.unflattened_size))
    if isinstance(part, nn.modules.dropout._DropoutNd | nn.Identity):
        return value
    return None
