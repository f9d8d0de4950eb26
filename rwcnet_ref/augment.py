"""Random changes of real pairs that keep what is known about them true."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rwcnet_ref.appearance import scan
from rwcnet_ref.deformation import random_flow
from rwcnet_ref.grid import identity, sample
from rwcnet_ref.pair import Pair

# Distance of the control points of a random deformation in mm, and at least so many amplitudes, so
# that its slope stays small enough to invert it by iteration.
_SPACING_MM = (16.0, 40.0)
_AMPLITUDES = 4.0
_ITERATIONS = 60
_INVERTED_VOX = 0.01


@dataclass(frozen=True)
class Augmentation:
    """How much real pairs are changed; all zeros leave them as they are.

    Attributes
    ----------
    flip
        Chance of each array axis to be reversed, in both images.
    swap
        Chance that fixed and moving change places. A pair with a known displacement or a mask,
        which hold for the fixed image alone, keeps its order.
    deform_mm
        Size of a random smooth deformation of the moving image, see `random_flow`; a pair gets
        between none and all of it.
    affine
        Strength of a random affine of the moving image; 1 is up to 10 degrees and 10 %.
    intensity
        Strength of random blur, bias field, gamma and noise in both images, see `scan`.
    """

    flip: float = 0.0
    swap: float = 0.0
    deform_mm: float = 0.0
    affine: float = 0.0
    intensity: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            largest = 1 if field.name in ("flip", "swap") else float("inf")
            if not 0 <= value <= largest:
                raise ValueError(f"{field.name} is {value}; it must be within 0..{largest:g}")


def augment(pair: Pair, random: torch.Generator, settings: Augmentation) -> Pair:
    """Change a pair at random; labels, points and a known displacement follow.

    Parameters
    ----------
    pair
        Left as it is.
    random
        Source of all randomness, on the pair's device.
    settings
        How much.

    Returns
    -------
    Pair
        Points that a deformation moves out of the moving image are left out.
    """
    chance = torch.rand(4, generator=random, device=random.device)
    if chance[0] < settings.swap and pair.flow is None and pair.fixed_mask is None:
        pair = swapped(pair)
    for axis in range(3):
        if chance[1 + axis] < settings.flip:
            pair = _flipped(pair, axis)
    if settings.deform_mm or settings.affine:
        pair = _deformed(pair, _random_flow(pair, random, settings))
    if settings.intensity:
        pair = replace(
            pair,
            fixed=_scanned(pair.fixed, random, settings.intensity),
            moving=_scanned(pair.moving, random, settings.intensity),
        )
    return pair


def _scanned(image: Tensor, random: torch.Generator, strength: float) -> Tensor:
    """Scan an image of any range: a fixed one need not be 0..1 for this image."""
    low, high = image.aminmax()
    span = (high - low).clamp(min=1e-6)
    return scan((image - low) / span, random, strength) * span + low


def swapped(pair: Pair) -> Pair:
    """Exchange fixed and moving; a true displacement is not inverted."""
    return replace(
        pair,
        fixed=pair.moving,
        moving=pair.fixed,
        fixed_labels=pair.moving_labels,
        moving_labels=pair.fixed_labels,
        fixed_points=pair.moving_points,
        moving_points=pair.fixed_points,
    )


def _flipped(pair: Pair, axis: int) -> Pair:
    """Reverse an array axis; anatomy stays where it is in the world."""
    sign = torch.ones(3, device=pair.fixed.device)
    sign[axis] = -1
    start = torch.zeros_like(sign)
    start[axis] = pair.fixed.shape[2 + axis] - 1

    def image(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.flip(2 + axis)

    def points(values: Tensor | None) -> Tensor | None:
        return None if values is None else start + sign * values

    return Pair(
        fixed=pair.fixed.flip(2 + axis),
        moving=pair.moving.flip(2 + axis),
        mm_from_voxel=pair.mm_from_voxel * sign,
        flow=None if pair.flow is None else pair.flow.flip(2 + axis) * sign.view(1, 3, 1, 1, 1),
        fixed_labels=image(pair.fixed_labels),
        moving_labels=image(pair.moving_labels),
        fixed_mask=image(pair.fixed_mask),
        fixed_points=points(pair.fixed_points),
        moving_points=points(pair.moving_points),
    )


def _random_flow(pair: Pair, random: torch.Generator, settings: Augmentation) -> Tensor:
    scale, share = torch.rand(2, generator=random, device=random.device).tolist()
    # Voxels of the mean size: deformations are random anyway.
    edge_mm = float(pair.mm_from_voxel.norm(dim=0).mean())
    amplitude = scale * settings.deform_mm
    low, high = _SPACING_MM
    spacing = max(low + share * (high - low), _AMPLITUDES * amplitude)
    i, j, k = pair.fixed.shape[2:]
    return random_flow(
        (i, j, k),
        random,
        amplitude=amplitude / edge_mm,
        spacing=max(3.0, spacing / edge_mm),
        affine=scale * settings.affine,
    )


def _deformed(pair: Pair, change: Tensor) -> Pair:
    """Deform the moving image: ``moving'(x) = moving(x + change(x))``."""
    there = identity(change) + change
    labels, flow = pair.moving_labels, pair.flow
    fixed_points, moving_points = pair.fixed_points, pair.moving_points
    if labels is not None:
        labels = sample(labels, there)
    if flow is not None:
        here = identity(flow)
        flow = _before(change, here + flow)[0] - here
    if fixed_points is not None and moving_points is not None:
        found, known = _before(change, moving_points.T[None, :, :, None, None])
        known = known.flatten()
        fixed_points, moving_points = fixed_points[known], found.reshape(3, -1).T[known]
    return replace(
        pair,
        moving=sample(pair.moving, there),
        moving_labels=labels,
        flow=flow,
        fixed_points=fixed_points,
        moving_points=moving_points,
    )


def _before(change: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Find where points (1, 3, x, y, z) come to lie: y with ``y + change(y) = point``.

    Outside the grid the change keeps its border value.

    Returns
    -------
    found
        As `points`.
    known
        (1, 1, x, y, z) bool, where y lies inside the grid and is good to 0.01 voxel.
    """
    last = torch.tensor(change.shape[2:], device=change.device).view(1, 3, 1, 1, 1) - 1

    def changed(places: Tensor) -> Tensor:
        return sample(change, torch.minimum(places.clamp(min=0), last.to(places.dtype)))

    found = points
    for _ in range(_ITERATIONS):
        found = points - changed(found)
    left = (found + changed(found) - points).square().sum(1, keepdim=True).sqrt()
    inside = ((found >= 0) & (found <= last)).all(1, keepdim=True)
    return found, inside & (left < _INVERTED_VOX)
