"""A graph that shows on any machine what a low precision does: float32, rounded after every node.

ONNX Runtime's CPU kernels have no bf16 convolution and compute chains of fp16 in float32: neither
rounding nor overflow would be seen. Here each value that the low precision would hold is cast to
its type and back. Hardware that fuses nodes rounds less often than this.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

from rwcnet_export.precision import LOW_TYPES, element_types


def rounding_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of float32 nodes that computes what a low precision would.

    Parameters
    ----------
    model
        From `rwcnet_export.precision.lower`; left as it was.

    Returns
    -------
    onnx.ModelProto
        With the functions of domain `rwcnet` written out, since what is inside them rounds too.
    """
    plain = shape_inference.infer_shapes(inliner.inline_local_functions(model), strict_mode=True)
    _round(plain.graph)
    onnx.checker.check_model(plain, full_check=True)
    return plain


def _round(graph: onnx.GraphProto) -> None:
    types = {n: t for n, t in element_types(graph).items() if t in LOW_TYPES.values()}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:  # the body of a loop
                _round(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                attribute.t.CopyFrom(_widened(attribute.t))
        for n, name in enumerate(node.output):
            if name not in types:
                continue
            exact, rounded = f"{name}_exact", f"{name}_rounded"
            node.output[n] = exact
            if node.op_type == "Cast":
                _cast_to(node, TensorProto.FLOAT)
            nodes += [
                helper.make_node("Cast", [exact], [rounded], to=types[name]),
                helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT),
            ]
    weights = [_widened(tensor) for tensor in graph.initializer]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.initializer.extend(weights)
    for value in (*graph.input, *graph.output):
        if value.name in types:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _cast_to(node: onnx.NodeProto, kind: int) -> None:
    for attribute in node.attribute:
        if attribute.name == "to":
            attribute.i = kind


def _widened(tensor: TensorProto) -> TensorProto:
    """Return the same numbers as float32, where they are in a low type."""
    if tensor.data_type not in LOW_TYPES.values():
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name)
