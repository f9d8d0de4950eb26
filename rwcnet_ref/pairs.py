"""Synthetic training pairs with their exact displacement, from label maps or procedural shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rwcnet_ref.appearance import paint, random_contrast, random_labels, scan
from rwcnet_ref.deformation import Size, random_flow
from rwcnet_ref.grid import Warp
from rwcnet_ref.heads import LabelMap, View, between, cut, random_view
from rwcnet_ref.pair import Pair

_DICE_LABELS = 6


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
        Largest displacement in voxels of the label maps, see `random_flow`; each pair has a share
        of it, from nothing on.
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
    known_contrast
        Share of contrasts of heads that are near T1 weighting or its inverse.
    narrow_contrast
        Share of contrasts in which most tissues are nearly alike.
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
    known_contrast: float = 0.4
    narrow_contrast: float = 0.25

    def draw(self, random: torch.Generator) -> Pair:
        """Draw one pair."""
        chance = torch.rand(3, generator=random, device=random.device)
        if not self.maps or chance[0] < self.shapes:
            return self._shapes(random)
        order = torch.randperm(len(self.maps), generator=random, device=random.device)
        first, second = self.maps[int(order[0])], self.maps[int(order[-1])]
        view = random_view(first, [n * self.resolution for n in self.size], random)
        stripped = bool(chance[1] < 0.5)
        if chance[2] < self.two_heads:
            return self._two_heads(first, second, view, stripped, random)
        return self._one_head(first, view, stripped, random)

    def _flow(self, size: Size, random: torch.Generator) -> Tensor:
        draw = torch.rand(2, generator=random, device=random.device)
        scale = float(draw[0])
        # From sulci to lobes, as far as the grid shows them.
        spacing = max(3.0, (8 + 32 * float(draw[1])) / self.resolution)
        return random_flow(
            size,
            random,
            # Steeper velocities than these fold.
            amplitude=min(self.amplitude * scale / self.resolution, spacing / 3),
            spacing=spacing,
            affine=scale,
        )

    def _shapes(self, random: torch.Generator) -> Pair:
        margin = self._margin()
        labels = random_labels(self._grown(margin), random)
        return self._from_base(labels, torch.arange(10, device=random.device), None, margin, random)

    def _one_head(
        self, head: LabelMap, view: View, stripped: bool, random: torch.Generator
    ) -> Pair:
        margin = self._margin()
        labels = self._cut(head, view, stripped, self._grown(margin))
        return self._from_base(labels, head.classes, head, margin, random)

    def _from_base(
        self,
        labels: Tensor,
        classes: Tensor,
        head: LabelMap | None,
        margin: int,
        random: torch.Generator,
    ) -> Pair:
        """Deform one base: ``fixed(x) = base(x + u(x))``, ``moving = base``, ``flow = u``."""
        warp = Warp()
        factor = 1 if head is None else self._factor
        t1 = None if head is None else head.t1
        contrast = self._contrast(classes, t1, random)
        base = paint(labels, contrast, random, factor, self.texture)
        chance = torch.rand(2, generator=random, device=random.device)
        if chance[0] >= self.same_contrast:
            contrast = self._contrast(classes, t1, random)
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
        view: View,
        stripped: bool,
        random: torch.Generator,
    ) -> Pair:
        """Pair two heads after the affine between them and a further random deformation."""
        warp = Warp()
        fixed = self._cut(first, view, stripped, self.size)
        moving = self._cut(second, view.then(*between(first, second)), stripped, self.size)
        chosen = _choose(fixed, random)
        contrast = self._contrast(first.classes, first.t1, random)
        still = paint(fixed, contrast, random, self._factor, self.texture)
        if torch.rand((), generator=random, device=random.device) >= self.same_contrast:
            contrast = self._contrast(second.classes, second.t1, random)
        other = paint(moving, contrast, random, self._factor, self.texture)
        flow = self._flow(self.size, random)
        return Pair(
            fixed=scan(still, random, self.scanner),
            moving=scan(warp(other, flow), random, self.scanner),
            mm_from_voxel=self._edges(random.device),
            fixed_labels=_fills(fixed, chosen, self._factor),
            moving_labels=warp(_fills(moving, chosen, self._factor), flow),
        )

    def _contrast(self, classes: Tensor, t1: Tensor | None, random: torch.Generator) -> Tensor:
        return random_contrast(classes, random, t1, self.known_contrast, self.narrow_contrast)

    def _edges(self, device: torch.device) -> Tensor:
        return self.resolution * torch.eye(3, device=device)

    def _margin(self) -> int:
        return max(4, round(1.5 * self.amplitude / self.resolution))

    def _grown(self, margin: int) -> Size:
        i, j, k = (n + 2 * margin for n in self.size)
        return i, j, k

    @property
    def _factor(self) -> int:
        """Points of the label map along each edge of a voxel; two show partial volumes."""
        return min(2, self.resolution)

    def _cut(self, head: LabelMap, view: View, stripped: bool, size: Size) -> Tensor:
        i, j, k = (n * self._factor for n in size)
        return cut(head, view, (i, j, k), self.resolution / self._factor, stripped)


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
