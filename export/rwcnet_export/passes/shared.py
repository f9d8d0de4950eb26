"""Compute once what the unrolled steps have in common."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass


def share_subgraphs(model: ir.Model) -> int:
    """Merge nodes of equal operator, inputs and attributes, in place; return how many went."""
    before = model.graph.num_nodes()
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    return before - model.graph.num_nodes()
