"""A network out of an ONNX file, by our own walk through its graph, checked against ONNX's reference evaluator."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from scipy import special

from unveil.keras_graph import ENDINGS, read_keras
from unveil.onnx_graph import fetch_weights, hold_inputs, one_output
from unveil.outcome import BadInput, SourceError
from unveil.whitebox.activation import activation
from unveil.whitebox.formats.affine import Trail, Value
from unveil.whitebox.formats.onnx_operators import (
    ACTIVATIONS_BY_OPERATOR,
    MAXIMUM_OPERATORS,
    NORMALISING,
    OPERATORS,
    SUPPORTED,
    gained,
    is_top,
    largest,
    normalisation,
)
from unveil.whitebox.formats.onnx_quantised import fold_quantised
from unveil.whitebox.formats.onnx_step import OURS, Operand, Step
from unveil.whitebox.network import Network

ONNX_TOLERANCE = 1e-9
REPRESENTABLE = "Affine operators, elementwise activations and maxima can be represented"


def read_onnx(path: str | Path, output: str | None = None, inputs: Mapping[str, Any] | None = None) -> Network:
    """The network in an ONNX file; weights in float64, exactly as stored.

    Raises:
        SourceError: The file cannot be read as ONNX.
        BadInput: It holds something that a `Network` cannot represent; operator and node are named.
    """
    try:
        keras = Path(path).suffix.lower() in ENDINGS
        model = read_keras(Path(path), double=True) if keras else onnx.load(str(path), load_external_data=False)
    except (BadInput, SourceError):
        raise
    except FileNotFoundError as error:
        raise SourceError(f"there is no file {str(path)!r}") from error
    except Exception as error:
        raise SourceError(f"{str(path)!r} is not a readable ONNX file: {error}") from error
    try:
        fetch_weights(model, Path(path))
        hold_inputs(model, inputs)
        said = one_output(model, output)
        if said:
            warnings.warn(f"{Path(path).name}: {said}", stacklevel=3)
        fold_quantised(model)
        network = walk(model)
        check(network, model)
    except (BadInput, SourceError) as error:
        raise type(error)(f"{str(path)!r}: {error}") from error
    except Exception as error:  # a hostile file fails in as many ways as there are bytes
        raise SourceError(f"{str(path)!r} is malformed: {type(error).__name__}: {error}") from error
    return network


def walk(model: onnx.ModelProto) -> Network:
    """Follow the graph from its input to its output."""
    graph = model.graph
    known: dict[str, Operand] = {i.name: _array(i) for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in known]
    if len(inputs) != 1:
        told = ", ".join(i.name for i in inputs)[:300]
        raise BadInput(f"one input is expected; the graph has {len(inputs)}: {told}")
    full, shape = _input_shape(inputs[0])
    width = math.prod(full)
    trail = Trail(width)
    known[inputs[0].name] = Value(None, np.zeros(width), full)
    output, softmax = graph.output[0].name, False
    last_use = {name: i for i, node in enumerate(graph.node) for name in node.input} | {output: len(graph.node)}
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    gated = _gated(graph)
    for i, node in enumerate(graph.node):
        if node.output and node.output[0] in gated.values():
            continue  # its sigmoid stands for both
        step = _step(node, known, opset)
        if softmax and node.op_type not in ("Identity", "Flatten", "Reshape", "Squeeze", "Cast"):
            raise step.refuse("it comes after a softmax, which can only be the last operator")
        if node.domain not in ("", "ai.onnx", OURS):
            raise step.refuse(f"its domain {node.domain!r} is not ONNX's own")
        if node.op_type in (*ACTIVATIONS_BY_OPERATOR, *MAXIMUM_OPERATORS, *NORMALISING):
            made = gated.get(node.output[0], node.output[0])
            # What a gate multiplies is not needed for that any more.
            uses = last_use if made == node.output[0] else last_use | {node.input[0]: _last(graph, node.input[0], made)}
            names = [n for n, v in known.items() if isinstance(v, Value) and uses.get(n, -1) > i]
            alive = {n: v for n in names if isinstance(v := known[n], Value)}
            try:
                if node.op_type in MAXIMUM_OPERATORS:
                    parts, full = largest(step)
                    value, moved = trail.largest(parts, alive)
                    value = replace(value.scale(np.array(-1.0)) if node.op_type == "Min" else value, shape=full)
                elif node.op_type in NORMALISING:
                    centred = node.op_type == "LayerNormalization"
                    value, moved = trail.normalised(step.value, *normalisation(step), alive, centred=centred)
                    value = gained(step, value)
                else:
                    phi = ACTIVATIONS_BY_OPERATOR[node.op_type](step)
                    phi = activation("silu") if made != node.output[0] else phi
                    value, moved = trail.activate(step.value, phi, alive)
            except BadInput as error:
                raise error if str(error).startswith("node ") else step.refuse(str(error)) from error
            known = {n: v for n, v in known.items() if not isinstance(v, Value)} | {made: value, **moved}
        elif node.op_type == "Softmax":
            softmax = is_top(step)
            known[node.output[0]] = step.value
        elif node.op_type in OPERATORS:
            try:
                known[node.output[0]] = OPERATORS[node.op_type](step)
            except (ValueError, IndexError, TypeError) as error:
                if isinstance(error, BadInput) and str(error).startswith("node "):
                    raise
                raise step.refuse(str(error)) from error
        else:
            raise step.refuse(f"this operator cannot be represented. {REPRESENTABLE}: {', '.join(sorted(SUPPORTED))}")
    final = known.get(output)
    if not isinstance(final, Value):
        raise BadInput(f"the output {output!r} does not depend on the input {inputs[0].name!r}")
    return trail.network(final, shape, softmax)


def _gated(graph: onnx.GraphProto) -> dict[str, str]:
    """Sigmoids that only multiply their own input, which is SiLU: what each gives, and what the product gives."""
    uses: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    outputs = {o.name for o in graph.output}
    found = {}
    for node in graph.node:
        if node.op_type != "Sigmoid" or node.output[0] in outputs:
            continue
        after = uses.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type == "Mul" and set(after[0].input) == {node.input[0], node.output[0]}:
            found[node.output[0]] = after[0].output[0]
    return found


def _last(graph: onnx.GraphProto, name: str, but: str) -> int:
    """The last node that reads a name, apart from the one that makes `but`."""
    if name in {o.name for o in graph.output}:
        return len(graph.node)
    return max((i for i, n in enumerate(graph.node) if name in n.input and but not in n.output), default=-1)


def check(network: Network, model: onnx.ModelProto, points: int = 3) -> None:
    """Compare with ONNX's reference evaluator in float64, on random inputs.

    Raises:
        SourceError: The two disagree.
    """
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class BatchNormalization(OpRun):  # type: ignore[misc]
        """In evaluation mode: before opset 14 the evaluator's own takes the statistics of the batch instead."""

        def _run(
            self, x: np.ndarray, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, var: np.ndarray, **given: float
        ) -> tuple[np.ndarray]:
            along = (-1, *[1] * (x.ndim - 2))
            scale, bias, mean, var = (v.reshape(along) for v in (scale, bias, mean, var))
            return (scale * (x - mean) / np.sqrt(var + (given.get("epsilon") or 1e-5)) + bias,)

    class Erf(OpRun):  # type: ignore[misc]
        """In double precision: the evaluator's own rounds to single."""

        def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
            return (special.erf(x),)

    class Gelu(OpRun):  # type: ignore[misc]
        """In double precision, as Erf."""

        def _run(self, x: np.ndarray, **given: str) -> tuple[np.ndarray]:
            if (given.get("approximate") or "none") == "tanh":
                return (x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),)
            return (x * special.ndtr(x),)

    exact = _in_float64(model)
    held = {i.name for i in exact.graph.initializer}
    entry = next(i for i in exact.graph.input if i.name not in held)
    full, _ = _input_shape(entry)
    x = np.random.default_rng(0).uniform(-0.5, 1.5, size=(points, network.n))
    evaluator = ReferenceEvaluator(exact, new_ops=[BatchNormalization, Erf, Gelu])
    expected = np.stack([np.ravel(evaluator.run(None, {entry.name: row.reshape(full)})[0]) for row in x])
    ours = network(x)
    if ours.shape != expected.shape:
        raise SourceError(f"the reference evaluator gives {expected.shape[1]} outputs, the import {ours.shape[1]}")
    error = np.abs(ours - expected).max() / (1 + np.abs(expected).max())
    if not error <= ONNX_TOLERANCE:
        raise SourceError(
            f"the import disagrees with ONNX's reference evaluator by {error:.1e} (relative); please report this file"
        )


