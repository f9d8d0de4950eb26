import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.apply import Given
from rwcnet_runtime.apply.files import apply
from rwcnet_runtime.apply.pictures import looks_like_labels
from rwcnet_runtime.apply.request import Request
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.volumes import read_volume

INTENSITY_RANGE = 120  # of the phantoms, about


def run(source, transform, target, **options):
    return apply(Request(source, target, [Given.parse(str(transform))], **options))


def itk_resampled(source, reference, transform, interpolator):
    return nib_axes(
        sitk.Resample(
            sitk.ReadImage(source), sitk.ReadImage(reference), transform, interpolator, 0.0
        )
    )


def nib_axes(image):
    return sitk.GetArrayFromImage(image).T


def field_transform(path):
    return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))


def save_labels(grid, path, dtype=np.int16):
    """Balls of labels 3, 40 and 500 in the world."""
    world = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
    labels = np.zeros(grid.shape, dtype)
    for label, centre in ((3, (12, 4, -5)), (40, (-14, 8, 6)), (500, (0, -15, 0))):
        labels[np.linalg.norm(world - centre, axis=-1) < 12] = label
    image = nib.Nifti1Image(labels, grid.affine)
    image.set_sform(grid.affine, code=1)
    image.set_qform(grid.affine, code=1)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("interpolation", "interpolator"), [("linear", sitk.sitkLinear), ("cubic", sitk.sitkBSpline)]
)
def test_an_image_is_resampled_as_by_itk(
    fixed_path, moving_path, field_path, tmp_path, interpolation, interpolator
):
    out = tmp_path / "out.nii.gz"
    run(moving_path, field_path, out, reference=fixed_path, interpolation=interpolation)
    expected = itk_resampled(moving_path, fixed_path, field_transform(field_path), interpolator)
    found = nib.load(out)
    assert found.get_data_dtype() == np.float32
    np.testing.assert_allclose(found.affine, nib.load(fixed_path).affine, rtol=0, atol=1e-4)  # mm
    difference = np.abs(found.get_fdata() - expected)
    # ITK takes zero outside of the field in the half voxel at its border; rounding decides there.
    at_border = np.ones(difference.shape, bool)
    at_border[1:-1, 1:-1, 1:-1] = False
    assert difference[~at_border].max() < 0.01 * INTENSITY_RANGE
    assert np.mean(difference > 0.01 * INTENSITY_RANGE) < 1e-3
    assert found.get_fdata().std() > 0.1 * INTENSITY_RANGE


def test_the_grid_of_the_field_is_the_default(fixed_path, moving_path, field_path, tmp_path):
    run(moving_path, field_path, tmp_path / "a.nii.gz")
    run(moving_path, field_path, tmp_path / "b.nii.gz", reference=fixed_path)
    found, expected = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), rtol=0, atol=1e-2)
    np.testing.assert_allclose(found.affine, expected.affine, rtol=0, atol=1e-4)  # mm


