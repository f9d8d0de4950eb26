"""Synthetic training pairs with their exact displacement, from label maps or procedural shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rwcnet_ref.appearance import paint, random_contrast, random_labels, scan
from rwcnet_ref.deformation import Size, random_flow
from rwcnet_ref.grid import Warp
from rwcnet_ref.pair import Pair
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.volumes import read_labels

# FreeSurfer numbers of right-sided structures and of their left twins: one tissue, one intensity.
_LEFT_FROM_RIGHT = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18,
    57: 25, 58: 26, 60: 28, 62: 30, 163: 136, 164: 137,
}  # fmt: skip
# SynthSeg's labels outside the brain: skull, scalp, eyes and what else a head has.
_OUTSIDE_BRAIN = 500
_DICE_LABELS = 6


@dataclass(frozen=True)
class LabelMap:
    """A whole head as labels.

    Attributes
    ----------
    labels
        (i, j, k) int64, RAS+ axes, indices into `classes`.
    classes
        (n,) int64, the intensity class of each label; 0 is background.
    brain
        (n,) bool, whether a label lies inside the skull.
    centre
        Centre of mass of the brain in voxels.
    """

    labels: Tensor
    classes: Tensor
    brain: Tensor
    centre: tuple[float, float, float]

    def to(self, device: torch.device) -> LabelMap:
        """Return the head on a device; pairs are drawn where their heads and generator are."""
        return replace(
            self,
            labels=self.labels.to(device),
            classes=self.classes.to(device),
            brain=self.brain.to(device),
        )


def read_label_maps(folder: Path) -> list[LabelMap]:
    """Read SynthSeg's training label maps (``seg_*.nii.gz`` and ``generation_labels.npy``).

    Raises
    ------
    FileNotFoundError
        If the folder holds none.
    InputError
        If a file of it cannot be used.
    """
    paths = sorted(folder.glob("seg_*.nii.gz"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no label maps seg_*.nii.gz")
    listing = folder / "generation_labels.npy"
    try:
        known = [int(n) for n in np.load(listing)]
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise InputError(f"{listing} cannot be read as labels ({error}): get it anew") from error
    index = {label: n for n, label in enumerate(known)}
    tissues = sorted({_LEFT_FROM_RIGHT.get(label, label) for label in known})
    classes = torch.tensor([tissues.index(_LEFT_FROM_RIGHT.get(label, label)) for label in known])
    brain = torch.tensor([0 < label < _OUTSIDE_BRAIN for label in known])
    maps = []
    for path in paths:
        values = read_labels(path).data.astype(np.int64)
        lookup = torch.zeros(int(values.max()) + 1, dtype=torch.int64)
        for label, n in index.items():
            if label < len(lookup):
                lookup[label] = n
        labels = lookup[torch.from_numpy(values)]
        i, j, k = (float(x.float().mean()) for x in brain[labels].nonzero(as_tuple=True))
        maps.append(LabelMap(labels, classes, brain, (i, j, k)))
    return maps


@dataclass(frozen=True)
class SyntheticSource:
    """Draws pairs of one size and resolution; a `PairSource`.

    Attributes
    ----------
    size
        Grid (i, j, k) of the pairs.
    resolution
        Voxel size in voxels of the label maps (1 mm); coarser images are averages.
    amplitude
        Displacement in voxels of the label maps, see `random_flow`.
    maps
        Label maps to draw from; none for shapes alone.
    shapes
        Share of pairs made from procedural shapes.
    two_heads
        Share of the others that are two different heads.
    same_contrast
        Share of pairs whose images have one contrast.
    texture
        Largest amplitude of the texture in tissues, 0..1.
    same_texture
        Share of pairs of one head and one contrast that have one texture too. It is an easy start,
        but no two real images have it.
    scanner
        How much the two scans differ, see `scan`.
    """

    size: Size
    resolution: int
    amplitude: float
    maps: Sequence[LabelMap] = ()
    shapes: float = 1.0
    two_heads: float = 0.0
    same_contrast: float = 0.5
    texture: float = 0.06
    same_texture: float = 0.0
    scanner: float = 1.0

    def draw(self, random: torch.Generator) -> Pair:
        """Draw one pair."""
        chance = torch.rand(3, generator=random, device=random.device)
        if not self.maps or chance[0] < self.shapes:
            return self._shapes(random)
        order = torch.randperm(len(self.maps), generator=random, device=random.device)
        first, second = self.maps[int(order[0])], self.maps[int(order[-1])]
        # Where the crop lies relative to the brain's centre, in voxels of the label map.
        span = torch.tensor(first.labels.shape, device=random.device) / 2
        reach = (span - torch.tensor(self.size, device=random.device) * self.resolution / 2).clamp(
            8, 45
        )
        offset = (torch.rand(3, generator=random, device=random.device) * 2 - 1) * reach
        stripped = bool(chance[1] < 0.5)
        if chance[2] < self.two_heads:
            return self._two_heads(first, second, offset, stripped, random)
        return self._one_head(first, offset, stripped, random)

    def _flow(self, size: Size, random: torch.Generator) -> Tensor:
        scale = float(torch.rand((), generator=random, device=random.device)) * 0.9 + 0.1
        spread = float(torch.rand((), generator=random, device=random.device)) * 24 + 16
        return random_flow(
            size,
            random,
            amplitude=self.amplitude * scale / self.resolution,
            spacing=max(3.0, spread / self.resolution),
            affine=scale,
        )

    def _shapes(self, random: torch.Generator) -> Pair:
        margin = self._margin()
        labels = random_labels(self._grown(margin), random)
        classes = torch.arange(10, device=random.device)
        return self._from_base(labels, classes, 1, margin, random)

    def _one_head(
        self, head: LabelMap, offset: Tensor, stripped: bool, random: torch.Generator
    ) -> Pair:
        margin = self._margin()
        labels = self._cut(head, offset, stripped, self._grown(margin))
        return self._from_base(labels, head.classes, self.resolution, margin, random)

    def _from_base(
        self, labels: Tensor, classes: Tensor, factor: int, margin: int, random: torch.Generator
    ) -> Pair:
        """Deform one base: ``fixed(x) = base(x + u(x))``, ``moving = base``, ``flow = u``."""
        warp = Warp()
        contrast = random_contrast(classes, random)
        base = paint(labels, contrast, random, factor, self.texture)
        chance = torch.rand(2, generator=random, device=random.device)
        if chance[0] >= self.same_contrast:
            contrast = random_contrast(classes, random)
        if chance[0] < self.same_contrast and chance[1] < self.same_texture:
            other = base
        else:
            other = paint(labels, contrast, random, factor, self.texture)
        flow = self._flow((base.shape[2], base.shape[3], base.shape[4]), random)
        fills = _fills(labels, _choose(labels, random), factor)
        i, j, k = (slice(margin, margin + n) for n in self.size)
        # Warped with its margin, then cut: what comes in from outside the crop is there.
        return Pair(
            fixed=scan(warp(other, flow)[..., i, j, k], random, self.scanner),
            moving=scan(base[..., i, j, k], random, self.scanner),
            mm_from_voxel=self._edges(random.device),
            flow=flow[..., i, j, k],
            fixed_labels=warp(fills, flow)[..., i, j, k],
            moving_labels=fills[..., i, j, k],
        )

    def _two_heads(
        self,
        first: LabelMap,
        second: LabelMap,
        offset: Tensor,
        stripped: bool,
        random: torch.Generator,
    ) -> Pair:
        warp = Warp()
        fixed = self._cut(first, offset, stripped, self.size)
        moving = self._cut(second, offset, stripped, self.size)
        chosen = _choose(fixed, random)
        contrast = random_contrast(first.classes, random)
        still = paint(fixed, contrast, random, self.resolution, self.texture)
        if torch.rand((), generator=random, device=random.device) >= self.same_contrast:
            contrast = random_contrast(second.classes, random)
        other = paint(moving, contrast, random, self.resolution, self.texture)
        flow = self._flow(self.size, random)
        return Pair(
            fixed=scan(still, random, self.scanner),
            moving=scan(warp(other, flow), random, self.scanner),
            mm_from_voxel=self._edges(random.device),
            fixed_labels=_fills(fixed, chosen, self.resolution),
            moving_labels=warp(_fills(moving, chosen, self.resolution), flow),
        )

    def _edges(self, device: torch.device) -> Tensor:
        return self.resolution * torch.eye(3, device=device)

    def _margin(self) -> int:
        return max(4, round(2 * self.amplitude / self.resolution))

    def _grown(self, margin: int) -> Size:
        i, j, k = (n + 2 * margin for n in self.size)
        return i, j, k

    def _cut(self, head: LabelMap, offset: Tensor, stripped: bool, size: Size) -> Tensor:
        """Cut size * resolution voxels about the brain's centre plus an offset, padded with 0."""
        labels = torch.zeros(
            [n * self.resolution for n in size], dtype=torch.int64, device=head.labels.device
        )
        into, out_of = [], []
        for length, whole, centre, shift in zip(
            labels.shape, head.labels.shape, head.centre, offset, strict=True
        ):
            start = round(centre + float(shift) - length / 2)
            first, last = max(0, start), max(0, min(whole, start + length))
            into.append(slice(first - start, max(last, first) - start))
            out_of.append(slice(first, max(last, first)))
        labels[tuple(into)] = head.labels[tuple(out_of)]
        return labels * head.brain[labels] if stripped else labels


def _choose(labels: Tensor, random: torch.Generator) -> Tensor:
    """Choose up to six of the labels that are there, background left out."""
    # A coarse look is enough, and sorting every voxel is slow.
    present = labels[::3, ::3, ::3].unique()
    present = present[present > 0]
    order = torch.randperm(len(present), generator=random, device=random.device)
    chosen: Tensor = present[order[:_DICE_LABELS]]
    return chosen


def _fills(labels: Tensor, chosen: Tensor, factor: int) -> Tensor:
    """Return how much of each coarse voxel each chosen label fills, (1, c, i, j, k)."""
    parts = [F.avg_pool3d((labels == n).float()[None, None], factor) for n in chosen]
    size = [n // factor for n in labels.shape]
    return torch.cat(parts, 1) if parts else torch.zeros((1, 0, *size), device=labels.device)
