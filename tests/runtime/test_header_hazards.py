"""Each row of the table of odd files in runtime/README.md."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import limits, trial
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.memory import Memory
from rwcnet_runtime.volumes import read_volume, write_displacement, write_volume

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
AFFINE = np.array([[2.0, 0, 0, 5], [0, 3, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])


@pytest.fixture
def write(tmp_path):
    """Write a header, changed field by field, and the voxels."""

    def write(changes, *, big_endian=False, name="image.nii", sform=1, qform=1, voxels=ARRAY):
        image = nib.Nifti1Image(ARRAY, AFFINE)
        image.set_sform(AFFINE, code=sform)
        image.set_qform(AFFINE, code=qform)
        image.header["vox_offset"] = 352
        header = image.header.as_byteswapped(">") if big_endian else image.header
        for field, value in changes.items():
            header[field] = value
        data = np.asarray(voxels, header.get_data_dtype()).tobytes(order="F")
        whole = header.binaryblock + bytes(4) + data
        (tmp_path / name).write_bytes(gzip.compress(whole) if name.endswith(".gz") else whole)
        return tmp_path / name

    return write


def pixdim(*sizes, qfac=1):
    return {"pixdim": [qfac, *sizes, 0, 0, 0, 0]}


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"xyzt_units": 1}, {}, "in units of metres"),
        ({"xyzt_units": 3}, {}, "in units of microns"),
        ({"xyzt_units": 5}, {}, "in units of an unknown kind"),
        (pixdim(1, 1, 1), {"qform": 0}, "voxels of 1 x 1 x 1 mm by pixdim but of 2 x 3 x 4 mm"),
        (pixdim(-2, 3, 4), {"sform": 0}, "negative voxel sizes"),
        (pixdim(-2, 3, 4), {"qform": 0}, "negative voxel sizes"),
        (pixdim(2, 3, 4, qfac=-1), {}, "a qform and an sform that differ by 32 mm"),
        ({"quatern_b": 2}, {}, "qform that is no rotation"),
        ({"qoffset_x": np.nan}, {}, "qform that is no rotation"),
        ({"srow_x": [np.inf, 0, 0, 0]}, {}, "cannot be inverted"),
        ({"dim": [5, 3, 4, 5, 1, 3, 1, 1]}, {"voxels": np.zeros((3, 4, 5, 1, 3))}, "5, 1, 3"),
        ({"dim": [3, 3, 4, -5, 1, 1, 1, 1]}, {}, "is damaged"),
        ({"dim": [3, -3, 4, -5, 1, 1, 1, 1]}, {}, "is damaged"),
        ({"dim": [3, *[32767] * 3, 1, 1, 1, 1]}, {}, "says 70.4 TB of voxels"),
        ({"dim": [3, *[32767] * 3, 1, 1, 1, 1]}, {"name": "image.nii.gz"}, "says 70.4 TB"),
        ({"vox_offset": 1e6}, {}, "says 1 MB of voxels where there is room for 472 bytes"),
        ({"vox_offset": np.nan}, {}, "is damaged"),
        ({"vox_offset": -500}, {}, "is damaged"),
        ({"magic": b"\0\0\0\0"}, {}, "is not a NIfTI file"),  # Analyze 7.5
    ],
)
def test_odd_headers_are_refused_in_a_sentence(write, changes, options, says):
    path = write(changes, **options)
    with pytest.raises(InputError, match=says) as found:
        read_volume(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"scl_slope": 0, "scl_inter": 7}, {}),  # 0: there is no scale, nor an intercept
        ({"scl_slope": np.nan}, {}),
        ({"dim": [4, 3, 4, 5, 1, 1, 1, 1]}, {}),
        ({}, {"big_endian": True}),
        ({"xyzt_units": 0}, {}),
        (pixdim(2, 3, 4, qfac=0), {"sform": 0}),  # 0 stands for 1
        (pixdim(1, 1, 1), {"sform": 0, "qform": 1}),
        ({}, {"name": "image.nii.gz"}),
    ],
)
def test_odd_headers_are_read(write, changes, options):
    volume = read_volume(write(changes, **options))
    np.testing.assert_array_equal(volume.data, ARRAY)
    assert volume.data.dtype.isnative


def test_values_are_scaled(write):
    volume = read_volume(write({"scl_slope": 0.5, "scl_inter": -3}, big_endian=True))
    np.testing.assert_array_equal(volume.data, 0.5 * ARRAY - 3)


def test_qfac_says_which_way_slices_run(write):
    path = write(pixdim(2, 3, 4, qfac=-1), sform=0)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, ARRAY[..., ::-1])
    point = sitk.ReadImage(path).TransformIndexToPhysicalPoint((0, 0, 4))
    np.testing.assert_allclose(
        volume.stored_grid.world_from_voxel([0, 0, 4]) * (-1, -1, 1), point, rtol=0, atol=1e-4
    )  # mm


def test_pairs_are_read_by_either_name(tmp_path):
    nib.save(nib.Nifti1Pair(ARRAY, AFFINE), tmp_path / "pair.img")
    for name in ("pair.img", "pair.hdr"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, ARRAY)
    (tmp_path / "pair.hdr").unlink()
    with pytest.raises(InputError, match="is not a NIfTI file"):
        read_volume(tmp_path / "pair.img")


def test_a_checksum_that_fails_and_trailing_garbage_are_refused(write):
    path = write({}, name="image.nii.gz")
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(100))  # padding is none of it
    np.testing.assert_array_equal(read_volume(path).data, ARRAY)
    wrong = bytes([whole[-8] ^ 1])
    for content in (whole + b"garbage", whole[:-8] + wrong + whole[-7:], whole[:-4]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            read_volume(path)


def test_an_extension_as_large_as_it_likes_is_not_read(tmp_path):
    # nibabel allocates what an extension's size says: here 2 GB.
    header = nib.Nifti1Image(ARRAY, AFFINE).header
    header.set_sform(AFFINE, code=1)
    header["vox_offset"] = 1024
    extension = b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 4)
    start = (header.binaryblock + extension).ljust(1024, b"\0")
    (tmp_path / "image.nii").write_bytes(start + ARRAY.tobytes(order="F"))
    np.testing.assert_array_equal(read_volume(tmp_path / "image.nii").data, ARRAY)


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    # 10 MB that would be 2 GB: within what gzip can do, but not within memory.
    image = nib.Nifti1Image(ARRAY, AFFINE)
    image.header["dim"] = [3, 1000, 1000, 1000, 1, 1, 1, 1]
    block = gzip.compress(bytes(1 << 24))
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(image.header.binaryblock + bytes(4)) + 128 * block)
    monkeypatch.setattr(limits, "memory_at_hand", lambda: Memory(None, 1 << 30))
    monkeypatch.setattr(gzip.GzipFile, "readinto", None)
    with pytest.raises(InputError, match=r"needs 10 GB of memory .* where 1.07 GB are"):
        read_volume(path)


def test_memory_that_runs_out_is_said(write, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("rwcnet_runtime.volumes.decode", fail)
    path = write({})
    with pytest.raises(InputError, match=f"{path} does not fit into memory"):
        read_volume(path)


METAIMAGE = """ObjectType = Image
NDims = 3
BinaryData = True
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 1 2 3
ElementSpacing = 2 3 4
DimSize = 3 4 5
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("NDims = 3", "NDims = -1", "cannot be read by ITK"),  # ends the process
        ("NDims = 3", "NDims = 32767", "cannot be read by ITK"),
        ("DimSize = 3 4 5", "DimSize = 32767 32767 32767", "says 70.4 TB of voxels"),
        ("ElementSpacing = 2 3 4", "ElementSpacing = 0 3 4", "cannot be"),
        ("ElementSpacing = 2 3 4", "ElementSpacing = nan 3 4", "cannot be"),
        ("TransformMatrix = 1 0 0 0 1", "TransformMatrix = 1 0 0 1 0", "cannot be"),
        ("= LOCAL", "= /dev/zero", "voxels are in '/dev/zero', which is not a file beside it"),
        ("= LOCAL", "= ../image.raw", "which is not a file beside it"),
        ("= LOCAL", "= gone.raw", "which is not a file beside it"),
    ],
)
def test_odd_headers_of_itk_are_refused(tmp_path, old, new, says):
    path = tmp_path / "image.mha"
    path.write_bytes(METAIMAGE.encode() + ARRAY.tobytes(order="F"))
    np.testing.assert_array_equal(
        read_volume(path).data, ARRAY[::-1, ::-1]
    )  # LPS axes, brought to RAS
    path.write_bytes(METAIMAGE.replace(old, new).encode() + ARRAY.tobytes(order="F"))
    with pytest.raises(InputError, match=says):
        read_volume(path)


NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 3 4 5
space directions: (2,0,0) (0,3,0) (0,0,4)
space origin: (1,2,3)
encoding: raw
endian: little
"""
COMMENTS = "".join(f"# {'x' * 400}\n" for _ in range(200))


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        ("image.mha", "ElementDataFile : {}", "not a file beside it"),
        ("image.mha", "  ElementDataFile = {}", "not a file beside it"),
        ("image.mha", "\tElementDataFile={}", "not a file beside it"),
        ("image.mhd", "ElementDataFile =\n{}", "not a file beside it"),
        ("image.mhd", "ElementDataFile\0x = {}", "not a file beside it"),
        ("image.mhd", "data file: LOCAL\nElementDataFile = {}", "not a file beside it"),
        ("image.mhd", "ElementDataFile = LIST\n{}", "not a file beside it"),
        ("image.mhd", "ElementDataFile = own.raw\nElementDataFile = {}", "twice"),
        ("image.mhd", COMMENTS + "ElementDataFile = {}", "does not end within 65536 bytes"),
        ("image.nhdr", "DataFile: {}", "not a file beside it"),
        ("image.nhdr", " data file: {}", "not a file beside it"),
        ("image.nhdr", "# so\rdata file: {}", "not a file beside it"),
        ("image.nhdr", "ElementDataFile = LOCAL\ndata file: {}", "not a file beside it"),
        ("image.nhdr", "data file: LIST\n{}", "not a file beside it"),
        ("image.nhdr", "data file: LOCAL\ndata file: {}", "twice"),
        ("image.nhdr", COMMENTS + "data file: {}", "does not end within 65536 bytes"),
    ],
)
def test_voxels_elsewhere_are_refused_however_they_are_named(tmp_path, name, lines, says):
    folder = tmp_path / "given"
    folder.mkdir()
    for file in (tmp_path / "other.raw", folder / "own.raw", folder / "LIST"):
        file.write_bytes(ARRAY.tobytes(order="F"))
    header = NRRD if name == "image.nhdr" else METAIMAGE.replace("ElementDataFile = LOCAL\n", "")
    (folder / name).write_text(header + lines.format(tmp_path / "other.raw") + "\n")
    with pytest.raises(InputError, match=says):
        read_volume(folder / name)
    (folder / name).write_text(header + lines.split("\n")[-1].format("own.raw") + "\n")
    if lines.startswith(("DataFile", "ElementDataFile :")):
        np.testing.assert_array_equal(read_volume(folder / name).data, ARRAY[::-1, ::-1])


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("sheared", [False, True])
def test_what_itk_holds_is_written_where_it_lies(
    tmp_path, make_grid, sheared_grid, save_phantom, suffix, sheared
):
    volume = read_volume(save_phantom(sheared_grid if sheared else make_grid("oblique")))
    write_volume(tmp_path / f"copy{suffix}", volume.data, volume)
    copy = read_volume(tmp_path / f"copy{suffix}")
    np.testing.assert_allclose(copy.data, volume.data, rtol=0, atol=0)
    np.testing.assert_allclose(
        copy.stored_grid.affine, volume.stored_grid.affine, rtol=0, atol=1e-4
    )  # mm
    displacement = np.random.default_rng(0).random((*volume.grid.shape, 3), np.float32)
    path = tmp_path / f"displacement{suffix}"
    write_displacement(path, displacement, volume)
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    for voxel in ((3, 5, 7), (20, 11, 8)):
        point = volume.grid.world_from_voxel(voxel) * (-1, -1, 1)
        moved = np.array(transform.TransformPoint(point.tolist())) - point
        expected = displacement[voxel] * (-1, -1, 1)
        np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-3)  # mm


def test_a_transform_that_ends_the_process_is_refused(tmp_path, monkeypatch):
    # As those with too few parameters do, depending on what lies behind them in memory.
    sitk.WriteTransform(sitk.Euler3DTransform(), tmp_path / "short.tfm")
    read_initial_transform(tmp_path / "short.tfm")
    monkeypatch.setattr(trial, "_TRIAL", "import os; os.abort()")
    with pytest.raises(InputError, match="cannot be read as a transform"):
        read_initial_transform(tmp_path / "short.tfm")


@pytest.mark.parametrize("free", [0, None])
def test_a_trial_has_room_to_start_in(tmp_path, monkeypatch, free):
    sitk.WriteTransform(sitk.Euler3DTransform(), tmp_path / "good.tfm")
    monkeypatch.setattr(trial, "memory_at_hand", lambda: Memory(None, free))
    assert trial.can_be_read(tmp_path / "good.tfm")


def test_a_field_that_its_file_cannot_hold_is_refused(write):
    path = write({"dim": [5, 3000, 3000, 3000, 1, 3, 1, 1], "intent_code": 1007})
    with pytest.raises(InputError, match="says 162 GB of voxels"):
        read_initial_transform(path)
