"""One pair, its files stored on all 48 axis orders and directions: one physical answer."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from rwcnet_runtime import Registrar
from rwcnet_runtime.volumes import read_volume

AXES = [
    "".join(codes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*order)
]
LPS = np.array([-1, -1, 1])


@pytest.fixture(scope="module")
def registrar():
    return Registrar(backend="onnxruntime", threads=1, refine=2)


def rotation(*angles):
    """Rotate by angles in rad about x, y and z."""
    matrix = sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()
    return np.array(matrix).reshape(3, 3)


def grid(shape, spacing, turn=(0, 0, 0), centre=(0, 0, 0)):
    affine = np.eye(4)
    affine[:3, :3] = rotation(*turn) @ np.diag(spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return shape, affine


def save(path, anatomy, grid, axes="RAS"):
    """Sample the anatomy by a grid, and store it on other axes."""
    shape, affine = grid
    points = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    image = nib.Nifti1Image(anatomy(points).astype(np.float32), affine)
    return store(image, path, axes)


def store(image, path, axes):
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(axes))
    image = image.as_reoriented(turn)
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    nib.save(image, path)
    return path


# Oblique, anisotropic, of different size, spacing and place.
FIXED = grid((34, 30, 26), (2.0, 2.2, 2.6), (0.2, -0.15, 0.1))
MOVING = grid((30, 33, 28), (2.4, 2.1, 2.3), (-0.1, 0.25, 0.15), (2.0, -2.5, 1.5))


@pytest.fixture(scope="module")
def straight(registrar, anatomy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    found = registrar.register(
        save(folder / "fixed.nii", anatomy, FIXED),
        save(folder / "moving.nii", anatomy, MOVING),
    )
    assert np.linalg.norm(found.displacement_mm, axis=-1).max() > 0.5  # mm: something to compare
    return found


@pytest.mark.parametrize("axes", AXES)
def test_files_on_any_axes_give_one_displacement(registrar, anatomy, straight, tmp_path, axes):
    # Each orientation once fixed and once moving, with another one beside it.
    other = AXES[(7 * AXES.index(axes) + 5) % len(AXES)]
    found = registrar.register(
        save(tmp_path / "fixed.nii", anatomy, FIXED, axes),
        save(tmp_path / "moving.nii", anatomy, MOVING, other),
    )
    assert "".join(nib.aff2axcodes(found.fixed.stored_grid.affine)) == axes
    difference = np.abs(found.displacement_mm - straight.displacement_mm).max()
    assert difference < 0.05  # mm; headers hold affines in float32
    assert np.abs(found.warped - straight.warped).max() < 0.5  # of about 120
    # What is written says the same in the world: at a point, wherever the file puts it.
    found.save(tmp_path / "out")
    voxel = np.array([20, 11, 8])
    point = straight.fixed.grid.world_from_voxel(voxel)
    image = sitk.ReadImage(tmp_path / "out" / "displacement.nii.gz", sitk.sitkVectorFloat64)
    field = sitk.DisplacementFieldTransform(image)
    moved = np.array(field.TransformPoint((point * LPS).tolist())) * LPS
    expected = point + straight.displacement_mm[tuple(voxel)]
    np.testing.assert_allclose(moved, expected, rtol=0, atol=0.05)  # mm


@pytest.mark.parametrize("turn", [(0, 0, np.pi / 4), (np.pi / 4, 0, np.pi / 4)])
def test_axes_that_are_equally_close_are_chosen_alike(tmp_path, turn):
    # At 45 degrees two axes are closest, and the rounding of the header would decide.
    shape, affine = grid((4, 5, 6), (2.0, 2.0, 2.0), turn)
    image = nib.Nifti1Image(np.random.default_rng(0).random(shape, np.float32), affine)
    first = read_volume(store(image, tmp_path / "image.nii", "RAS"))
    for axes in AXES:
        other = read_volume(store(image, tmp_path / "image.nii", axes))
        np.testing.assert_array_equal(other.data, first.data)
        np.testing.assert_allclose(other.grid.affine, first.grid.affine, rtol=0, atol=1e-5)  # mm
        np.testing.assert_array_equal(other.from_stored(other.to_stored(other.data)), first.data)
