"""Compute at export what does not depend on the inputs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants as fold

from rwcnet_export.passes.outcome import Outcome


def fold_constants(model: ir.Model) -> Outcome:
    """Replace nodes of constant inputs by their values, in place; fired is how many nodes went."""
    before, constant = model.graph.num_nodes(), _constant_nodes(model.graph)
    fold(model)
    RemoveUnusedNodesPass()(model)
    gone = before - model.graph.num_nodes()
    return Outcome("constants folded", gone, constant, before, "nodes depend on no input")


def _constant_nodes(graph: ir.Graph) -> int:
    """Count nodes that would give the same for any input of the graph."""
    known, count = set(graph.initializers.values()), 0
    for node in graph:
        if all(value is None or value in known for value in node.inputs):
            known.update(node.outputs)
            count += 1
    return count
