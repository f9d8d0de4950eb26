"""One convolution for the gates of a GRU: wide convolutions use a processor better than narrow."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_ir as ir

from rwcnet_export.passes.outcome import Outcome

Key = tuple[object, ...]


def _constant(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _key(node: ir.Node) -> Key:
    """Return what convolutions must have in common to become one."""
    weight = node.inputs[1]
    assert weight is not None
    assert weight.shape is not None
    window = tuple(weight.shape)[1:]
    attributes = tuple(sorted((name, str(a.value)) for name, a in node.attributes.items()))
    return node.inputs[0], window, attributes, len(node.inputs) > 2


def merge_gates(model: ir.Model) -> Outcome:
    """Merge ungrouped convolutions of one input and one window, in place.

    Their weights are stacked along the output channels, and a Split gives each what was its own:
    sums and their order stay the same.

    Returns
    -------
    Outcome
        Fired is how many convolutions went.
    """
    graph = model.graph
    siblings: dict[Key, list[ir.Node]] = defaultdict(list)
    convolutions = [node for node in graph if node.op_type == "Conv" and node.domain == ""]
    for node in convolutions:
        grouped = node.attributes.get_int("group", 1) != 1
        constants = all(_constant(value) is not None for value in node.inputs[1:])
        if not grouped and constants:
            siblings[_key(node)].append(node)
    groups = [nodes for nodes in siblings.values() if len(nodes) > 1]
    for nodes in groups:
        _merge(graph, nodes)
    gone, merged = sum(len(nodes) - 1 for nodes in groups), sum(map(len, groups))
    wanted = "convolutions share their input and their window with another"
    return Outcome("gate convolutions merged", gone, merged, len(convolutions), wanted)


def _merge(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    first = nodes[0]
    inputs = [first.inputs[0]]
    for n in range(1, len(first.inputs)):
        parts = [_constant(node.inputs[n]) for node in nodes]
        stacked = ir.Value(
            name=f"{first.name}_merged_{n}",
            const_value=ir.tensor(np.concatenate([part for part in parts if part is not None])),
        )
        graph.register_initializer(stacked)
        inputs.append(stacked)
    wide = ir.node("Conv", inputs, attributes=dict(first.attributes), name=f"{first.name}_merged")
    widths = [len(part) for node in nodes if (part := _constant(node.inputs[1])) is not None]
    sizes = ir.Value(name=f"{first.name}_widths", const_value=ir.tensor(widths, ir.DataType.INT64))
    graph.register_initializer(sizes)
    split = ir.node(
        "Split", [wide.outputs[0], sizes], {"axis": 1}, num_outputs=len(nodes), name=f"{wide.name}d"
    )
    old = [node.outputs[0] for node in nodes]
    ir.convenience.replace_nodes_and_values(graph, first, nodes, [wide, split], old, split.outputs)
