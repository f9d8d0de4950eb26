"""A registration with a known map, in files of any orientation."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.volumes import read_volume, write_displacement

LPS = np.array([-1, -1, 1])


def smooth_flow(grid):
    """Some two voxels of motion, different along each axis and in each channel, without folds."""
    i, j, k = np.indices(grid.shape) / 9.0
    flow = [np.sin(j) + 0.5 * np.cos(k), 1.5 * np.cos(i + k), np.sin(i) - np.cos(j) + 0.3]
    return np.stack(flow).astype(np.float32)


# Each orientation once on each side.
ORIENTATIONS = {
    "RAS": "LPS",
    "LAS": "PSR",
    "LPS": "anisotropic",
    "PSR": "oblique",
    "anisotropic": "RAS",
    "oblique": "LAS",
}


@pytest.fixture(params=ORIENTATIONS)
def orientation(request):
    return request.param


@pytest.fixture
def fixed_grid(orientation, make_grid):
    return make_grid(orientation)


@pytest.fixture
def moving_grid(orientation, make_grid):
    return make_grid(ORIENTATIONS[orientation], scale=1.1, centre=(3.3, -2.1, 1.4))


@pytest.fixture
def affine_transform():
    """Map LPS mm to LPS mm with rotation, shear, scaling and translation."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.03, 0.12, -0.04, -0.1, 0.97, 0.06, 0.05, -0.03, 1.05])
    transform.SetCenter([3.0, -4.0, 5.0])
    transform.SetTranslation([2.5, -1.5, 3.0])
    return transform


@pytest.fixture
def field_path(fixed_path, affine_transform, tmp_path):
    """File of a displacement field on the grid of `fixed_path`, affine part included."""
    fixed = read_volume(fixed_path)
    mapping = Mapping(fixed.grid, fixed.grid, affine_transform, smooth_flow(fixed.grid))
    write_displacement(tmp_path / "displacement.nii.gz", mapping.displacement_mm(), fixed)
    return tmp_path / "displacement.nii.gz"


@pytest.fixture
def by_itk():
    """Apply a displacement field file to points, RAS mm, as SimpleITK reads it."""

    def apply(path, points):
        field = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
        return np.array([field.TransformPoint((point * LPS).tolist()) for point in points]) * LPS

    return apply


@pytest.fixture
def points_inside():
    """Draw points inside of a grid, some voxels away from its border."""

    def draw(grid, n=200, margin=3):
        size = np.array(grid.shape) - 1 - 2 * margin
        return grid.world_from_voxel(np.random.default_rng(0).random((n, 3)) * size + margin)

    return draw


@pytest.fixture
def save_field(tmp_path):
    """Save a displacement field, (i, j, k, 3) RAS mm, as ITK does."""

    def save(grid: ImageGrid, displacement, name="field.nii.gz"):
        image = nib.Nifti1Image((displacement * LPS)[..., None, :].astype(np.float32), grid.affine)
        image.header.set_intent("vector")
        image.set_sform(grid.affine, code=1)
        image.set_qform(grid.affine, code=1)
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return save
