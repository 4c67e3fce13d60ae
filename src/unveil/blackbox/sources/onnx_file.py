"""Read an ONNX file that may be corrupt or hostile: bytes in, a checked model or one clear error out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unveil.blackbox.answers import first_line, shown
from unveil.keras_graph import ENDINGS, read_keras
from unveil.onnx_graph import LARGEST_ONNX_BYTES, LARGEST_VALUE, fetch_weights
from unveil.outcome import SourceError, UnveilError

# What one question may become inside: 256 MB in float32.
LARGEST_ANSWER = 2**26


def read_model(path: Path) -> tuple[Any, str]:
    """The model, and a digest of its bytes.

    Raises:
        SourceError: The file is missing, too large, corrupt, not valid ONNX, or refers to files outside its folder.
    """
    import onnx

    name = shown(path.name)
    try:
        size = path.stat().st_size
        if not path.is_file() or not 0 < size <= LARGEST_ONNX_BYTES:
            kind = "a file" if path.is_file() else "no file"
            raise SourceError(f"{name}: expected an ONNX file of 1 byte to 2 GB; got {kind} of {size:,} bytes")
        data = read_keras(path).SerializeToString() if path.suffix.lower() in ENDINGS else path.read_bytes()
    except UnveilError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise SourceError(f"cannot read {str(path)!r}: {why}") from None
    digest = hashlib.blake2b(data, digest_size=16)
    try:
        model = onnx.load_model_from_string(data)
        fetch_weights(model, path, digest)
        onnx.checker.check_model(model)
        _refuse_loops(model, name)
        extent(model, name, batch=LARGEST_VALUE)
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(
            f"{name} is not a valid ONNX file: {first_line(error)}; export it again, or check where it came from"
        ) from None
    return model, digest.hexdigest()


def _refuse_loops(model: Any, name: str) -> None:
    for node in (*_nodes(model.graph), *(n for f in model.functions for n in _nodes(f))):
        if node.op_type in ("Loop", "Scan"):
            raise SourceError(
                f"{name} contains a {node.op_type}, which may run for ever; if you trust it, wrap it in a function"
            )


@dataclass(frozen=True)
class Extent:
    """How much a graph makes of one question (of a whole batch, where that is fixed), as far as its shapes tell.

    Attributes:
        widest: How many numbers its largest value has.
        bounded: Whether the shapes of all values are known beforehand and small enough to be computed without a limit
            on time and memory.
    """

    widest: int
    bounded: bool


def extent(model: Any, name: str, input: str | None = None, sides: tuple[int, ...] = (), batch: int = 1) -> Extent:
    """Follow the shapes through a graph, before anything is run.

    Args:
        model: The model.
        name: For messages.
        input: The input whose shape is known by now.
        sides: Its shape, the batch included.
        batch: Questions in one run, if the file fixes that.

    Raises:
        SourceError: A value is larger than can be meant: a small file (`Tile`, `Expand`, `Resize`, `ConstantOfShape`)
            could take all memory.
    """
    import onnx

    model = onnx.ModelProto.FromString(model.SerializeToString())
    for value in model.graph.input:
        if value.name == input:
            value.type.tensor_type.ClearField("shape")
            for side in sides:
                value.type.tensor_type.shape.dim.add().dim_value = side
    if input is not None:
        # What was declared may hold names of axes; what follows from the input may not.
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    held = {tensor.name for tensor in inferred.initializer}
    widest, total, known = 1, 0, set(held)
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        numbers = math.prod(d.dim_value for d in dims if d.HasField("dim_value"))
        if numbers > LARGEST_VALUE or (value.name not in held and numbers > LARGEST_ANSWER * batch):
            raise SourceError(
                f"{name}: {value.name!r:.60} has {numbers:.2g} numbers; expected at most 2^26 for one question and "
                "2^28 for a batch"
            )
        widest, total = max(widest, numbers), total + numbers
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            known.add(value.name)
    attributes = (attribute for node in model.graph.node for attribute in node.attribute)
    plain = not model.functions and not any(a.HasField("g") or a.graphs for a in attributes)
    made = {output for node in model.graph.node for output in node.output if output}
    return Extent(widest, plain and made <= known and total <= LARGEST_VALUE)


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, also those inside of other nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inside in (attribute.g, *attribute.graphs):
                yield from _nodes(inside)


def in_single_precision(model: Any) -> Any:
    """A copy of a float64 model in float32."""
    import onnx
    from onnx import numpy_helper

    double, single = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if tensor.data_type == double:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == double:
                attribute.i = single
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == double:
            value.type.tensor_type.elem_type = single
    return model
