import nibabel as nib
import numpy as np
import pytest

from rwcnet_runtime.apply import Given
from rwcnet_runtime.apply.files import apply
from rwcnet_runtime.apply.request import Request
from rwcnet_runtime.errors import InputError

SHIFT = [5.0, -4.0, 3.0]


def run(source, transform, target, **options):
    return apply(Request(source, target, [Given.parse(str(transform))], **options))


@pytest.fixture
def streamlines():
    rng = np.random.default_rng(0)
    return [rng.normal(0, 8, (n, 3)).astype(np.float32) for n in (5, 12, 3, 8)]


@pytest.fixture
def shift(make_grid, save_field):
    grid = make_grid("LPS")
    return save_field(grid, np.broadcast_to(SHIFT, (*grid.shape, 3)))


def save(path, streamlines, grid):
    tractogram = nib.streamlines.Tractogram(
        streamlines,
        affine_to_rasmm=np.eye(4),
    )
    if path.suffix == ".trk":
        tractogram.data_per_streamline["weight"] = np.arange(4.0)[:, None]
        tractogram.data_per_point["fa"] = [np.arange(float(len(s)))[:, None] for s in streamlines]
    header = nib.streamlines.TrkFile.create_empty_header()
    header["voxel_to_rasmm"], header["dimensions"] = grid.affine, grid.shape
    header["voxel_sizes"] = grid.spacing
    header["voxel_order"] = b"RAS"
    nib.streamlines.save(tractogram, path, header=header if path.suffix == ".trk" else None)
    return path


@pytest.mark.parametrize("suffix", [".trk", ".tck"])
@pytest.mark.parametrize(("origin", "sign"), [("fixed", 1), ("moving", -1)])
def test_streamlines_go_where_points_go(
    tmp_path, make_grid, shift, streamlines, suffix, origin, sign, monkeypatch
):
    monkeypatch.setattr("rwcnet_runtime.apply.streamlines._POINTS_AT_ONCE", 15)
    source = save(tmp_path / f"in{suffix}", streamlines, make_grid("RAS"))
    out = tmp_path / f"out{suffix}"
    options = {}
    if suffix == ".trk":
        options["reference"] = shift
    report = run(source, shift, out, origin=origin, **options)
    assert report["points"] == 28
    found = nib.streamlines.load(out)
    assert len(found.streamlines) == 4
    for one, other in zip(found.streamlines, streamlines, strict=True):
        np.testing.assert_allclose(one, other + sign * np.array(SHIFT), rtol=0, atol=1e-3)  # mm
    if suffix == ".trk":
        assert found.tractogram.data_per_streamline["weight"].ravel().tolist() == [0, 1, 2, 3]
        assert found.tractogram.data_per_point["fa"][1].ravel().tolist() == list(range(12))


def test_a_trk_gets_the_header_of_the_image_it_belongs_to(tmp_path, make_grid, shift, streamlines):
    source = save(tmp_path / "in.trk", streamlines, make_grid("RAS"))
    run(source, shift, tmp_path / "out.trk", destination="fixed")
    header = nib.streamlines.load(tmp_path / "out.trk").header
    grid = make_grid("LPS")
    np.testing.assert_allclose(header["voxel_to_rasmm"], grid.affine, rtol=0, atol=1e-4)  # mm
    assert header["dimensions"].tolist() == list(grid.shape)
    assert header["voxel_order"] == b"LPS"
    assert header["nb_streamlines"] == 4
    with pytest.raises(InputError, match="give an image that lies on it with --reference"):
        run(source, shift, tmp_path / "b.trk", destination="moving")


def test_no_streamlines_are_no_error(tmp_path, make_grid, shift):
    nib.streamlines.save(
        nib.streamlines.Tractogram([], affine_to_rasmm=np.eye(4)), tmp_path / "in.tck"
    )
    report = run(tmp_path / "in.tck", shift, tmp_path / "out.tck", destination="fixed")
    assert report["points"] == 0
    assert len(nib.streamlines.load(tmp_path / "out.tck").streamlines) == 0


@pytest.mark.parametrize("suffix", [".trk", ".tck"])
def test_damaged_streamlines_are_refused(tmp_path, make_grid, shift, streamlines, suffix):
    source = save(tmp_path / f"in{suffix}", streamlines, make_grid("RAS"))
    (tmp_path / f"cut{suffix}").write_bytes(source.read_bytes()[:-30])
    (tmp_path / f"text{suffix}").write_text("no streamlines")
    (tmp_path / f"empty{suffix}").write_text("")
    for name in ("cut", "text", "empty"):
        with pytest.raises(InputError, match="cannot be read as streamlines"):
            run(tmp_path / f"{name}{suffix}", shift, tmp_path / f"out{suffix}", origin="moving")
    assert not (tmp_path / f"out{suffix}").exists()
    with pytest.raises(InputError, match="leave --frame out"):
        run(source, shift, tmp_path / f"out{suffix}", origin="fixed", frame="LPS")
