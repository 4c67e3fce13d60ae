"""A Keras file (`.keras`, `.h5`) as an ONNX graph, read with h5py: Keras is not needed, and nothing is run."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unveil.keras_layers import IDENTITY, LAYERS, Graph, Shape
from unveil.outcome import BadInput, SourceError

ENDINGS = (".keras", ".h5", ".hdf5")
LARGEST_KERAS_BYTES = 2**31 - 1


def read_keras(path: Path, double: bool = False) -> Any:
    """The graph of a model that Keras saved.

    Args:
        path: What `model.save` wrote, as `.keras` or as `.h5`.
        double: Constants and input in float64; else in float32, in which Keras computes.

    Returns:
        An ONNX model with a free batch axis; channels stay last, as Keras has them.

    Raises:
        SourceError: The file is damaged, or is none of Keras's.
        BadInput: It holds weights alone, or a layer that is not known here; the layer is named.
    """
    import h5py

    try:
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > LARGEST_KERAS_BYTES:
                    raise SourceError(f"{path.name} unpacks to more than 2 GB")
                config = json.loads(archive.read("config.json"))
                with archive.open("model.weights.h5") as inside, h5py.File(inside, "r") as weights:
                    return _built(path.name, config, _by_place(weights, config), double)
        with h5py.File(path, "r") as file:
            told = file.attrs.get("model_config")
            if told is None:
                raise BadInput(
                    f"{path.name} holds weights, and not what is computed with them; save the whole model "
                    "(model.save), or export it to ONNX"
                )
            return _built(path.name, json.loads(told), _by_name(file["model_weights"]), double)
    except (BadInput, SourceError):
        raise
    except FileNotFoundError:
        raise SourceError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # a damaged file fails in as many ways as there are bytes
        raise SourceError(f"{path.name} is not a model that Keras saved: {type(error).__name__}: {error}") from None


def _by_name(group: Any) -> Callable[[str, int, str], list[np.ndarray]]:
    """The weights of a layer in an older file, in their order."""

    def weights(layer: str, place: int, kind: str) -> list[np.ndarray]:
        if layer not in group:
            return []
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in group[layer].attrs["weight_names"]]
        return [_array(group, f"{layer}/{name}") for name in names]

    return weights


def _by_place(file: Any, config: Mapping[str, Any]) -> Callable[[str, int, str], list[np.ndarray]]:
    """The weights of a layer in a newer file, where layers are called by their kind and how many of it came before."""
    home = file["layers"] if "layers" in file else file["_layer_checkpoint_dependencies"]
    counts: dict[str, int] = {}
    places: dict[int, str] = {}
    for place, layer in enumerate(config["config"]["layers"]):
        base = _snake(layer["class_name"])
        seen = counts.get(base, 0)
        counts[base] = seen + 1
        places[place] = base if not seen else f"{base}_{seen}"

    def weights(layer: str, place: int, kind: str) -> list[np.ndarray]:
        name = places[place] if places[place] in home else layer
        if name not in home or "vars" not in home[name]:
            return []
        held = home[name]["vars"]
        return [_array(held, str(number)) for number in range(len(held))]

    return weights


def _array(group: Any, name: str) -> np.ndarray:
    import h5py

    found = group[name]
    # Links and external storage could lead into other files.
    if not isinstance(found, h5py.Dataset) or found.file.filename != group.file.filename or found.external:
        raise SourceError(f"the weights {name!r:.60} are in another file")
    if found.size * found.dtype.itemsize > LARGEST_KERAS_BYTES or found.dtype.kind not in "fiu":
        raise SourceError(f"the weights {name!r:.60} are no numbers, or larger than 2 GB")
    return np.asarray(found[()]).astype(np.float64)


def _snake(name: str) -> str:
    """Conv2D becomes conv2d, BatchNormalization batch_normalization: as Keras names layers."""
    text = re.sub(r"\W+", "", name)
    text = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", text)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()


def _built(
    name: str, config: Mapping[str, Any], weights: Callable[[str, int, str], list[np.ndarray]], double: bool
) -> Any:
    from onnx import TensorProto, helper

    if config["class_name"] not in ("Sequential", "Functional", "Model"):
        raise BadInput(
            f"{name} is a {config['class_name']!s:.60}, a class of its own, whose code is not in the file; "
            "load it in Keras and pass lambda x: model.predict(x), or export it to ONNX"
        )
    layers = config["config"]["layers"]
    graph = Graph(np.dtype(np.float64 if double else np.float32))
    shape = _input_shape(layers, config["config"])
    graph.shapes["x"] = shape
    values: dict[str, str] = {}
    last = "x"
    for place, layer in enumerate(layers):
        kind, told = str(layer["class_name"]), layer["config"]
        label = str(told.get("name", layer.get("name", place)))
        given = [values[source] for source in _sources(layer.get("inbound_nodes"))] or [last]
        if kind not in LAYERS:
            raise BadInput(
                f"{name}: the layer {label!r:.60} is a {kind!s:.60}, which is not among those that are read "
                f"({', '.join(sorted(LAYERS))}); export the model to ONNX, or load it in Keras and pass "
                "lambda x: model.predict(x)"
            )
        if told.get("data_format") == "channels_first" and kind not in ("Flatten", *IDENTITY):
            raise BadInput(f"{name}: the layer {label!r:.60} puts channels first; export the model to ONNX")
        last = LAYERS[kind](graph, given, told, weights(label, place, kind))
        values[label] = last
    ends = config["config"].get("output_layers")
    if ends:
        flat = ends if isinstance(ends[0], str) else ends[0]
        if not isinstance(flat[0], str):
            raise BadInput(f"{name} has {len(ends)} outputs; export it to ONNX, where output= chooses")
        last = values[flat[0]]
    element = TensorProto.DOUBLE if double else TensorProto.FLOAT
    entry = helper.make_tensor_value_info("x", element, ["questions", *shape])
    end = helper.make_tensor_value_info("y", element, ["questions", *graph.shapes[last]])
    nodes = [*graph.nodes, helper.make_node("Identity", [last], ["y"])]
    made = helper.make_graph(nodes, "keras", [entry], [end], graph.constants)
    return helper.make_model(made, ir_version=9, opset_imports=[helper.make_opsetid("", 20)])


def _input_shape(layers: list[Any], config: Mapping[str, Any]) -> Shape:
    entries = [layer for layer in layers if layer["class_name"] == "InputLayer"]
    if len(entries) > 1:
        raise BadInput(f"the model has {len(entries)} inputs; export it to ONNX, where inputs= holds all but one")
    told = entries[0]["config"] if entries else layers[0]["config"]
    full = told.get("batch_shape") or told.get("batch_input_shape") or config.get("build_input_shape")
    if not full or any(type(side) is not int or side < 1 for side in full[1:]) or len(full) < 2:
        raise BadInput("the model leaves the shape of its input open; save it with one (keras.Input)")
    return tuple(full[1:])


def _sources(inbound: Any) -> list[str]:
    """The layers that a layer takes its inputs from, in either of Keras's ways of writing them."""
    if isinstance(inbound, Mapping):
        if "keras_history" in inbound:
            return [str(inbound["keras_history"][0])]
        return [name for value in inbound.values() for name in _sources(value)]
    if isinstance(inbound, list):
        if len(inbound) >= 3 and isinstance(inbound[0], str) and type(inbound[1]) is int:
            return [inbound[0]]
        return [name for value in inbound for name in _sources(value)]
    return []
