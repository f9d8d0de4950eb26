"""A head in the world: an egg with parts of other intensity, zero around, without symmetry."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid
from rwcnet_runtime.volumes import Volume

FLIP = LPS_FROM_RAS.diagonal()[:3]
# Centre and radii (RAS mm), intensity inside.
PARTS = [
    ((0, 0, 0), (62, 78, 55), 60),
    ((14, 20, 12), (22, 30, 16), 100),
    ((-24, -10, 10), (18, 34, 22), 85),
    ((20, -36, -12), (20, 18, 16), 110),
    ((-14, 34, -16), (16, 14, 18), 35),
    ((4, -4, -30), (26, 20, 10), 20),
]


def head(points):
    """Intensity, 0..110, at world points (..., 3) in RAS mm; edges are some 2 mm wide."""
    found = np.zeros(points.shape[:-1])
    for centre, radii, level in PARTS:
        depth = 1 - np.linalg.norm((points - centre) / np.array(radii), axis=-1)
        share = np.clip(depth * min(radii) / 2 + 0.5, 0, 1)
        found += share * (level - found)
    return found


@pytest.fixture(scope="session")
def look():
    """Scan the head: `towards` maps points of the scan to points of the head, LPS mm."""

    def scan(
        towards=None, shape=(34, 39, 32), spacing=(5, 5, 5), centre=(0, 0, 0), contrast=None, seed=0
    ):
        affine = np.diag([*map(float, spacing), 1.0])
        affine[:3, 3] = np.array(centre) - affine[:3, :3] @ (np.array(shape) - 1) / 2
        return on(ImageGrid(shape, affine), towards, contrast, seed)

    def on(grid, towards=None, contrast=None, seed=0):
        points = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
        if towards is not None:
            flat = (points.reshape(-1, 3) * FLIP).tolist()
            points = np.array([towards.TransformPoint(p) for p in flat]) * FLIP
            points = points.reshape(*grid.shape, 3)
        data = head(points)
        inside = data > 0
        if contrast is not None:
            data = np.where(inside, contrast(data), 0)
        noise = np.random.default_rng(seed).normal(0, 2, data.shape)
        data = np.where(inside, np.maximum(data + noise, 0.5), 0).astype(np.float32)
        return Volume(data, grid, grid, Path(f"scan-{seed}.nii"))

    scan.on = on
    return scan


@pytest.fixture(scope="session")
def motion():
    """Make a rotation about an axis through the origin, and a shift, both in LPS mm."""

    def make(axis, degrees, shift):
        transform = sitk.VersorRigid3DTransform()
        transform.SetRotation([float(x) for x in axis], float(np.radians(degrees)))
        transform.SetTranslation([float(x) for x in shift])
        return transform

    return make


@pytest.fixture(scope="session")
def error_mm():
    """Mean distance over the head between a found transform and the true one."""

    def measure(found, true):
        points = np.random.default_rng(1).uniform(-1, 1, (4000, 3))
        points = points[np.linalg.norm(points, axis=1) < 1][:1000] * PARTS[0][1]
        found = found or sitk.AffineTransform(3)
        gaps = [
            np.subtract(found.TransformPoint(p), true.TransformPoint(p)) for p in points.tolist()
        ]
        return float(np.linalg.norm(gaps, axis=1).mean())

    return measure
