"""Whole heads as label maps: reading SynthSeg's, and cutting crops out of them in any pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rwcnet_ref.deformation import Size, random_affine
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.volumes import read_labels

# FreeSurfer numbers of right-sided structures and of their left twins: one tissue, one intensity.
_LEFT_FROM_RIGHT = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18,
    57: 25, 58: 26, 60: 28, 62: 30, 163: 136, 164: 137,
}  # fmt: skip
# SynthSeg's labels outside the brain: skull, scalp, eyes and what else a head has.
_OUTSIDE_BRAIN = 500
_MOST_LABELS = 256  # of a byte a voxel
# How bright tissues are in a T1-weighted scan, 0 black and 1 white, by FreeSurfer's left numbers:
# what every atlas of MR contrast shows, white matter brightest, fluid darkest, grey between.
_T1 = {
    2: 0.85, 3: 0.52, 4: 0.12, 5: 0.12, 7: 0.82, 8: 0.52, 10: 0.68, 11: 0.56, 12: 0.60, 13: 0.74,
    14: 0.12, 15: 0.12, 16: 0.76, 17: 0.52, 18: 0.52, 24: 0.10, 25: 0.60, 26: 0.54, 28: 0.74,
    30: 0.45, 72: 0.12, 85: 0.80, 136: 0.12, 137: 0.12,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A whole head as labels.

    Attributes
    ----------
    labels
        (i, j, k) uint8, RAS+ axes, indices into `classes`.
    classes
        (n,) int64, the intensity class of each label; 0 is background.
    brain
        (n,) bool, whether a label lies inside the skull.
    t1
        (n,) float32 within 0..1, brightness in a T1-weighted scan, by class; NaN where unknown.
    centroids
        (n, 3) float32, centre of mass of each label of the brain in voxels; NaN where there is
        none.
    """

    labels: Tensor
    classes: Tensor
    brain: Tensor
    t1: Tensor
    centroids: Tensor

    @property
    def centre(self) -> Tensor:
        """Middle of the structures of the brain, (3,) in voxels."""
        return self.centroids.nanmean(0)

    def to(self, device: torch.device) -> LabelMap:
        """Return the head on a device; pairs are drawn where their heads and generator are."""
        return replace(
            self,
            **{
                name: getattr(self, name).to(device)
                for name in ("labels", "classes", "brain", "t1", "centroids")
            },
        )


