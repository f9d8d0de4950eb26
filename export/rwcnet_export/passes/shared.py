"""Compute once what the unrolled steps have in common."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from rwcnet_export.passes.outcome import Outcome


def share_subgraphs(model: ir.Model) -> Outcome:
    """Merge nodes of equal operator, inputs and attributes, in place; fired is how many went."""
    before = model.graph.num_nodes()
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    gone = before - model.graph.num_nodes()
    return Outcome("nodes shared between steps", gone, gone, before, "nodes repeat another")
