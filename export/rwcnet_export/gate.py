"""What a low precision changes in the flow of the whole chain, and how much of that is too much."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from rwcnet_export.cases import Case
from rwcnet_export.parity import ParityError
from rwcnet_export.rounding import rounding_graph
from rwcnet_export.tables import size_text, table
from rwcnet_ref.model import Cascade
from rwcnet_runtime.backends.interface import Array
from rwcnet_runtime.backends.onnxruntime_cpu import Session
from rwcnet_runtime.metrics import flow_distance

# The mean over an image that a precision may be away from fp32 torch, unless the user says another.
# Interpolation and what the network itself misses are both more than that.
MEAN_VOX = 0.05

Graphs = Mapping[int, onnx.ModelProto]
"""Graphs of stages by their index, 0 is the coarsest, in one precision."""


@dataclass(frozen=True)
class FlowDifference:
    """How far the flow of a precision is from fp32 torch, in voxels of the full grid.

    Attributes
    ----------
    engine
        The precision.
    case
        "shapes" (procedural), "images" (the user's) or its name in a cases file.
    size
        Grid (i, j, k).
    flow_vox
        Mean length of the flow in torch.
    mean_vox, p99_vox, max_vox
        Of the length of the difference at each voxel.
    accuracy
        Where the truth is known, by measure: that of the flow in torch, and of this precision's.
    """

    engine: str
    case: str
    size: tuple[int, ...]
    flow_vox: float
    mean_vox: float
    p99_vox: float
    max_vox: float
    accuracy: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def between(cls, engine: str, case: str, found: Array, expected: Array) -> FlowDifference:
        """Measure two flows (1, 3, i, j, k) in voxels."""
        mean_flow, _, _ = flow_distance(expected, np.zeros_like(expected))
        return cls(engine, case, expected.shape[2:], mean_flow, *flow_distance(found, expected))


class _StandIn:
    """Runs a graph where torch would run a stage."""

    def __init__(self, model: onnx.ModelProto) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stage.onnx"
            onnx.save(model, path)
            self._session = Session(path)

    def __call__(
        self, fixed: Tensor, moving: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        inputs = {"fixed": fixed, "moving": moving, "hidden": hidden}
        arrays = {name: x.numpy() for name, x in inputs.items() if x is not None}
        flow, *state = (torch.from_numpy(x) for x in self._session.run(**arrays))
        # Without a hidden state no stage reads one: any tensor will do.
        return flow, state[0] if state else flow


@torch.inference_mode()
def rounded_flow(cascade: Cascade, graphs: Graphs, pair: Case) -> Array:
    """Run the chain with graphs in the place of stages, rounded as their precision rounds.

    Parameters
    ----------
    cascade
        Runs the other stages, and all between stages; left as it was.
    graphs
        From `stage_graph`, or `lower`.
    pair
        Whole images.

    Returns
    -------
    ndarray, (1, 3, i, j, k), float32
        Total flow in voxels.
    """
    chain = copy.deepcopy(cascade)
    for index, model in graphs.items():
        chain.stage(index).forward = _StandIn(rounding_graph(model))  # type: ignore[method-assign]
    flow: Array = chain(pair.fixed, pair.moving).numpy()
    return flow


@torch.inference_mode()
def compare_engines(
    cascade: Cascade,
    engines: Mapping[str, Graphs],
    pair: Case,
    accuracy: Callable[[Array], dict[str, float]] = lambda flow: {},
) -> list[FlowDifference]:
    """Compare the chain in each precision with the chain in torch.

    Parameters
    ----------
    cascade
        What was exported, in evaluation mode.
    engines
        For each precision the graphs that were exported.
    pair
        Whole images.
    accuracy
        Measures a flow (1, 3, i, j, k) on them, where the truth is known.
    """
    expected = cascade(pair.fixed, pair.moving).numpy()
    best = accuracy(expected)
    differences = []
    for engine, graphs in engines.items():
        flow = rounded_flow(cascade, graphs, pair)
        found = accuracy(flow) if np.isfinite(flow).all() else dict.fromkeys(best, np.nan)
        difference = FlowDifference.between(engine, pair.name, flow, expected)
        both = {name: (value, found[name]) for name, value in best.items()}
        differences.append(replace(difference, accuracy=both))
    return differences


def too_far(difference: FlowDifference, limit_vox: float) -> bool:
    """Return whether a precision misses the bar; true of a flow that is no number, too."""
    return not difference.mean_vox <= limit_vox


def require(differences: Iterable[FlowDifference], limit_vox: float) -> None:
    """Refuse a precision that changes the flow too much.

    Raises
    ------
    ParityError
        If the mean difference of one is over the limit, or not a number.
    """
    for found in differences:
        if too_far(found, limit_vox):
            raise ParityError(
                f"{found.engine} changes the flow by {found.mean_vox:.2g} voxels on average on "
                f"{found.case} of size {found.size}, where {limit_vox:g} is allowed: leave that "
                "engine out, allow more with --gate, or keep it with --force"
            )


# Title, digits after the point.
_MEASURES = {"dice_after": ("Dice", 4), "tre_mm_after": ("TRE mm", 3)}


def describe(differences: Iterable[FlowDifference]) -> str:
    """Return what was compared, a line each; lengths in voxels."""
    head = ("engine", "case", "size", "mean flow", "difference: mean", "99 %", "largest", "truth")
    rows = []
    for row in differences:
        lengths = (f"{value:.1e}" for value in (row.mean_vox, row.p99_vox, row.max_vox))
        truth = [
            f"{title} {best:.{digits}f} -> {found:.{digits}f}"
            for name, (title, digits) in _MEASURES.items()
            for best, found in [row.accuracy.get(name, (None, None))]
            if best is not None
        ]
        size, flow = size_text(row.size), f"{row.flow_vox:.2f}"
        rows.append((row.engine, row.case, size, flow, *lengths, ", ".join(truth)))
    return table(head, rows)