def read_label_maps(folder: Path) -> list[LabelMap]:
    """Read SynthSeg's training label maps (``seg_*.nii.gz`` and ``generation_labels.npy``).

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it holds none.
    InputError
        If a file of it cannot be used.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    paths = sorted(folder.glob("seg_*.nii.gz"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no label maps seg_*.nii.gz")
    listing = folder / "generation_labels.npy"
    try:
        known = [int(n) for n in np.load(listing)]
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"{listing} cannot be read as labels ({error}): get it anew") from error
    if len(known) > _MOST_LABELS:
        raise InputError(
            f"{listing} lists {len(known)} labels, at most {_MOST_LABELS} can be: get it anew"
        )
    left = [_LEFT_FROM_RIGHT.get(label, label) for label in known]
    tissues = sorted(set(left))
    classes = torch.tensor([tissues.index(label) for label in left])
    t1 = torch.tensor([_T1.get(label, float("nan")) for label in tissues])
    brain = torch.tensor([0 < label < _OUTSIDE_BRAIN for label in known])
    heads = []
    for path in paths:
        head = _of(read_labels(path).data, known, classes, brain, t1)
        if head.centroids.isnan().all():
            raise InputError(f"{path} holds no label of a brain: take it out of the folder")
        heads.append(head)
    return heads


def _of(
    values: np.ndarray, known: Sequence[int], classes: Tensor, brain: Tensor, t1: Tensor
) -> LabelMap:
    lookup = np.zeros(int(values.max()) + 1, np.uint8)
    for n, label in enumerate(known):
        if label < len(lookup):
            lookup[label] = n
    labels = torch.from_numpy(lookup[values.astype(np.int64)])
    return LabelMap(labels, classes, brain, t1, centroids_of(labels, brain))


def centroids_of(labels: Tensor, brain: Tensor) -> Tensor:
    """Return the centre of mass of each label of the brain, (n, 3) in voxels, NaN without one."""
    centroids = torch.full((len(brain), 3), float("nan"))
    for label in brain.nonzero()[:, 0].tolist():
        places = (labels == label).nonzero().float()
        if len(places):
            centroids[label] = places.mean(0)
    return centroids


@dataclass(frozen=True, eq=False)
class View:
    """Where a crop lies in a head: the point y of it, in mm from its middle, at ``A y + b``.

    Attributes
    ----------
    matrix
        A, (3, 3); heads have voxels of 1 mm.
    middle
        b, (3,) in voxels of the head.
    """

    matrix: Tensor
    middle: Tensor

    def then(self, matrix: Tensor, shift: Tensor) -> View:
        """Return the view whose points lie at ``matrix x + shift`` for the points x of this one."""
        return View(matrix @ self.matrix, matrix @ self.middle + shift)


def random_view(head: LabelMap, edge_mm: Sequence[float], random: torch.Generator) -> View:
    """Draw a view of a head: turned, scaled, in one of two cases mirrored left to right."""
    span = torch.tensor(head.labels.shape, device=random.device) / 2
    reach = (span - torch.tensor(edge_mm, device=random.device) / 2).clamp(8, 45)
    draw = torch.rand(5, generator=random, device=random.device)
    matrix = random_affine(random, 2 * float(draw[3]))
    if draw[4] < 0.5:
        matrix = matrix * torch.tensor([-1.0, 1.0, 1.0], device=random.device)
    return View(matrix, head.centre + (draw[:3] * 2 - 1) * reach)


def between(first: LabelMap, second: LabelMap) -> tuple[Tensor, Tensor]:
    """Return the affine (matrix, shift) that best takes one head's centroids to another's."""
    both = ~(first.centroids.isnan() | second.centroids.isnan()).any(1)
    here, there = first.centroids[both], second.centroids[both]
    middle, target = here.mean(0), there.mean(0)
    here, there = here - middle, there - target
    # Towards a mere shift by a millimetre a label, for heads with few labels or flat sets of them.
    known = here.T @ here + len(here) * torch.eye(3, device=here.device)
    matrix = torch.eye(3, device=here.device) + torch.linalg.solve(known, here.T @ (there - here)).T
    return matrix, target - matrix @ middle


def cut(head: LabelMap, view: View, size: Size, step: float, stripped: bool) -> Tensor:
    """Look up the nearest label at each point of a crop.

    Parameters
    ----------
    head
        What is cut.
    view
        Where.
    size
        Points along each axis.
    step
        Distance between them in mm.
    stripped
        Whether everything outside the brain becomes background.

    Returns
    -------
    Tensor
        (i, j, k) uint8, 0 outside the head.
    """
    device = head.labels.device
    # One axis at a time: the points of a crop are a sum of three terms.
    axes = [(torch.arange(n, device=device) - (n - 1) / 2) * step for n in size]
    index = torch.zeros(size, dtype=torch.int64, device=device)
    inside = torch.ones(size, dtype=torch.bool, device=device)
    for row, b, length in zip(view.matrix, view.middle, head.labels.shape, strict=True):
        i, j, k = (a * line for a, line in zip(row, axes, strict=True))
        places = (i[:, None, None] + j[:, None] + (k + b)).round().to(torch.int32)
        inside &= (places >= 0) & (places < length)
        index = index * length + places.clamp(0, length - 1)
    labels = head.labels.flatten()[index.flatten()].view(size) * inside
    if stripped:
        labels = labels * head.brain[labels.to(torch.int32)]
    return labels