def _step(node: onnx.NodeProto, known: dict[str, Operand], opset: int) -> Step:
    for name in node.input:
        if name and name not in known:
            raise BadInput(f"node {node.op_type} {node.name!r} reads {name!r}, which nothing before it has made")
    attributes = {}
    for a in node.attribute:
        given = helper.get_attribute_value(a)
        attributes[a.name] = _array(given) if isinstance(given, onnx.TensorProto) else given
    return Step(node, [known[n] if n else None for n in node.input], attributes, opset)


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise BadInput(f"the weights {tensor.name!r} are in another file; save the model as one file")
    array = np.asarray(numpy_helper.to_array(tensor))
    if array.dtype.kind not in "fiub":
        raise BadInput(f"the constant {tensor.name!r} holds {array.dtype}; numbers are expected")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _input_shape(entry: onnx.ValueInfoProto) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape in the graph for a batch of one, and shape of one input."""
    dims = [int(d.dim_value) for d in entry.type.tensor_type.shape.dim]
    if not dims:
        raise BadInput(f"the input {entry.name!r} has no shape; save the model with one")
    full = dims if len(dims) == 1 else [1, *dims[1:]]
    if min(full) < 1:
        raise BadInput(
            f"the input {entry.name!r} has the open shape {dims}; only the first axis, the batch, may be open"
        )
    if math.prod(full) > 50_000_000:
        raise BadInput(f"the input {entry.name!r} has {math.prod(full):,} entries; at most 50 million are read")
    return tuple(full), tuple(full if len(dims) == 1 else full[1:])


def _in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    for tensor in exact.graph.initializer:
        if tensor.data_type in floats:
            tensor.CopyFrom(numpy_helper.from_array(_array(tensor), tensor.name))
    for node in exact.graph.node:
        for a in node.attribute:
            if a.HasField("t") and a.t.data_type in floats:
                a.t.CopyFrom(numpy_helper.from_array(_array(a.t), a.t.name))
            if node.op_type == "Cast" and a.name == "to" and a.i in floats:
                a.i = onnx.TensorProto.DOUBLE
    for info in (*exact.graph.input, *exact.graph.output, *exact.graph.value_info):
        if info.type.tensor_type.elem_type in floats:
            info.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return exact
