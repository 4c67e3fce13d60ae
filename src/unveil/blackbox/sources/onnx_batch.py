"""The batch axis of an ONNX graph: what one question is, and how to rewrite the graph for any number of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from unveil.blackbox.answers import shown
from unveil.outcome import SourceError

Sides = list[int | None]


@dataclass(frozen=True)
class Signature:
    """How one asks the file as it stands.

    Attributes:
        input: Name of the input.
        output: Name of the output.
        kind: ONNX type of the input.
        shape: Shape of one question.
        batch: Length of the first axis, which counts questions; None if there is no such axis. 1 where it is free.
    """

    input: str
    output: str
    kind: int
    shape: tuple[int, ...]
    batch: int | None


def signature(model: Any, name: str, shape: tuple[int, ...] | None, output: str | None) -> Signature:
    """Read the signature of a graph.

    Raises:
        SourceError: Not exactly one input, no such output, or a shape that does not fit.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise SourceError(f"{name} takes {len(inputs)} inputs; expected one")
    outputs = {value.name: value for value in graph.output}
    if output is None:
        floating = [v.name for v in graph.output if v.type.tensor_type.elem_type in (1, 10, 11)]
        output = next(iter(floating or outputs), None)
    if output is None or output not in outputs:
        raise SourceError(f"{name} has no output {output!r}; it has {shown(', '.join(outputs))}")
    sides, ends = _sides(inputs[0]), _sides(outputs[output])
    kind = int(inputs[0].type.tensor_type.elem_type)
    batch, own = _split(sides, ends, shape)
    if shape is None:
        if own is None or any(side is None for side in own):
            raise SourceError(f"{name} leaves the shape of its input open; pass shape=, e.g. shape=(3, 32, 32)")
        shape = tuple(int(side) for side in own if side is not None)
    elif own is not None and (
        len(own) != len(shape) or any(a not in (None, b) for a, b in zip(own, shape, strict=True))
    ):
        if any(side is None for side in own) or math.prod(side or 1 for side in own) != math.prod(shape):
            raise SourceError(f"{name} takes inputs of shape {_text(own)}; got shape={shape}")
        shape = tuple(int(side) for side in own if side is not None)
    if not shape or math.prod(shape) > 2**31 or min(shape) < 1:
        raise SourceError(f"{name} declares inputs of shape {shape}; expected 1 to 2^31 numbers")
    return Signature(inputs[0].name, output, kind, shape, batch)


def whole_range(model: Any, input: str, kind: np.dtype[Any]) -> tuple[float, float] | None:
    """The legal range of an input of whole numbers: of its bytes, or the rows of the table they choose from."""
    if kind.kind == "b":
        return 0.0, 1.0
    if kind.itemsize == 1:
        return float(np.iinfo(kind).min), float(np.iinfo(kind).max)
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    names = {input}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze") and node.input[0] in names:
            names.update(node.output)
        elif node.op_type == "Gather" and node.input[1] in names and node.input[0] in tables:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            return 0.0, float(tables[node.input[0]][axis] - 1)
    return None


def _sides(value: Any) -> Sides | None:
    """Lengths of the axes, None where free; None if not even their number is told."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [
        int(d.dim_value) if d.HasField("dim_value") and d.dim_value > 0 else None
        for d in value.type.tensor_type.shape.dim
    ]


def _split(sides: Sides | None, ends: Sides | None, shape: tuple[int, ...] | None) -> tuple[int | None, Sides | None]:
    """The batch length (None: no such axis) and the shape of one question."""
    if sides is None:
        return 1, None
    if len(sides) <= 1 or (shape is not None and list(shape) == sides):
        return None, sides
    first = sides[0]
    if first is None or first == 1:
        return 1, sides[1:]
    # [2000, 5] -> [2000, 5] is a batch of 2000; [3, 32, 32] -> [10] is one picture.
    if ends and ends[0] == first and len(ends) > 1:
        return first, sides[1:]
    return None, sides


def _text(sides: Sides) -> str:
    return "(" + ", ".join("?" if side is None else str(side) for side in sides) + ")"


def batched(model: Any, signature: Signature, rewrite: bool) -> Any:
    """A copy of the model that may take any number of questions; whether it does is for the caller to see.

    Args:
        model: The model as it stands.
        signature: How it is asked.
        rewrite: Whether nodes are changed, too, or only what is declared.
    """
    import onnx

    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    del graph.value_info[:]
    for value in graph.input:
        if value.name == signature.input:
            _set_sides(value, ["questions", *signature.shape])
    for value in graph.output:
        # Only the number of questions is known in advance; what else was declared may contain the old batch.
        value.type.tensor_type.ClearField("shape")
    if rewrite:
        _free_targets(graph, signature.batch)
        if signature.batch is None:
            _add_axis(graph)
    return model


def _set_sides(value: Any, sides: list[int | str]) -> None:
    value.type.tensor_type.ClearField("shape")
    for side in sides:
        dim = value.type.tensor_type.shape.dim.add()
        if isinstance(side, str):
            dim.dim_param = side
        else:
            dim.dim_value = side


def _constants(graph: Any) -> dict[str, np.ndarray]:
    """Initializers and the outputs of Constant nodes."""
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                constants[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif attribute.name == "value_ints":
                constants[node.output[0]] = np.array(attribute.ints, dtype=np.int64)
    return constants


def _free_targets(graph: Any, batch: int | None) -> None:
    """Let the constant target of every Reshape keep its first axis: 0 means "as it comes in"."""
    from onnx import numpy_helper

    constants = _constants(graph)
    for place, node in enumerate(graph.node):
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        target = [int(side) for side in constants[node.input[1]].ravel()]
        if batch is None:
            target = [0, *target]
        elif target and target[0] == batch:
            target[0] = 0
        else:
            continue
        name = f"unveil_target_{place}"
        graph.initializer.append(numpy_helper.from_array(np.array(target, dtype=np.int64), name))
        node.input[1] = name
        for attribute in list(node.attribute):
            if attribute.name == "allowzero":
                node.attribute.remove(attribute)


def _add_axis(graph: Any) -> None:
    """Make room for a batch axis that was missing: W x becomes x W^T, and Flatten begins one axis later."""
    from onnx import helper, numpy_helper

    constants = _constants(graph)
    for place, node in enumerate(graph.node):
        if node.op_type == "MatMul" and node.input[0] in constants and constants[node.input[0]].ndim == 2:
            name = f"unveil_transposed_{place}"
            graph.initializer.append(numpy_helper.from_array(constants[node.input[0]].T.copy(), name))
            vector = node.input[1]
            del node.input[:]
            node.input.extend([vector, name])
        elif node.op_type == "Flatten":
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("axis", axis + 1 if axis >= 0 else axis))
