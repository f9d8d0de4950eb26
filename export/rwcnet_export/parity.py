"""Exported stages against the torch stages they were made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rwcnet_export.cases import cases
from rwcnet_export.tables import size_text, table
from rwcnet_ref.model import Cascade
from rwcnet_runtime.backends.onnxruntime_cpu import Session
from rwcnet_runtime.errors import RwcnetError

TOLERANCE_VOX = 1e-3


class ParityError(RwcnetError):
    """An exported stage does not do what the torch stage does."""


@dataclass(frozen=True)
class Comparison:
    """How far an exported stage is from torch.

    Attributes
    ----------
    stage
        1 is the coarsest, as in file names.
    case
        "random", "shapes" (procedural, drawn as for training) or "images" (the user's).
    size, batch
        Grid (i, j, k) of the stage, and images at once.
    flow_vox
        Largest displacement along an axis in torch, voxels of the stage's grid.
    difference_vox
        Largest difference of the flow, same unit, or of the hidden state, which has none.
    """

    stage: int
    case: str
    size: tuple[int, ...]
    batch: int
    flow_vox: float
    difference_vox: float


@torch.inference_mode()
def compare_stage(
    cascade: Cascade, index: int, path: Path, images: tuple[Tensor, Tensor] | None = None
) -> list[Comparison]:
    """Run one exported stage in ONNX Runtime and the same stage in torch.

    Parameters
    ----------
    cascade
        What was exported, in evaluation mode.
    index
        The stage; 0 is the coarsest.
    path
        Its ONNX file.
    images
        What `read_pair` returns, to compare on the middle of them as well.

    Raises
    ------
    ParityError
        If the flow differs by more than `TOLERANCE_VOX` anywhere, or is not a number.
    BundleError, BackendError
        If ONNX Runtime cannot load or run the file.
    """
    session = Session(path)
    rows = []
    for case in cases(cascade, index, images):
        inputs = {"fixed": case.fixed, "moving": case.moving, "hidden": case.hidden}
        expected, state = (x.numpy() for x in cascade.stage(index)(**inputs))
        # The hidden state, where another stage takes it, is held to the same number.
        wanted = [expected, state] if cascade.config.inherits(index + 1) else [expected]
        found = session.run(**{name: x.numpy() for name, x in inputs.items() if x is not None})
        differences = [np.abs(x - y).max() for x, y in zip(found, wanted, strict=True)]
        difference = float(max(differences))
        size, batch = tuple(expected.shape[2:]), len(expected)
        if not difference <= TOLERANCE_VOX:  # true of NaN too
            raise ParityError(
                f"stage {index + 1} differs from torch by {difference:.2g} voxels on {case.name} "
                f"input of size {size}, batch {batch}, where {TOLERANCE_VOX:g} is allowed: the "
                "export is wrong and was not kept"
            )
        largest = float(np.abs(expected).max())
        rows.append(Comparison(index + 1, case.name, size, batch, largest, difference))
    return rows


def describe(rows: Iterable[Comparison]) -> str:
    """Return what was compared, a line each."""
    head = ("stage", "case", "size", "batch", "largest flow", "largest difference (voxels)")
    return table(
        head,
        (
            (
                str(row.stage),
                row.case,
                size_text(row.size),
                str(row.batch),
                f"{row.flow_vox:.2f}",
                f"{row.difference_vox:.1e}",
            )
            for row in rows
        ),
    )
