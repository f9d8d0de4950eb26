"""The folder a bundle goes to: all of it or nothing, and nothing left beside it."""

import shutil
from pathlib import Path

import pytest

from rwcnet_export.folder import move, scratch_beside
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.errors import InputError


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stages_of_a_precision_that_is_not_exported_again_go(exported: Path, tmp_path: Path):
    target = tmp_path / "new" / "bundle"
    for name in ("fp16/stage1.onnx", "mine/stage1.onnx"):
        (target / name).parent.mkdir(parents=True)
        (target / name).write_bytes(b"of another export, or of no export")
    with scratch_beside(target) as folder:
        assert folder.parent == target
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        move(folder, target)
    assert Bundle.open(target).engines == ["fp32"]
    assert not (target / "fp16/stage1.onnx").exists()
    assert (target / "mine/stage1.onnx").exists()
    assert list(target.glob(".rwcnet-export-*")) == []


@pytest.mark.parametrize(
    ("name", "is_folder", "said"),
    [
        ("fp32", False, "fp32 is a file where the bundle has a folder: choose another folder"),
        ("compose.onnx", True, "compose.onnx is a folder where the bundle has a file: choose"),
        ("manifest.json", True, "manifest.json is a folder where the bundle has a file: choose"),
    ],
)
def test_what_is_in_the_way_is_named_before_anything_is_moved(
    exported: Path, tmp_path: Path, name: str, is_folder: bool, said: str
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(exported, source)
    target.mkdir()
    (target / "enter2.onnx").write_text("of another export")
    if is_folder:
        (target / name).mkdir()
    else:
        (target / name).write_text("mine")
    before = _files(tmp_path)
    with pytest.raises(InputError, match=said):
        move(source, target)
    assert _files(tmp_path) == before
