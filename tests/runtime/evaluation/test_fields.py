import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation import Case
from rwcnet_runtime.evaluation.fields import find_field, read_costs, read_field
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.volumes import read_displacement, read_volume, write_displacement

RNG = np.random.default_rng(0)


@pytest.fixture
def fixed(fixed_path):
    return read_volume(fixed_path)


@pytest.fixture
def moving(moving_path):
    return read_volume(moving_path)


def displacement_on(volume):
    return RNG.uniform(-5, 5, (*volume.grid.shape, 3)).astype(np.float32)


def test_a_displacement_survives_its_file(fixed, tmp_path):
    displacement = displacement_on(fixed)
    write_displacement(tmp_path / "one.nii.gz", displacement, fixed)
    found = read_field(tmp_path / "one.nii.gz", "itk", fixed, fixed)
    np.testing.assert_array_equal(found, displacement)


def test_a_field_of_itk_is_read_as_itk_reads_it(fixed, moving, tmp_path):
    """SimpleITK makes and writes a field from an affine transform."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.1, 0.1, 0, -0.1, 0.9, 0.05, 0, 0.1, 1])
    transform.SetTranslation((3, -4, 5))
    image = sitk.ReadImage(fixed.path)
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        image.GetSize(),
        image.GetOrigin(),
        image.GetSpacing(),
        image.GetDirection(),
    )
    sitk.WriteImage(field, tmp_path / "one.nii.gz")
    found = read_field(tmp_path / "one.nii.gz", "itk", fixed, moving)
    expected = Mapping(fixed.grid, moving.grid, transform).displacement_mm()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # mm


@pytest.mark.parametrize("suffix", [".nii.gz", ".npz"])
def test_learn2reg_counts_voxels_of_both_files(fixed, moving, tmp_path, suffix):
    """A voxel of the fixed file plus its displacement is a voxel of the moving file."""
    shape = fixed.stored_grid.shape
    step_vox = RNG.uniform(-5, 5, (*shape, 3)).astype(np.float32)
    path = tmp_path / f"one{suffix}"
    if suffix == ".npz":
        np.savez(path, step_vox)
    else:
        nib.save(nib.Nifti1Image(step_vox, np.eye(4)), path)
    found = fixed.to_stored(read_field(path, "learn2reg", fixed, moving))
    x = np.moveaxis(np.indices(shape), 0, -1)
    expected = moving.stored_grid.world_from_voxel(x + step_vox)
    expected -= fixed.stored_grid.world_from_voxel(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # mm


@pytest.fixture
def small(make_grid, save_phantom):
    return read_volume(save_phantom(make_grid("LPS")))


def spoil(kind, path, volume):
    image = nib.Nifti1Image(np.zeros((*volume.stored_grid.shape, 1, 3), np.float32), None)
    affine = volume.stored_grid.affine.copy()
    image.header.set_intent("vector")
    match kind:
        case "intent":
            image.header.set_intent("displacement vector")
        case "shape":
            image = nib.Nifti1Image(np.zeros((*volume.stored_grid.shape, 3), np.float32), None)
        case "place":
            affine[0, 3] += 1
        case "nan":
            image.dataobj[0, 0, 0, 0, 0] = np.nan
        case "text":
            path.write_text("no image")
            return
    image.set_sform(affine, code=1)
    nib.save(image, path)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("intent", "intent 1006"),
        ("shape", r"shape \(36, 32, 28, 3\)"),
        ("place", "does not lie on the grid"),
        ("nan", "NaN or infinite"),
        ("text", "is not a NIfTI file"),
    ],
)
def test_a_field_that_does_not_fit_is_refused(small, tmp_path, kind, says):
    path = tmp_path / "field.nii.gz"
    spoil(kind, path, small)
    with pytest.raises(InputError, match=f"{path} .*{says}"):
        read_displacement(path, small)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((36, 32, 28, 2), np.float32), r"shape \(36, 32, 28, 2\)"),
        (np.zeros((36, 32, 28, 3), complex), "complex128"),
        (np.full((36, 32, 28, 3), np.inf), "NaN or infinite"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(small, tmp_path, array, says):
    path = tmp_path / "field.npz"
    np.savez(path, array)
    with pytest.raises(InputError, match=f"{path} .*{says}"):
        read_field(path, "learn2reg", small, small)


def test_a_file_that_is_no_array_is_refused(small, tmp_path):
    path = tmp_path / "field.npz"
    np.savez(path, np.zeros(3))
    whole = path.read_bytes()
    np.savez(path, np.zeros(3), np.ones(3))
    several = path.read_bytes()
    np.savez(path, np.array([{}], object))
    objects = path.read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    array = (tmp_path / "array.npy").read_bytes()
    for content in (b"no array", b"", whole[:100], several, objects, array):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path} cannot be read as a .npz"):
            read_field(path, "learn2reg", small, small)


def test_fields_are_found_by_name(tmp_path):
    case = Case("one", tmp_path / "OASIS_0438_0000.nii.gz", tmp_path / "OASIS_0439_0001.nii.gz")
    for convention, says in (("itk", "one.nii.gz"), ("learn2reg", "disp_0438_0439.nii.gz or")):
        with pytest.raises(InputError, match=f"no displacement field of one; wanted {says}"):
            find_field(case, tmp_path, convention)
    for name in ("one.npz", "disp_0438_0000_0439_0001.nii.gz", "disp_0438_0439.npz"):
        (tmp_path / name).touch()  # each goes before the one above it
        assert find_field(case, tmp_path, "learn2reg") == tmp_path / name
    plain = Case("one", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    assert find_field(plain, tmp_path, "learn2reg") == tmp_path / "one.npz"


def test_costs_are_read_if_they_are_there(tmp_path):
    path = tmp_path / "one.json"
    assert read_costs(path) == {}
    path.write_text(json.dumps({"seconds": 2, "peak_memory_mb": None, "method": "x"}))
    assert read_costs(path) == {"seconds": 2.0}
    for text in ("{", "[1]", '{"seconds": "long"}'):
        path.write_text(text)
        with pytest.raises(InputError, match=f"{path} is no JSON object"):
            read_costs(path)
