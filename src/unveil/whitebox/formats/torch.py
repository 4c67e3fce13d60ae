"""Networks from and to torch modules."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from unveil.outcome import BadInput, SourceError
from unveil.torch_weights import with_weights
from unveil.whitebox.activation import Activation, activation, elu, leaky_relu
from unveil.whitebox.convolution import Convolution
from unveil.whitebox.formats.affine import Trail, Value
from unveil.whitebox.network import Network

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-9


def from_torch(module: nn.Module, shape: tuple[int, ...] = (), weights: str | Path | None = None) -> Network:
    """The network in a `torch.nn.Sequential`, in evaluation mode and float64.

    Args:
        module: Linear, Conv2d, BatchNorm, AvgPool2d, Flatten, Dropout, elementwise activations and a final Softmax,
            nested or not.
        shape: Shape of one input; may be left out when the first layer is Linear.
        weights: A file with the weights of `module` (or of its class, called without arguments), `.safetensors` or a
            state dictionary that torch saved.

    Raises:
        BadInput: A module of another kind; its name and class are told. Or the weights do not fit it.
        SourceError: The import disagrees with the module on random inputs.
    """
    import torch

    if weights is not None:
        module = with_weights(module, weights)
    exact = copy.deepcopy(module).double().cpu().eval()
    parts = [(name, part) for name, part in exact.named_modules() if not list(part.children())]
    if not shape:
        first = parts[0][1]
        if not isinstance(first, torch.nn.Linear):
            raise BadInput("from_torch needs shape=, the shape of one input, unless the first module is Linear")
        shape = (first.in_features,)
    for name, part in exact.named_modules():
        if list(part.children()) and not isinstance(part, torch.nn.Sequential):
            raise BadInput(
                f"module {name or type(part).__name__!r} is no nn.Sequential, so its wiring is unknown; save it as ONNX"
            )
    width = int(np.prod(shape))
    trail, value, softmax = Trail(width), Value(None, np.zeros(width), (1, *shape)), False
    for name, part in parts:
        if softmax:
            raise BadInput(f"module {name!r} comes after a softmax, which can only be the last one")
        phi = _activation(part)
        if phi is not None:
            value, _ = trail.activate(value, phi, {})
        elif isinstance(part, torch.nn.Softmax):
            softmax = True
        else:
            value = _affine(name, part, value)
    network = trail.network(value, shape, softmax)
    x = np.random.default_rng(0).uniform(-0.5, 1.5, size=(3, width))
    with torch.no_grad():
        expected = exact(torch.from_numpy(x).reshape(-1, *shape)).reshape(len(x), -1).numpy()
    error = np.abs(network(x) - expected).max() / (1 + np.abs(expected).max())
    if not error <= TOLERANCE:
        raise SourceError(f"the import disagrees with the torch module by {error:.1e} (relative); please report it")
    return network


def to_torch(network: Network) -> nn.Sequential:
    """The network as a float64 `torch.nn.Sequential` that takes (N, n).

    Raises:
        BadInput: An activation that torch has no module for.
    """
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


def _activation(part: Any) -> Activation | None:
    from torch import nn

    if isinstance(part, nn.LeakyReLU):
        return leaky_relu(float(part.negative_slope))
    if isinstance(part, nn.ELU):
        return elu(float(part.alpha))
    if isinstance(part, nn.Softplus):
        if part.beta != 1:
            raise BadInput(f"Softplus with beta={part.beta} is not supported, only beta=1")
        return activation("softplus")
    if isinstance(part, nn.GELU):
        if part.approximate != "none":
            raise BadInput("GELU with approximate='tanh' is not supported, only the exact one")
        return activation("gelu")
    names = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
    return next((activation(name) for kind, name in names.items() if isinstance(part, kind)), None)


def _module(phi: Activation) -> list[Any]:
    from torch import nn

    family, _, rest = phi.name.partition("(")
    simple = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softplus": _softplus, "gelu": nn.GELU}
    if family == "identity":
        return []
    if family in simple:
        return [simple[family]()]
    if family == "leaky_relu":
        return [nn.LeakyReLU(float(rest[:-1]) if rest else 0.01)]
    if family == "elu":
        return [nn.ELU(float(rest[:-1]) if rest else 1.0)]
    raise BadInput(f"torch has no module for the activation {phi.name!r}; save it as ONNX")


def _softplus() -> Any:
    from torch import nn

    # torch switches to the identity above a threshold; a large one keeps the function exact to rounding.
    return nn.Softplus(threshold=50)


def _affine(name: str, part: Any, value: Value) -> Value:
    from torch import nn

    def array(tensor: Any) -> np.ndarray:
        return np.asarray(tensor.detach().numpy(), dtype=np.float64)

    spatial = [1] * (len(value.shape) - 2)
    if isinstance(part, nn.Linear):
        weights, rows = array(part.weight), value.size // value.shape[-1]
        operator = weights if rows == 1 else sparse.kron(sparse.eye_array(rows), weights, format="csr")
        out = value.map(operator, (*value.shape[:-1], part.out_features))
        return out if part.bias is None else out.add(array(part.bias))
    if isinstance(part, nn.Conv2d):
        if part.padding_mode != "zeros" or isinstance(part.padding, str):
            raise BadInput(
                f"module {name!r}: only zero padding by numbers is supported, "
                f"not {part.padding!r} {part.padding_mode!r}"
            )
        (p, q), stride, dilation = part.padding, tuple(part.stride), tuple(part.dilation)
        convolution = Convolution(array(part.weight), value.shape[1:], stride, (p, q, p, q), dilation, part.groups)  # type: ignore[arg-type]
        out = value.convolve(convolution, (1, *convolution.output_shape))
        return out if part.bias is None else out.add(array(part.bias).reshape(-1, 1, 1))
    if isinstance(part, nn.ZeroPad2d):
        left, right, top, bottom = part.padding
        places = np.arange(value.size).reshape(value.shape)
        return value.move(np.pad(places, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-1))
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        factor = 1 / np.sqrt(array(part.running_var) + part.eps)
        shift = -array(part.running_mean) * factor
        if part.affine:
            factor, shift = factor * array(part.weight), shift * array(part.weight) + array(part.bias)
        return value.scale(factor.reshape(-1, *spatial)).add(shift.reshape(-1, *spatial))
    if isinstance(part, nn.AvgPool2d):
        sides = [(v, v) if isinstance(v, int) else tuple(v) for v in (part.kernel_size, part.stride, part.padding)]
        if part.ceil_mode or part.divisor_override or (any(sides[2]) and not part.count_include_pad):
            raise BadInput(
                f"module {name!r}: AvgPool2d is supported without ceil_mode, divisor_override and with padding counted"
            )
        kernel = np.full((value.shape[1], 1, *sides[0]), 1 / np.prod(sides[0]))
        convolution = Convolution(kernel, value.shape[1:], sides[1], sides[2] * 2, (1, 1), value.shape[1])  # type: ignore[arg-type]
        return value.convolve(convolution, (1, *convolution.output_shape))
    if isinstance(part, nn.Flatten):
        return value.move(np.arange(value.size).reshape(value.shape).reshape(1, -1))
    if isinstance(part, nn.Unflatten):
        return value.move(np.arange(value.size).reshape(1, *part.unflattened_size))
    if isinstance(part, nn.Dropout | nn.Dropout2d | nn.Identity):
        return value
    raise BadInput(
        f"module {name!r} ({type(part).__name__}) cannot be represented; affine modules and elementwise activations can"
    )