def test_the_fixed_image_is_brought_back_onto_the_moving_grid(
    fixed_path, moving_path, field_path, tmp_path, anatomy
):
    out = tmp_path / "back.nii.gz"
    report = run(fixed_path, field_path, out, origin="fixed", reference=moving_path)
    assert report["from"] == "fixed"
    there = tmp_path / "there.nii.gz"
    run(out, field_path, there, reference=fixed_path)
    fixed, twice = read_volume(fixed_path), nib.load(there).get_fdata()
    fixed_stored = fixed.to_stored(fixed.data)
    known = twice > 20  # not from outside of the moving grid
    assert known.mean() > 0.3
    # Twice interpolated.
    assert np.median(np.abs(twice - fixed_stored)[known]) < 0.02 * INTENSITY_RANGE


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.int64])
def test_labels_are_told_by_their_values_and_keep_their_type(
    make_grid, save_phantom, field_path_ras, tmp_path, dtype
):
    fixed_path = save_phantom(make_grid("RAS"), "fixed.nii.gz")
    if dtype == np.uint8:
        source = save_labels(make_grid("PSR", scale=1.1), tmp_path / "labels.nii.gz", np.int16)
        image = nib.load(source)
        small = np.minimum(np.asanyarray(image.dataobj), 200).astype(np.uint8)
        nib.save(nib.Nifti1Image(small, image.affine, None), source)
    else:
        affine_grid = make_grid("PSR", scale=1.1)
        source = tmp_path / "labels.nii.gz"
        world = affine_grid.world_from_voxel(np.moveaxis(np.indices(affine_grid.shape), 0, -1))
        labels = (500 * (np.linalg.norm(world - (5, 4, -5), axis=-1) < 14)).astype(dtype)
        nib.save(nib.Nifti1Image(labels, affine_grid.affine, dtype=dtype), source)
    report = run(source, field_path_ras, tmp_path / "out.nii.gz", reference=fixed_path)
    assert report["kind"] == "label map"
    assert report["interpolation"] == "nearest"
    found = nib.load(tmp_path / "out.nii.gz")
    assert found.get_data_dtype() == dtype
    expected = itk_resampled(
        source, fixed_path, field_transform(field_path_ras), sitk.sitkNearestNeighbor
    )
    assert np.mean(found.get_fdata() != expected) < 1e-3
    assert set(np.unique(found.dataobj)) == set(np.unique(nib.load(source).dataobj))


@pytest.fixture
def field_path_ras(make_grid, save_field):
    grid = make_grid("RAS")
    world = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
    return save_field(grid, 3 * np.sin(world / 12) + [1, -2, 2], "ras.nii.gz")


def test_labels_interpolated_by_their_share_are_those_of_the_file(
    make_grid, field_path_ras, tmp_path
):
    source = save_labels(make_grid("LAS", scale=1.2), tmp_path / "labels.nii.gz")
    for interpolation in ("linear", "nearest"):
        out = tmp_path / f"{interpolation}.nii.gz"
        run(source, field_path_ras, out, interpolation=interpolation)
    linear, nearest = (
        nib.load(tmp_path / f"{name}.nii.gz").get_fdata() for name in ("linear", "nearest")
    )
    assert set(np.unique(linear)) == {0, 3, 40, 500}
    changed = np.mean((linear != nearest)[nearest > 0])
    assert 0.001 < changed < 0.2  # only at their borders


def test_eight_bit_images_are_no_labels_and_can_be_told_so():
    noise = np.random.default_rng(0).integers(0, 200, (20, 20, 20)).astype(np.uint8)
    assert not looks_like_labels(noise)[0]
    assert not looks_like_labels(noise / 3)[0]
    blocks = np.kron(noise[:5, :5, :5], np.ones((4, 4, 4), np.uint8))
    assert looks_like_labels(blocks)[0]
    assert looks_like_labels(blocks.astype(np.float64))[0]


def test_what_the_values_say_can_be_overruled(make_grid, field_path_ras, tmp_path):
    source = save_labels(make_grid("RAS"), tmp_path / "labels.nii.gz")
    report = run(source, field_path_ras, tmp_path / "out.nii.gz", labels=False)
    assert (report["kind"], report["interpolation"]) == ("image", "linear")
    assert len(np.unique(nib.load(tmp_path / "out.nii.gz").dataobj)) > 4


