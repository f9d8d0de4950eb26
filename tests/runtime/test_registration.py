import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from rwcnet_runtime import BackendError, BundleError, InputError, Registrar, register
from rwcnet_runtime.volumes import read_volume

SHIFT_MM = np.array([4.0, -3.0, 3.0])  # RAS


@pytest.fixture(scope="session")
def brain():
    """ICBM152 at 2 mm, cut to the brain: the anatomy nilearn ships."""
    nilearn = pytest.importorskip("nilearn.datasets", reason="needs the demo extra")
    image = nilearn.load_mni152_template(resolution=2)
    data = np.asarray(image.dataobj, dtype=np.float32)
    return nib.Nifti1Image(data[10:90, 10:106, 4:84], image.slicer[10:90, 10:106, 4:84].affine)


def save(image, path, codes="RAS", zooms=None, shift=(0.0, 0.0, 0.0)):
    """Save an image stored on other axes, other voxels, or elsewhere in the world."""
    if zooms is not None:
        reference = sitk.GetImageFromArray(np.asarray(image.dataobj).transpose(2, 1, 0))
        size = [int(n / z) for n, z in zip(image.shape, zooms, strict=True)]
        values = sitk.Resample(reference, size, sitk.Transform(), sitk.sitkLinear, (0, 0, 0), zooms)
        affine = image.affine @ np.diag([*zooms, 1])
        image = nib.Nifti1Image(sitk.GetArrayFromImage(values).transpose(2, 1, 0), affine)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
    image = image.as_reoriented(turn)
    affine = image.affine.copy()
    affine[:3, 3] += shift
    image = nib.Nifti1Image(np.asarray(image.dataobj), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, path)
    return path


