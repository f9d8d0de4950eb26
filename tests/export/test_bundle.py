"""A written bundle is one the runtime opens, checks, and runs as torch does."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from rwcnet_export.bundle import weights_sha256, write_bundle
from rwcnet_export.cases import random_weights
from rwcnet_ref.config import TINY
from rwcnet_ref.model import Cascade as TorchCascade
from rwcnet_ref.pairs import SyntheticSource
from rwcnet_ref.patches import lay_out as torch_lay_out
from rwcnet_ref.patches import patch_axis
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.errors import BundleError
from rwcnet_runtime.patches import lay_out
from rwcnet_runtime.preprocess import PERCENTILES


def test_manifest(exported: Path, cascade: TorchCascade) -> None:
    bundle = Bundle.open(exported)
    manifest = bundle.manifest
    on_disk = {
        path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()
    }
    assert on_disk == manifest.files.keys() | {"manifest.json"}
    assert bundle.engines == ["fp32"]
    assert manifest.name == "tiny"
    assert manifest.multiple == TINY.multiple
    for n, (entry, config) in enumerate(zip(manifest.stages, TINY.stages, strict=True)):
        for field in {field.name for field in dataclasses.fields(entry)} - {"inherits"}:
            assert getattr(entry, field) == getattr(config, field)
        assert entry.inherits == (n > 0)
    assert manifest.reduction == "average"
    assert manifest.intensity == PERCENTILES
    assert manifest.intensity_range is None
    assert manifest.weights == {
        "licence": "none",
        "training_data": "none, random",
        "sha256": weights_sha256(cascade),
    }


@pytest.mark.parametrize("name", ["fp32/stage2.onnx", "enter3.onnx", "pipeline.onnx"])
def test_altered_or_missing_file_is_refused(exported: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        Bundle.open(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match="missing"):
        Bundle.open(folder)


@pytest.mark.parametrize("size", [(32, 24, 28), (36, 48, 60)])
def test_runtime_cascade_is_the_torch_cascade(
    exported: Path, cascade: TorchCascade, size: tuple[int, int, int]
) -> None:
    """The smaller image runs whole, the larger in patches at full resolution."""
    pair = SyntheticSource(size, resolution=1, amplitude=6).draw(torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = cascade(pair.fixed, pair.moving).numpy()
    flow, seconds = Cascade(Bundle.open(exported)).run(pair.fixed.numpy(), pair.moving.numpy())
    assert flow.shape == expected.shape == (1, 3, *size)
    assert abs(flow - expected).max() < 1e-3
    assert abs(expected).max() > 1
    assert set(seconds) == {"stage1", "stage2", "stage3", "chain"}


@pytest.mark.parametrize(("patch", "halo"), [(32, 8), (128, 8), (128, 0), (40, 19), (7, 1)])
def test_torch_and_runtime_cut_the_same_patches(patch: int, halo: int) -> None:
    for length in range(1, 300):
        edge, parts = patch_axis(length, patch, halo)
        laid = lay_out((length, 1, 1), patch, halo)
        assert [(p.read[0].start, p.own[0].start, p.own[0].stop) for p in laid] == parts
        assert {p.read[0].stop - p.read[0].start for p in laid} == {edge}
        answered = [n for _, first, last in parts for n in range(first, last)]
        assert answered == list(range(length))
        for start, first, last in parts:
            assert start >= 0
            assert start + edge <= length
            assert start + halo <= first or start == first == 0
            assert last <= start + edge - halo or last == length


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_torch_and_runtime_cut_the_same_parts(parts: int) -> None:
    for shape in ((12, 6, 18), (48, 32, 64), (13, 7, 9)):
        ours = lay_out(shape, None, 0, parts)
        theirs = torch_lay_out(shape, parts=parts)
        assert len(ours) == len(theirs) == parts**3
        for a, b in zip(ours, theirs, strict=True):
            assert (a.read, a.own, a.inner) == (b.read, b.own, b.inner)


def test_random_weights_are_always_the_same_and_leave_the_generator_alone() -> None:
    state = torch.get_rng_state()
    assert weights_sha256(random_weights(TINY)) == weights_sha256(random_weights(TINY))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_exports_are_the_same_bytes(exported: Path, cascade: TorchCascade, tmp_path: Path):
    about = {"licence": "none", "training_data": "none, random"}
    write_bundle(cascade, tmp_path, stages=range(3), **about)
    one, other = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (exported, tmp_path)
    )
    assert one.keys() == other.keys()
    assert [path for path in one if one[path] != other[path]] == []
