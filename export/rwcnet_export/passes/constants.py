"""Compute at export what does not depend on the inputs."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants as fold


def fold_constants(model: ir.Model) -> int:
    """Replace nodes of constant inputs by their values, in place; return how many nodes went."""
    before = model.graph.num_nodes()
    fold(model)
    RemoveUnusedNodesPass()(model)
    return before - model.graph.num_nodes()
