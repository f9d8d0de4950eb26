"""The graphs of instance optimisation: MIND-SSC features, and one step of Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from rwcnet_export.graphs import Writer, to_onnx, trace_sizes
from rwcnet_export.passes import optimise
from rwcnet_export.passes.outcome import Outcome
from rwcnet_ref.grid import downsample
from rwcnet_ref.losses.images import mind_ssc_descriptor
from rwcnet_ref.refine import RefinementStep
from rwcnet_runtime.bundle import RefinementEntry

# Of the grid the step is traced on, no axis like another.
_SIZE = (6, 4, 8)

# What a bundle does by default, by preset: what was measured, see runtime/benchmarks/refinement.py.
REFINEMENTS = {"base": RefinementEntry("mind", steps=20, regularisation=1.5, rate=0.2)}
ON_REQUEST = RefinementEntry("mind", steps=0, regularisation=1.5, rate=0.2)


class HalfMind(nn.Module):
    """MIND-SSC of the whole image, then averaged: what the step compares."""

    def forward(self, image: Tensor) -> Tensor:
        """(b, 1, i, j, k) to (b, 12, i/2, j/2, k/2)."""
        return downsample(mind_ssc_descriptor(image), 2)


def mind_graph(write: Writer = to_onnx) -> onnx.ModelProto:
    """Export `mind.onnx`.

    Returns
    -------
    onnx.ModelProto
        ``image``, (b, 1, i, j, k) float32 of even size, to ``features``, (b, 12, i/2, j/2, k/2)
        within 0..1: the descriptor of Heinrich et al. 2013 (MICCAI), patches of 3^3 voxels about
        neighbours at two voxels, normalised as `mind_ssc_descriptor` says, averaged over 2^3.
    """
    image = torch.rand((2, 1, 12, 8, 16))
    return write(HalfMind(), {"image": image}, ("features",), {"image": 2})


def refine_graph(
    dtype: torch.dtype = torch.float32,
    note: Callable[[list[Outcome]], None] = lambda outcomes: None,
) -> onnx.ModelProto:
    """Export `refine.onnx`.

    Parameters
    ----------
    dtype
        Of all inputs and outputs; float64 is for tests.
    note
        Told what each pass did.

    Returns
    -------
    onnx.ModelProto
        Inputs as `RefinementStep.forward` takes them, any size and number of channels; outputs
        ``change_out``, ``mean_out``, ``square_out`` and ``loss``.
    """
    axes = [torch.export.Dim(axis, min=2) for axis in "ijk"]
    on_grid = dict(enumerate(axes, start=2))
    channels_last = dict(enumerate([*axes, torch.export.Dim("channels", min=1)], start=1))
    like: dict[str, tuple[tuple[int, ...], dict[int, Any]]] = {
        "change": ((1, 3, *_SIZE), on_grid),
        "mean": ((1, 3, *_SIZE), on_grid),
        "square": ((1, 3, *_SIZE), on_grid),
        "step": ((1,), {}),
        "start": ((1, 3, *_SIZE), on_grid),
        "fixed": ((1, *_SIZE, 5), channels_last),
        "moving": ((1, *_SIZE, 5), channels_last),
        "weight": ((1, 1, *_SIZE), on_grid),
        "regularisation": ((1,), {}),
        "rate": ((1,), {}),
    }
    inputs = {name: torch.ones(shape, dtype=dtype) for name, (shape, _) in like.items()}
    shapes = [dynamic for _, dynamic in like.values()]
    outputs = ("change_out", "mean_out", "square_out", "loss")
    model, outcomes = optimise(trace_sizes(RefinementStep(), inputs, outputs, shapes))
    note(outcomes)
    onnx.checker.check_model(model, full_check=True)
    return model