def test_several_frames_are_resampled_one_by_one(make_grid, save_phantom, field_path_ras, tmp_path):
    grid = make_grid("PSR")
    one = nib.load(save_phantom(grid, "one.nii.gz"))
    frames = np.stack([one.get_fdata(), 2 * one.get_fdata() + 1], axis=-1).astype(np.float32)
    image = nib.Nifti1Image(frames, grid.affine)
    image.set_sform(grid.affine, 1)
    image.set_qform(grid.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.5
    nib.save(image, tmp_path / "frames.nii.gz")
    run(tmp_path / "frames.nii.gz", field_path_ras, tmp_path / "out.nii.gz")
    run(tmp_path / "one.nii.gz", field_path_ras, tmp_path / "single.nii.gz")
    found, single = nib.load(tmp_path / "out.nii.gz"), nib.load(tmp_path / "single.nii.gz")
    assert found.shape == (*single.shape, 2)
    np.testing.assert_allclose(found.get_fdata()[..., 0], single.get_fdata(), rtol=0, atol=1e-4)
    assert found.header.get_zooms()[3] == 2.5
    assert found.header.get_xyzt_units() == ("mm", "sec")
    with pytest.raises(InputError, match="2 frames go to a NIfTI file only"):
        run(tmp_path / "frames.nii.gz", field_path_ras, tmp_path / "out.nrrd")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_other_formats_lie_where_the_reference_lies(
    fixed_path, moving_path, field_path, tmp_path, suffix
):
    run(moving_path, field_path, tmp_path / f"out{suffix}", reference=fixed_path)
    run(moving_path, field_path, tmp_path / "out.nii.gz", reference=fixed_path)
    found, expected = read_volume(tmp_path / f"out{suffix}"), read_volume(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_allclose(found.grid.affine, expected.grid.affine, rtol=0, atol=1e-3)  # mm


def test_slabs_leave_no_seam(fixed_path, moving_path, field_path, tmp_path, monkeypatch):
    run(moving_path, field_path, tmp_path / "whole.nii.gz", reference=fixed_path)
    monkeypatch.setattr("rwcnet_runtime.apply.resampling._POINTS_AT_ONCE", 5000)
    run(moving_path, field_path, tmp_path / "slabs.nii.gz", reference=fixed_path)
    whole, slabs = (nib.load(tmp_path / f"{n}.nii.gz").get_fdata() for n in ("whole", "slabs"))
    np.testing.assert_array_equal(slabs, whole)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"interpolation": "cubic", "labels": True}, "cannot be interpolated by"),
        ({"interpolation": "sinc"}, "linear, cubic, nearest"),
        ({"frame": "RAS"}, "--frame is about points"),
        ({"origin": "fixed"}, "give an image that lies on it with --reference"),
        ({"origin": "fixed", "destination": "fixed"}, "--from and --to name one image"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    make_grid, save_phantom, field_path_ras, tmp_path, options, says
):
    source = save_phantom(make_grid("RAS"))
    with pytest.raises(InputError, match=says):
        run(source, field_path_ras, tmp_path / "out.nii.gz", **options)
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [(2.5, "1 voxels such as 2.5 "), (np.nan, "such as nan "), (3e9, r"such as 3e\+09 ")],
)
def test_what_is_no_whole_number_is_no_label(make_grid, field_path_ras, tmp_path, value, says):
    grid = make_grid("RAS")
    labels = np.ones(grid.shape, np.float32)
    labels[3, 4, 5] = value
    nib.save(nib.Nifti1Image(labels, grid.affine), tmp_path / "labels.nii")
    with pytest.raises(InputError, match=says):
        run(tmp_path / "labels.nii", field_path_ras, tmp_path / "out.nii", labels=True)
    assert not (tmp_path / "out.nii").exists()


def test_nan_is_no_input_of_splines(make_grid, field_path_ras, tmp_path):
    grid = make_grid("RAS")
    data = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    data[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(data, grid.affine), tmp_path / "nan.nii")
    with pytest.raises(InputError, match="spread by --interpolation cubic"):
        run(tmp_path / "nan.nii", field_path_ras, tmp_path / "a.nii", interpolation="cubic")
    run(tmp_path / "nan.nii", field_path_ras, tmp_path / "b.nii")
    assert 0 < np.isnan(nib.load(tmp_path / "b.nii").get_fdata()).sum() < 30


def test_a_sheared_reference_is_no_metaimage(sheared_grid, save_phantom, field_path_ras, tmp_path):
    source = save_phantom(sheared_grid, "sheared.nii.gz")
    with pytest.raises(InputError, match="sheared grid"):
        run(source, field_path_ras, tmp_path / "out.mha", reference=source)
    run(source, field_path_ras, tmp_path / "out.nii.gz", reference=source)
    np.testing.assert_allclose(
        nib.load(tmp_path / "out.nii.gz").affine,
        sheared_grid.affine,
        rtol=0,
        atol=1e-4,  # mm
    )
