import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.fields import read_field
from rwcnet_runtime.transforms import write_fsl, write_learn2reg
from rwcnet_runtime.transforms.relative import fsl_from_world, world_from_relative

INTENSITY_RANGE = 120  # of the phantoms, about


def _check_anatomy(warped, pair, anatomy):
    """Compare an array in the axes of the fixed file with the anatomy where it was read."""
    inside = pair.inside()
    assert inside.mean() > 0.5
    difference = np.abs(pair.fixed.from_stored(warped) - anatomy(pair.moved()))[inside]
    assert difference.max() < 0.01 * INTENSITY_RANGE


def test_learn2reg_warps_the_anatomy_by_voxels_alone(pair, tmp_path, anatomy):
    path = tmp_path / "disp_0001_0002.nii.gz"
    write_learn2reg(path, pair.displacement_mm, pair.fixed, pair.moving)
    step = np.moveaxis(nib.load(path).get_fdata(), -1, 0)
    # As Learn2Reg's evaluation does: identity + displacement, whatever the headers say.
    warped = map_coordinates(pair.moving_array(), np.indices(step.shape[1:]) + step, order=1)
    _check_anatomy(warped, pair, anatomy)


def test_learn2reg_is_read_back(pair, tmp_path):
    path = tmp_path / "disp_0001_0002.nii.gz"
    write_learn2reg(path, pair.displacement_mm, pair.fixed, pair.moving)
    again = read_field(path, "learn2reg", pair.fixed, pair.moving)
    np.testing.assert_allclose(again, pair.displacement_mm, rtol=0, atol=1e-3)  # mm


def test_fsl_warps_the_anatomy_in_its_coordinates(pair, tmp_path, anatomy):
    path = tmp_path / "warp.nii.gz"
    write_fsl(path, pair.displacement_mm, pair.fixed, pair.moving)
    warp, moving = nib.load(path), nib.load(pair.moving.path)

    def as_fsl_stores(image):
        """Left-handed, which FSL gets by turning the first axis of an array around."""
        return image.get_fdata()[:: -1 if np.linalg.det(image.affine) > 0 else 1]

    sizes = [np.array(image.header.get_zooms()[:3]) for image in (warp, moving)]
    field = as_fsl_stores(warp)
    x = np.moveaxis(np.indices(field.shape[:3]), 0, -1) * sizes[0]
    voxels = np.moveaxis((x + field) / sizes[1], -1, 0)
    warped = map_coordinates(as_fsl_stores(moving), voxels, order=1)
    flipped = warped[:: -1 if np.linalg.det(warp.affine) > 0 else 1]
    _check_anatomy(flipped, pair, anatomy)
    assert int(warp.header["intent_code"]) == 2006
    np.testing.assert_allclose(warp.affine, pair.fixed.stored_grid.affine, rtol=0, atol=1e-4)


def test_fsl_is_turned_back_into_the_world(pair, tmp_path):
    path = tmp_path / "warp.nii.gz"
    write_fsl(path, pair.displacement_mm, pair.fixed, pair.moving)
    again = world_from_relative(nib.load(path).get_fdata(), pair.fixed, pair.moving, fsl_from_world)
    np.testing.assert_allclose(again, pair.displacement_mm, rtol=0, atol=1e-3)  # mm


@pytest.mark.parametrize("write", [write_learn2reg, write_fsl])
def test_another_suffix_is_refused(make_pair, tmp_path, write):
    pair = make_pair()
    with pytest.raises(InputError, match=r"warp\.h5 does not end in \.nii or \.nii\.gz; choose"):
        write(tmp_path / "warp.h5", pair.displacement_mm, pair.fixed, pair.moving)