@pytest.fixture(scope="session")
def pair(brain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    fixed = save(brain, folder / "fixed.nii.gz")
    return fixed, save(brain, folder / "moving.nii.gz", shift=SHIFT_MM)


@pytest.fixture(scope="session")
def registration(pair):
    return register(*pair, init="header")  # or the alignment would undo the translation


def test_a_known_translation_is_recovered(registration):
    inside = registration.fixed.data > 0.3 * registration.fixed.data.max()
    error = np.linalg.norm(registration.displacement_mm - SHIFT_MM, axis=-1)[inside]
    # 5.8 mm at the start; half a voxel is 1 mm.
    assert error.mean() < 1.0


def test_an_image_registered_with_itself_stays_where_it_is(pair):
    still = register(pair[0], pair[0])
    inside = still.fixed.data > 0.3 * still.fixed.data.max()
    # Half a voxel: the first weights are not quite still where nothing moves.
    assert np.linalg.norm(still.displacement_mm, axis=-1)[inside].mean() < 0.5  # mm


def test_the_axis_order_of_the_files_changes_nothing(brain, pair, registration, tmp_path):
    fixed = save(brain, tmp_path / "fixed.nii.gz", "PSR")
    moving = save(brain, tmp_path / "moving.nii.gz", "LAS", shift=SHIFT_MM)
    turned = register(fixed, moving, init="header")
    difference = np.abs(turned.displacement_mm - registration.displacement_mm)
    assert difference.max() < 1e-3  # mm: the same voxels, but for rounding of the affines


@pytest.mark.parametrize("fixed_codes", ["RAS", "PSR"])
@pytest.mark.parametrize("moving_codes", ["RAS", "PSR"])
def test_simpleitk_makes_the_same_image_from_the_files(brain, tmp_path, fixed_codes, moving_codes):
    fixed = save(brain, tmp_path / "f.nii.gz", fixed_codes, zooms=(1.5, 1.0, 1.25))
    moving = save(brain, tmp_path / "m.nii.gz", moving_codes, zooms=(1.0, 1.4, 1.1), shift=SHIFT_MM)
    transform = tmp_path / "initial.tfm"
    sitk.WriteTransform(sitk.Euler3DTransform((0, 0, 0), 0.03, -0.05, 0.04, (1, 2, -2)), transform)
    register(fixed, moving, initial_transform=transform).save(tmp_path / "out")

    reference, other = sitk.ReadImage(fixed), sitk.ReadImage(moving)
    field = sitk.ReadImage(tmp_path / "out" / "displacement.nii.gz", sitk.sitkVectorFloat64)
    expected = sitk.Resample(other, reference, sitk.DisplacementFieldTransform(field))
    found = sitk.ReadImage(tmp_path / "out" / "warped.nii.gz")
    assert found.GetSize() == reference.GetSize()
    np.testing.assert_allclose(found.GetDirection(), reference.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(found.GetOrigin(), reference.GetOrigin(), atol=1e-3)
    a, b = (sitk.GetArrayFromImage(x)[3:-3, 3:-3, 3:-3] for x in (found, expected))
    assert np.ptp(b) > 0
    assert np.abs(a - b).max() < 0.01 * np.ptp(b)


def test_the_initial_transform_is_part_of_the_displacement(pair, tmp_path):
    transform = tmp_path / "initial.tfm"
    lps = (-SHIFT_MM[0], -SHIFT_MM[1], SHIFT_MM[2])
    sitk.WriteTransform(sitk.TranslationTransform(3, lps), transform)
    found = register(*pair, initial_transform=transform)
    inside = found.fixed.data > 0.3 * found.fixed.data.max()
    assert np.linalg.norm(found.displacement_mm - SHIFT_MM, axis=-1)[inside].mean() < 0.5  # mm


def test_the_report_says_what_was_done_and_found(registration, tmp_path):
    registration.save(tmp_path / "new" / "folder")
    report = json.loads((tmp_path / "new" / "folder" / "registration.json").read_text())
    assert report["engine"] == "fp32"
    assert report["arithmetic"] == "float32"
    assert report["backend"] == "openvino"  # the fastest of those that the tests have
    assert report["backend_chosen"].startswith("the fastest that works here")
    assert report["bundle"]["name"] == "base"
    assert len(report["bundle"]["sha256"]) == 64
    assert (
        report["similarity"]["correlation"]["after"] > report["similarity"]["correlation"]["before"]
    )
    assert report["jacobian_determinant"]["folded_percent"] < 0.5
    assert {"stage1", "stage2", "stage3", "read", "warp"} <= report["seconds"].keys()
    assert {"rwcnet", "numpy", "onnxruntime"} <= report["versions"].keys()


def test_a_fold_is_counted(registration):
    # The verdict is about the displacement that is written: the file gives the same.
    from rwcnet_runtime import jacobian_determinant

    grid = registration.fixed.grid
    determinant = jacobian_determinant(registration.displacement_mm, grid)
    found = registration.report["jacobian_determinant"]
    assert found["min"] == pytest.approx(float(determinant.min()), abs=1e-6)
    assert found["folded_percent"] == pytest.approx(
        100 * float((determinant <= 0).mean()), abs=1e-9
    )


def test_images_that_do_not_overlap_are_refused(brain, tmp_path):
    fixed = save(brain, tmp_path / "f.nii.gz")
    moving = save(brain, tmp_path / "m.nii.gz", shift=(1000, 0, 0))
    with pytest.raises(InputError, match="do not overlap"):
        register(fixed, moving, init="header")


def test_an_engine_the_bundle_does_not_hold_is_refused(pair):
    with pytest.raises(BackendError, match=r"nothing here runs int8: .*in fp16 and fp32"):
        register(*pair, engine="int8")
    with pytest.raises(BackendError, match="openvino runs fp32 and bf16 here, not fp16"):
        register(*pair, engine="fp16", backend="openvino")


def test_a_bundle_that_is_not_there_is_said_before_an_image_is_read(tmp_path):
    with pytest.raises(BundleError, match="gone"):
        Registrar(tmp_path / "gone")


def test_a_registrar_gives_the_same_for_pair_after_pair(pair, registration):
    registrar = Registrar(backend="openvino", init="header")
    again = [registrar.register(*pair) for _ in range(2)]
    for found in again:
        np.testing.assert_array_equal(found.displacement_mm, registration.displacement_mm)
    assert "load" not in again[0].report["seconds"]
    assert "load" in registration.report["seconds"]


def test_pairs_are_read_ahead_and_come_in_order(pair, brain, tmp_path):
    fixed, moving = pair
    registrar = Registrar(refine=0)
    pairs = [{"fixed": fixed, "moving": moving}, {"fixed": moving, "moving": fixed}]
    both = list(registrar.register_all(pairs))
    assert [found.report["fixed"] for found in both] == [str(fixed), str(moving)]
    for found, given in zip(both, pairs, strict=True):
        expected = registrar.register(**given)
        np.testing.assert_array_equal(found.displacement_mm, expected.displacement_mm)
    one_by_one = registrar.register_all(
        [pairs[0], {"fixed": tmp_path / "gone.nii", "moving": moving}]
    )
    next(one_by_one)  # a pair that is to blame stops no pair before it
    with pytest.raises(InputError, match=r"gone\.nii"):
        next(one_by_one)


def test_onnx_runtime_and_openvino_find_the_same_displacement(pair):
    other = register(*pair, backend="openvino", refine=0)
    found = register(*pair, backend="onnxruntime", refine=0, threads=1)
    assert (found.report["backend"], found.report["backend_chosen"]) == ("onnxruntime", "asked for")
    assert found.report["threads"] == 1
    difference = np.abs(found.displacement_mm - other.displacement_mm).max()
    assert difference < 5e-3  # mm


@pytest.fixture
def small_pair(brain, tmp_path):
    small = nib.Nifti1Image(np.asarray(brain.dataobj)[20:55, 20:63, 20:51], brain.affine)
    return [
        save(small, tmp_path / name, shift=shift)
        for name, shift in (("fixed.nii", (0, 0, 0)), ("moving.nii", SHIFT_MM))
    ]


def test_the_report_says_how_it_was_refined(small_pair):
    steps = {"refine": 3, "refine_features": "both"}
    plain, refined = register(*small_pair, refine=0), register(*small_pair, **steps)
    assert plain.report["refinement"] is None
    assert plain.report["refinement_losses"] == []
    assert refined.report["refinement"]["features"] == "both"
    assert refined.report["refinement"]["steps"] == len(refined.report["refinement_losses"]) == 3
    assert "refine" in refined.report["seconds"]
    assert np.abs(refined.displacement_mm - plain.displacement_mm).max() > 0.1  # mm


def test_a_mask_of_everything_changes_nothing(small_pair, tmp_path):
    image = nib.load(small_pair[0])
    mask = tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), mask)
    plain, masked = register(*small_pair), register(*small_pair, fixed_mask=mask)
    np.testing.assert_array_equal(masked.displacement_mm, plain.displacement_mm)
    assert masked.report["fixed_mask"] == str(mask)


