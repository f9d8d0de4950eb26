"""Rewrites of exported graphs that change what is computed in nothing but rounding.

Each pass lives in a file of its own, takes a model, in place, and says how often it fired and what
it looked for. `optimise` runs them all.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from rwcnet_export.passes.constants import fold_constants
from rwcnet_export.passes.gates import merge_gates
from rwcnet_export.passes.means import project_before_mean
from rwcnet_export.passes.outcome import Outcome
from rwcnet_export.passes.shared import share_subgraphs

_PASSES = (merge_gates, fold_constants, project_before_mean, share_subgraphs)


def optimise(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Outcome]]:
    """Run all passes on a graph.

    Parameters
    ----------
    model
        Left as it was; its model-local functions are kept and not looked into.

    Returns
    -------
    model
        The rewritten graph, with the same inputs and outputs.
    outcomes
        One a pass, in the order they ran.
    """
    calls = onnx.ModelProto()
    calls.CopyFrom(model)
    # Bodies stay as they are, or graphs of one bundle would differ in them.
    del calls.functions[:]
    rewritten = ir.from_proto(calls)
    outcomes = [run(rewritten) for run in _PASSES]
    result = ir.to_proto(rewritten)
    result.functions.extend(model.functions)
    return result, outcomes
