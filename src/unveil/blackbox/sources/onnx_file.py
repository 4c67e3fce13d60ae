"""Read an ONNX file that may be corrupt or hostile: bytes in, a checked model or one clear error out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from unveil.blackbox.answers import first_line, shown
from unveil.onnx_graph import LARGEST, fetch_weights
from unveil.outcome import SourceError

LARGEST_VALUE = 2**28


def read_model(path: Path) -> tuple[Any, str, int]:
    """The model, a digest of its bytes, and how many numbers its largest value has.

    Raises:
        SourceError: The file is missing, too large, corrupt, not valid ONNX, or refers to files outside its folder.
    """
    import onnx

    name = shown(path.name)
    try:
        size = path.stat().st_size
        if not path.is_file() or not 0 < size <= LARGEST:
            kind = "a file" if path.is_file() else "no file"
            raise SourceError(f"{name}: expected an ONNX file of 1 byte to 2 GB; got {kind} of {size:,} bytes")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise SourceError(f"cannot read {str(path)!r}: {why}") from None
    digest = hashlib.blake2b(data, digest_size=16)
    try:
        model = onnx.load_model_from_string(data)
        fetch_weights(model, path, digest)
        onnx.checker.check_model(model)
        widest = _refuse_traps(model, name)
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(
            f"{name} is not a valid ONNX file: {first_line(error)}; export it again, or check where it came from"
        ) from None
    return model, digest.hexdigest(), widest


def _refuse_traps(model: Any, name: str) -> int:
    """Refuse what a small file can use to take all time or memory: loops, and tensors of billions of numbers.

    Returns:
        How many numbers the largest value between two nodes has.
    """
    import onnx

    for node in (*_nodes(model.graph), *(n for f in model.functions for n in _nodes(f))):
        if node.op_type in ("Loop", "Scan"):
            raise SourceError(
                f"{name} contains a {node.op_type}, which may run for ever; if you trust it, wrap it in a function"
            )
    widest = 1
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        numbers = math.prod(d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value"))
        if numbers > LARGEST_VALUE:
            raise SourceError(f"{name}: {value.name!r:.60} has {numbers:.2g} numbers; expected at most 2^28")
        widest = max(widest, numbers)
    return widest


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
