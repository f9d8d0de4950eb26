"""What a low precision changes in the flow of the whole chain, and how much of that is too much."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from rwcnet_export.cases import Case
from rwcnet_export.parity import ParityError
from rwcnet_export.rounding import rounding_graph
from rwcnet_ref.model import Cascade
from rwcnet_runtime.backends.interface import Array
from rwcnet_runtime.backends.onnxruntime_cpu import Session
from rwcnet_runtime.metrics import flow_distance

# The mean over an image that a precision may be away from fp32 torch. Interpolation and what the
# network itself misses are both more than that.
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
        "shapes" (procedural) or "images" (the user's).
    size
        Grid (i, j, k).
    flow_vox
        Mean length of the flow in torch.
    mean_vox, p99_vox, max_vox
        Of the length of the difference at each voxel.
    """

    engine: str
    case: str
    size: tuple[int, ...]
    flow_vox: float
    mean_vox: float
    p99_vox: float
    max_vox: float

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
    cascade: Cascade, engines: Mapping[str, Graphs], pair: Case
) -> list[FlowDifference]:
    """Compare the chain in each precision with the chain in torch.

    Parameters
    ----------
    cascade
        What was exported, in evaluation mode.
    engines
        For each precision the graphs that were exported.
    pair
        From `whole_pair`.
    """
    expected = cascade(pair.fixed, pair.moving).numpy()
    return [
        FlowDifference.between(engine, pair.name, rounded_flow(cascade, graphs, pair), expected)
        for engine, graphs in engines.items()
    ]


def too_far(difference: FlowDifference) -> bool:
    """Return whether a precision misses the bar; true of a flow that is no number, too."""
    return not difference.mean_vox <= MEAN_VOX


def require(differences: Iterable[FlowDifference]) -> None:
    """Refuse a precision that changes the flow too much.

    Raises
    ------
    ParityError
        If the mean difference of one is over `MEAN_VOX`, or not a number.
    """
    for found in filter(too_far, differences):
        raise ParityError(
            f"{found.engine} changes the flow by {found.mean_vox:.2g} voxels on average on "
            f"{found.case} of size {found.size}, where {MEAN_VOX:g} is allowed: leave that engine "
            "out, or keep it with --force"
        )


def table(differences: Iterable[FlowDifference]) -> str:
    """Return what was compared, a line each."""
    lines = [
        f"{'engine':7}{'case':9}{'size':17}{'mean flow':11}"
        "difference from torch: mean, 99 %, largest (voxels)"
    ]
    for row in differences:
        size = " x ".join(map(str, row.size))
        lines.append(
            f"{row.engine:7}{row.case:9}{size:17}{row.flow_vox:<11.2f}"
            f"{row.mean_vox:.1e}  {row.p99_vox:.1e}  {row.max_vox:.1e}"
        )
    return "\n".join(lines)
