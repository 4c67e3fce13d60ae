"""An ONNX file as it lies on a disk: weights beside it are taken in, and of several outputs one is kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np

from unveil.outcome import BadInput, SourceError

LARGEST_ONNX_BYTES = 2**31 - 1
FLOATING = (1, 10, 11)
LARGEST_VALUE = 2**28


def fetch_weights(model: Any, path: Path, digest: hashlib.blake2b | None = None) -> None:
    """Take weights from files beside the model (`name.onnx.data`) into the model; files anywhere else are not opened.

    Args:
        model: Changed in place.
        path: Where the model lies.
        digest: Told the bytes of those files.

    Raises:
        SourceError: The weights lie outside the model's folder, are missing, or are too large.
    """
    import onnx

    folder = path.resolve().parent
    told: set[Path] = set()
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        place = (folder / location).resolve()
        if not location or not place.is_relative_to(folder) or not place.is_file():
            raise SourceError(
                f"{path.name} wants the weights {tensor.name!r:.60} from {location!r:.120}, which is no file in "
                "its folder; put weights beside the model, or save it with all weights inside"
            )
        if model.ByteSize() + place.stat().st_size > LARGEST_ONNX_BYTES:
            raise SourceError(f"{path.name} and its weights are larger than 2 GB")
        if digest is not None and place not in told:
            digest.update(place.read_bytes())
            told.add(place)
        onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def hold_inputs(model: Any, inputs: Mapping[str, Any] | None) -> None:
    """Make constants of all inputs but one.

    Args:
        model: Changed in place.
        inputs: A value by the name of each input that is held: an array, or a number for all of its entries. An axis of
            no declared length gets that of the array, or 1. `...` may mark the input that is asked.

    Raises:
        BadInput: No such input, a value that does not fit its type or shape, or not one input is left.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    entries = {value.name: value for value in graph.input if value.name not in constants}
    for name, given in (inputs or {}).items():
        if name not in entries:
            raise BadInput(f"it has no input {name!r:.60}; it has {', '.join(entries)[:300]}")
        if isinstance(given, EllipsisType):
            continue
        told = entries.pop(name)
        kind = helper.tensor_dtype_to_np_dtype(told.type.tensor_type.elem_type)
        graph.initializer.append(numpy_helper.from_array(_held(told, given, kind), name))
        graph.input.remove(told)
    if len(entries) > 1:
        others = list(entries)[1:] if not inputs else list(entries)
        held = ", ".join(f'"{name}": 0' for name in others)[:200]
        raise BadInput(
            f"one input is asked; it has {len(entries)} inputs: {', '.join(entries)[:300]}. Hold the others constant, "
            f"e.g. inputs={{{held}}} (--fix {others[-1]:.60}=0)"
        )
    if not entries and inputs:
        raise BadInput("all its inputs are held constant; leave out the one that is to be asked")


def _held(told: Any, given: Any, kind: np.dtype[Any]) -> np.ndarray:
    """A constant of the declared type and shape."""
    try:
        array = np.asarray(given)
        with np.errstate(over="ignore", invalid="ignore"):
            value = array.astype(kind)
        exact = kind.kind == "f" or bool((value == array).all())
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise BadInput(f"the input {told.name!r:.60} is of type {kind}; got {given!s:.60}")
    if not told.type.tensor_type.HasField("shape"):
        return value
    sides = [int(d.dim_value) if d.dim_value > 0 else None for d in told.type.tensor_type.shape.dim]
    own = value.shape if value.ndim == len(sides) else (1,) * len(sides)
    full = tuple(side or length for side, length in zip(sides, own, strict=True))
    if math.prod(full) > LARGEST_VALUE:
        raise BadInput(f"the input {told.name!r:.60} has {math.prod(full):.2g} numbers; at most 2^28 are held")
    try:
        return np.ascontiguousarray(np.broadcast_to(value, full))
    except ValueError:
        raise BadInput(f"the input {told.name!r:.60} has shape {full}; got a value of shape {value.shape}") from None


def one_output(model: Any, name: str | None = None) -> str:
    """Keep one output of a graph, and only the nodes it needs.

    A ZipMap, which gives a list of `{label: probability}`, is left out: its columns are the output.

    Args:
        model: Changed in place.
        name: Of the output; by default probabilities before other numbers before labels.

    Returns:
        One clause on the choice; empty if there was none to make.

    Raises:
        BadInput: No such output.
    """
    graph = model.graph
    made = {output: node for node in graph.node for output in node.output}
    names = [value.name for value in graph.output]

    def rank(value: Any) -> int:
        node = made.get(value.name)
        kind = "" if node is None else node.op_type
        if kind in ("ZipMap", "Softmax") or "prob" in value.name.lower():
            return 0
        return 1 if value.type.tensor_type.elem_type in FLOATING else 2

    if not names:
        raise BadInput("the graph has no outputs")
    chosen = min(graph.output, key=rank).name if name is None else name
    if chosen not in names:
        raise BadInput(f"it has no output {chosen!r:.60}; it has {', '.join(names)[:300]}")
    node = made.get(chosen)
    zipped = node is not None and node.op_type == "ZipMap"
    if len(names) == 1 and not zipped:
        return ""
    kept = next(value for value in graph.output if value.name == chosen)
    if zipped:
        assert node is not None
        kept.name = node.input[0]
        kept.type.Clear()
        kept.type.tensor_type.elem_type = 1
    kept = type(kept).FromString(kept.SerializeToString())
    del graph.output[:]
    graph.output.append(kept)
    _prune(graph, kept.name)
    if name is not None or len(names) == 1:
        return ""
    return f"of its outputs {', '.join(names)[:300]} {chosen!r:.60} is looked at; output= (--output) chooses another"


def _prune(graph: Any, output: str) -> None:
    """Leave out the nodes that an output does not need."""
    needed, kept = {output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(type(node).FromString(node.SerializeToString()))
            needed.update(node.input)
            # A branch of an If reads values of the graph around it by name.
            for attribute in node.attribute:
                for inside in (attribute.g, *attribute.graphs):
                    needed.update(name for inner in inside.node for name in inner.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
