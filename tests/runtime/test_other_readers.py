"""Our files, applied by programs of others: the same image, the same points."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import map_coordinates

from rwcnet_runtime import Registrar

LPS = np.array([-1, -1, 1])
DATA = Path(os.environ.get("RWCNET_DATA", "../shared/data")) / "brain_templates"
NAMES = "mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz", "ch2bet.nii.gz"

pytestmark = pytest.mark.slow


def turned(path, source, spacing, angles, axes):
    """Resample a brain to an oblique, anisotropic grid, and store it on other axes."""
    image = sitk.ReadImage(source, sitk.sitkFloat32)
    rotation = sitk.Euler3DTransform((0, 0, 0), *angles)
    size = [int(180 / x) for x in spacing]
    corner = np.array(
        rotation.TransformPoint([-(n - 1) / 2 * x for n, x in zip(size, spacing, strict=True)])
    )
    middle = np.array(
        image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()])
    )
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(spacing)
    grid.SetOrigin((corner + middle).tolist())
    grid.SetDirection(rotation.GetMatrix())
    smooth = sitk.SmoothingRecursiveGaussian(image, 1.0)
    sitk.WriteImage(sitk.Resample(smooth, grid), path)
    image = nib.load(path)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(axes))
    stored = nib.Nifti1Image(np.asarray(image.dataobj), image.affine).as_reoriented(turn)
    stored.set_qform(stored.affine, code=1)
    stored.set_sform(stored.affine, code=1)
    nib.save(stored, path)
    return path


def brains(folder, fixed_axes, moving_axes):
    fixed, moving = (DATA / name for name in NAMES)
    return (
        turned(folder / "fixed.nii.gz", fixed, (2.2, 2.5, 3.0), (0.2, -0.15, 0.3), fixed_axes),
        turned(folder / "moving.nii.gz", moving, (2.6, 2.2, 2.4), (-0.1, 0.1, 0.2), moving_axes),
    )


@pytest.fixture(scope="module")
def registrar():
    if not DATA.is_dir():
        pytest.skip(f"needs the brains in {DATA}")
    return Registrar(backend="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def straight(registrar, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return registrar.register(*brains(folder, "RAS", "RAS"))


@pytest.fixture(scope="module")
def saved(registrar, tmp_path_factory):
    """A pair on other axes than RAS, its registration, and the folder that holds all files."""
    folder = tmp_path_factory.mktemp("saved")
    found = registrar.register(*brains(folder, "PSL", "IRA"))
    found.save(folder / "out")
    return found, folder


@pytest.mark.parametrize(("fixed_axes", "moving_axes"), [("PSL", "IRA"), ("LPI", "SAR")])
def test_oblique_brains_on_any_axes_give_one_displacement(
    registrar, straight, tmp_path, fixed_axes, moving_axes
):
    found = registrar.register(*brains(tmp_path, fixed_axes, moving_axes))
    difference = np.abs(found.displacement_mm - straight.displacement_mm).max()
    assert difference < 0.05  # mm
    assert np.abs(found.warped - straight.warped).max() < 0.01 * np.ptp(straight.warped)


def points_of(found, between=1.0):
    """Points of the brain (RAS mm), between voxels, and where the displacement takes them."""
    inside = np.argwhere(found.fixed.data[3:-4, 3:-4, 3:-4] > 0) + 3
    chosen = np.random.default_rng(0).choice(inside, 200, replace=False)
    voxels = chosen + between * np.random.default_rng(1).random((200, 3))
    step = [
        map_coordinates(found.displacement_mm[..., c], voxels.T, order=1, mode="nearest")
        for c in range(3)
    ]
    points = found.fixed.grid.world_from_voxel(voxels)
    return points, points + np.stack(step, axis=1)


def check_image(found, stored):
    """Compare with our warped image where it lies between voxels: borders are a matter of taste."""
    other = found.fixed.from_stored(np.asarray(stored))
    points = found.fixed.grid.world_from_voxel(np.moveaxis(np.indices(other.shape), 0, -1))
    landed = found.moving.grid.voxel_from_world(points + found.displacement_mm)
    between = ((landed >= 0) & (landed <= np.array(found.moving.grid.shape) - 1)).all(axis=-1)
    assert between.mean() > 0.5
    difference = np.abs(other - found.warped)[between].max() / np.ptp(found.warped)
    assert difference < 0.01  # of the range
    return difference


def check_points(points, expected):
    apart = np.linalg.norm(points - expected, axis=1).max()
    assert apart < 0.1  # mm
    return apart


def test_simpleitk_agrees(saved, record_property):
    found, folder = saved
    field = sitk.ReadImage(folder / "out/displacement.nii.gz", sitk.sitkVectorFloat64)
    transform = sitk.DisplacementFieldTransform(field)
    fixed, moving = (sitk.ReadImage(folder / f"{name}.nii.gz") for name in ("fixed", "moving"))
    warped = sitk.Resample(moving, fixed, transform)
    record_property("image", check_image(found, sitk.GetArrayFromImage(warped).T))
    points, expected = points_of(found)
    moved = [transform.TransformPoint(point.tolist()) for point in points * LPS]
    record_property("points", check_points(np.array(moved) * LPS, expected))


@pytest.mark.filterwarnings("ignore")
def test_nitransforms_agrees(saved, record_property):
    nonlinear = pytest.importorskip("nitransforms.nonlinear", reason="needs nitransforms")
    from nitransforms.io.itk import ITKDisplacementsField
    from nitransforms.resampling import apply

    found, folder = saved
    image = nib.load(folder / "out/displacement.nii.gz")
    field = nonlinear.DenseFieldTransform(ITKDisplacementsField.from_image(image))
    field.reference = folder / "fixed.nii.gz"
    warped = apply(field, folder / "moving.nii.gz", order=1)
    record_property("image", check_image(found, warped.dataobj))
    # At voxels: between them nitransforms takes cubic splines, where ITK and we are linear.
    points, expected = points_of(found, between=0.0)
    record_property("points", check_points(field.map(points), expected))


@pytest.mark.filterwarnings("ignore")
def test_ants_agrees(saved, record_property):
    ants = pytest.importorskip("ants", reason="needs ANTsPy")
    pandas = pytest.importorskip("pandas", reason="needs pandas, as ANTsPy does")
    found, folder = saved
    fixed, moving = (
        ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("fixed", "moving")
    )
    transform = [str(folder / "out/displacement.nii.gz")]
    warped = ants.apply_transforms(fixed, moving, transform, interpolator="linear")
    record_property("image", check_image(found, warped.numpy()))
    points, expected = points_of(found)
    table = pandas.DataFrame(points * LPS, columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(3, table, transform)[["x", "y", "z"]].to_numpy()
    record_property("points", check_points(moved * LPS, expected))