def test_a_moving_mask_is_brought_along_by_the_start(small_pair, tmp_path):
    transform = tmp_path / "start.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, SHIFT_MM * (-1, -1, 1)), transform)
    fixed, moving = (nib.load(path) for path in small_pair)
    half = np.zeros(fixed.shape, bool)
    half[:17] = True
    registrar = Registrar(backend="onnxruntime", refine=5)
    start = {"initial_transform": transform}
    plain = registrar.register(fixed, moving, **start)
    by_fixed = registrar.register(fixed, moving, fixed_mask=(half, fixed.affine), **start)
    by_moving = registrar.register(fixed, moving, moving_mask=(half, moving.affine), **start)
    assert np.abs(by_fixed.displacement_mm - plain.displacement_mm).max() > 0.05  # mm
    np.testing.assert_allclose(
        by_moving.displacement_mm, by_fixed.displacement_mm, atol=1e-2
    )  # mm: edges of the mask are rounded


@pytest.mark.parametrize(
    ("size", "value", "refine", "says"),
    [
        ((35, 43, 31), 0, None, "is empty: give a mask with the anatomy inside"),
        ((35, 43, 30), 1, None, "does not lie on the grid of"),
        ((35, 43, 31), 1, 0, "nothing is refined: give --refine"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(small_pair, tmp_path, size, value, refine, says):
    mask = nib.Nifti1Image(np.full(size, value, np.uint8), nib.load(small_pair[0]).affine)
    nib.save(mask, tmp_path / "mask.nii")
    with pytest.raises(InputError, match=says):
        register(*small_pair, fixed_mask=tmp_path / "mask.nii", refine=refine)


def test_a_second_pair_of_another_size_works(brain, tmp_path):
    small = nib.Nifti1Image(np.asarray(brain.dataobj)[20:55, 20:63, 20:51], brain.affine)
    found = register(save(small, tmp_path / "a.nii"), save(small, tmp_path / "b.nii", "LPS"))
    assert found.warped.shape == read_volume(tmp_path / "a.nii").grid.shape == (35, 43, 31)


def test_a_result_never_replaces_an_input(brain, tmp_path):
    warped = save(brain, tmp_path / "warped.nii.gz")
    found = register(warped, warped)
    before = warped.read_bytes()
    with pytest.raises(InputError, match="would be replaced"):
        found.save(tmp_path)
    assert warped.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["warped.nii.gz"]


def test_a_failure_while_saving_leaves_what_was_there(registration, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "registration.json").write_text("old")
    monkeypatch.setattr("rwcnet_runtime.outputs.write_displacement", fail)
    with pytest.raises(InputError, match="No space left"):
        registration.save(tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["registration.json"]
    assert (tmp_path / "registration.json").read_text() == "old"
