"""Pairs of files with a known map between them."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.volumes import Volume, read_volume

PAIRS = [
    ("RAS", "LPS"),
    ("LAS", "oblique"),
    ("LPS", "PSR"),
    ("PSR", "RAS"),
    ("anisotropic", "LAS"),
    ("oblique", "anisotropic"),
]


@dataclass(frozen=True, eq=False)
class Pair:
    fixed: Volume
    moving: Volume
    initial: sitk.Transform
    displacement_mm: NDArray[np.float32]

    def moved(self):
        """Where the fixed voxels go, RAS mm, (i, j, k, 3) on ``fixed.grid``."""
        voxels = np.moveaxis(np.indices(self.fixed.grid.shape), 0, -1)
        return self.fixed.grid.world_from_voxel(voxels) + self.displacement_mm

    def inside(self):
        """Which fixed voxels go where moving ones are on all sides."""
        voxels = self.moving.grid.voxel_from_world(self.moved())
        return ((voxels >= 0) & (voxels <= np.array(self.moving.grid.shape) - 1)).all(axis=-1)

    def moving_array(self):
        """The moving file's voxels, in its axis order."""
        return nib.load(self.moving.path).get_fdata()


def affine():
    """LPS mm to LPS mm with rotation, shear, scaling and translation."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.03, 0.12, -0.04, -0.1, 0.97, 0.06, 0.05, -0.03, 1.05])
    transform.SetCenter([3.0, -4.0, 5.0])
    transform.SetTranslation([2.5, -1.5, 3.0])
    return transform


@pytest.fixture
def make_pair(make_grid, save_phantom):
    """Two files of the anatomy on other grids, and a smooth map of some 5 mm after an affine."""

    def make(fixed="LAS", moving="oblique", initial=None):
        fixed_volume, moving_volume = (
            read_volume(save_phantom(grid, name))
            for grid, name in [
                (make_grid(fixed), "fixed.nii.gz"),
                (make_grid(moving, scale=1.1, centre=(3.3, -2.1, 1.4)), "moving.nii.gz"),
            ]
        )
        i, j, k = np.indices(fixed_volume.grid.shape) / 9.0
        flow = [np.sin(j) + 0.5 * np.cos(k), 1.5 * np.cos(i + k), np.sin(i) - np.cos(j) + 0.3]
        initial = affine() if initial is None else initial
        mapping = Mapping(
            fixed_volume.grid, moving_volume.grid, initial, np.stack(flow).astype(np.float32)
        )
        return Pair(fixed_volume, moving_volume, initial, mapping.displacement_mm())

    return make


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request, make_pair):
    """Each orientation in turn."""
    return make_pair(*request.param)
