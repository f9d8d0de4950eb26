"""Rewrites of exported graphs that change what is computed in nothing but rounding.

Each pass lives in a file of its own and takes a model, in place. `optimise` runs them all and says
how often each fired, or why it did not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from rwcnet_export.passes.constants import fold_constants
from rwcnet_export.passes.gates import merge_gates
from rwcnet_export.passes.means import project_before_mean
from rwcnet_export.passes.shared import share_subgraphs


@dataclass(frozen=True)
class Outcome:
    """What one pass did to one graph.

    Attributes
    ----------
    name
        The pass.
    fired
        Places it changed: nodes it removed, or pairs of nodes it rewrote.
    idle
        Why a pass finds nothing in the graphs of this toolkit's presets.
    """

    name: str
    fired: int
    idle: str

    def __str__(self) -> str:
        """Return one line for a report."""
        return f"{self.name}: {self.fired or 'nothing'}" + ("" if self.fired else f" ({self.idle})")


_PASSES: tuple[tuple[str, Callable[[ir.Model], int], str], ...] = (
    (
        "gate convolutions merged",
        merge_gates,
        "`base` has both gates in one convolution, the published network has one gate",
    ),
    ("constants folded", fold_constants, "the exporter has folded them"),
    (
        "projections moved before means",
        project_before_mean,
        "the body of LocalCorrelation3d projects first",
    ),
    (
        "nodes shared between steps",
        share_subgraphs,
        "the exporter has shared them, and the bodies of the operators are calls",
    ),
)


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
    outcomes = [Outcome(name, run(rewritten), idle) for name, run, idle in _PASSES]
    result = ir.to_proto(rewritten)
    result.functions.extend(model.functions)
    return result, outcomes
