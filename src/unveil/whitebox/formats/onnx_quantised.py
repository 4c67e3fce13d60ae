"""Weights that an ONNX file stores in few bits: quantised constants become the numbers that the model multiplies by."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from unveil.outcome import BadInput

# Operators that turn numbers into few bits and back, and the domains that they are found in.
QUANTISING, DOMAINS = ("DequantizeLinear", "QuantizeLinear"), ("", "ai.onnx", "com.microsoft")
# Numbers that a constant may hold in place of an array, and their types.
NUMBER_ATTRIBUTES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
# The operator set whose forms of both hold those of all before, 4 bits and scales by block included.
QUANTISING_OPSET = 21


def fold_quantised(model: onnx.ModelProto) -> None:
    """Put constants in the place of all that is dequantised from constants, in the type the model computes them in:
    in half precision their rounding is part of the weights.

    Raises:
        BadInput: Such a constant cannot be computed; the node is named.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        value = _value(node) if node.op_type == "Constant" else None
        if value is not None:
            constants[node.output[0]] = value
    kept, folded = [], list[onnx.NodeProto]()
    for node in graph.node:
        given = [name for name in node.input if name]
        if node.op_type in QUANTISING and node.domain in DOMAINS and all(name in constants for name in given):
            constants[node.output[0]] = _computed(node, [constants[name] for name in given])
            graph.initializer.append(constants[node.output[0]])
            folded.append(node)
        else:
            kept.append(node)
    if not folded:
        return
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)
    _drop_unread(graph, {name for node in folded for name in (*node.input, *node.output)})


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a node that makes a constant holds; None of one that holds no numbers."""
    for attribute in node.attribute:
        given = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return given
        if attribute.name in NUMBER_ATTRIBUTES:
            return numpy_helper.from_array(np.asarray(given, dtype=NUMBER_ATTRIBUTES[attribute.name]))
    return None


def _drop_unread(graph: onnx.GraphProto, names: set[str]) -> None:
    """Leave out those of the named constants that no node reads any more: their type may be none of numpy's."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in names]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    nodes = [n for n in graph.node if n.op_type != "Constant" or n.output[0] in read or n.output[0] not in names]
    if len(nodes) < len(graph.node):
        left = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(left)


def _computed(node: onnx.NodeProto, tensors: list[onnx.TensorProto]) -> onnx.TensorProto:
    """What a node gives for these constants, by ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    alone = onnx.NodeProto.FromString(node.SerializeToString())
    alone.domain = ""
    names = [name for name in node.input if name]
    renamed = []
    for name, tensor in zip(names, tensors, strict=True):
        copy = onnx.TensorProto.FromString(tensor.SerializeToString())
        copy.name = name
        renamed.append(copy)
    output = helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UNDEFINED, None)
    graph = helper.make_graph([alone], "constant", [], [output], list({t.name: t for t in renamed}.values()))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", QUANTISING_OPSET)])
    try:
        (value,) = ReferenceEvaluator(model).run(None, {})
        made = numpy_helper.from_array(np.ascontiguousarray(value), node.output[0])
    except Exception as error:  # as many ways to fail as there are types
        told = f"these constants cannot be computed ({type(error).__name__}: {error!s:.200})"
        raise BadInput(f"node {node.op_type} {node.name!r}: {told}") from error
    return made
