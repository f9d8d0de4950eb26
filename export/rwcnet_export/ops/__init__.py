"""The operators of domain `rwcnet`: each a torch definition, an ONNX call, a function body.

The call node names a TensorRT plugin as well (`plugin_namespace`, `plugin_version`, `aot`): a
TensorRT that has it registered takes it, every other engine runs the function body.
"""

from __future__ import annotations

import onnx
from torch import nn

from rwcnet_export.ops import correlation, warp
from rwcnet_export.ops.call import DOMAIN, VERSION

OPSET = 20


def replace_ops(module: nn.Module) -> None:
    """Put exportable operators where a module or a part of it uses the torch definitions."""
    for name, child in module.named_children():
        replacement = correlation.exportable(child) or warp.exportable(child)
        if replacement is None:
            replace_ops(child)
        else:
            setattr(module, name, replacement)


def add_functions(model: onnx.ModelProto) -> None:
    """Add the bodies of the operators a graph calls, in place, and import the domain."""
    called = {node.op_type: node for node in model.graph.node if node.domain == DOMAIN}
    del model.functions[:]
    for name in sorted(called):
        body = _function_body(called[name], model.graph)
        text = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n{body}'
        model.functions.append(onnx.parser.parse_function(text))
    if called and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))


def _function_body(node: onnx.NodeProto, graph: onnx.GraphProto) -> str:
    if node.op_type == "Warp3d":
        return warp.function_body()
    # A function has one body; the correlations of one graph all have one metric and one size.
    metric = next(a.s.decode() for a in node.attribute if a.name == "metric")
    fixed, _, weight, _ = node.input
    return correlation.function_body(metric, _length(graph, fixed, 1), _length(graph, weight, 0))


def _length(graph: onnx.GraphProto, name: str, axis: int) -> int:
    """Return the length of an axis of a value, 0 where it is not known before the graph runs."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return int(tensor.dims[axis])
    for value in (*graph.input, *graph.value_info):
        if value.name == name:
            return int(value.type.tensor_type.shape.dim[axis].dim_value)
    return 0
