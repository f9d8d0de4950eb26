"""rwcnet-export: the table, what is written, and what each wrong call says."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from rwcnet_export import checks, cli, options
from rwcnet_export.cases import random_weights
from rwcnet_ref.checkpoint import save_weights
from rwcnet_ref.config import TINY
from rwcnet_ref.model import Cascade
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.engines import products
from rwcnet_runtime.engines.products import PRODUCTS
from rwcnet_runtime.engines.profile import DEFAULT_SHAPES
from rwcnet_runtime.preprocess import FIXED_RANGE

TINY_RANDOM = ("--preset", "tiny", "--random-weights")


def _export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def _assert_refused(result: Result, said: str, *parts: str, code: int = 2) -> None:
    """Hold a failed call to one sentence, after the parts of the work that it began."""
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    *begun, error = result.stderr.splitlines()
    assert begun == list(parts)
    assert error.startswith("Error: ")
    assert said in error


def _metadata(path: str) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_all_stages(export_result: tuple[Result, Path], exported: Path) -> None:
    result, _ = export_result
    lines = result.stdout.splitlines()
    rows = [line.split() for line in lines[1:13]]
    assert [(row[0], row[1], row[-3]) for row in rows] == [
        (str(stage), case, batch)
        for stage in (1, 2, 3)
        for batch in ("1", "2")
        for case in ("random", "shapes")
    ]
    assert len({tuple(row[2:-3]) for row in rows}) == 6  # two sizes a stage
    assert all(float(row[-1]) <= 1e-3 for row in rows)
    # Three stages, three encoders, two ways between stages, composition, resampling, and the
    # refinement's features and step.
    assert lines[13] == "passes over 12 graphs:"
    names = [line.split(":")[0].strip() for line in lines[14:18]]
    assert names == [
        "gate convolutions merged",
        "constants folded",
        "projections moved before means",
        "nodes shared between steps",
    ]
    assert re.search(r" \(0 of [1-9]\d* convolutions share their input", lines[14])
    assert lines[18].startswith("no real image was compared")
    assert lines[19] == f"wrote {exported}"
    assert lines[20:] == []
    assert result.stderr.splitlines() == [
        *(f"exporting stage {n}" for n in (1, 2, 3)),
        "exporting what joins the stages",
        "exporting the refinement",
        *(f"comparing stage {n} with torch" for n in (1, 2, 3)),
    ]
    assert [path.name for path in exported.parent.iterdir()] == ["bundle"]


def test_one_stage_keeps_the_others(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported, folder)
    before = Bundle.open(folder).manifest
    result = _export("--stage", "3", *TINY_RANDOM, "-o", folder)
    assert result.exit_code == 0, result.output
    assert "not yet usable" not in result.stdout
    assert Bundle.open(folder).manifest.files.keys() == before.files.keys()


def test_one_stage_of_other_weights_is_refused(exported: Path, tmp_path: Path) -> None:
    cascade = random_weights(TINY)
    with torch.no_grad():
        for parameter in cascade.stage(2).head.parameters():
            parameter.add_(0.01)
    weights = tmp_path / "tiny.safetensors"
    save_weights(cascade, weights, licence="CC0-1.0", training_data="shapes")
    folder = tmp_path / "bundle"
    shutil.copytree(exported, folder)
    before = (folder / "manifest.json").read_bytes()
    result = _export("--stage", "3", "--weights", weights, "-o", folder)
    assert result.exit_code == 2
    assert "made from other weights, sizes or intensities" in result.stderr
    assert (folder / "manifest.json").read_bytes() == before
    Bundle.open(folder)


def test_one_stage_compared_on_images(
    tmp_path: Path, make_grid: Callable[..., Any], save_phantom: Callable[..., Path]
) -> None:
    fixed = save_phantom(make_grid("RAS"), "fixed.nii.gz")
    moving = save_phantom(make_grid("PSR", scale=1.1), "moving.nii.gz")
    folder = tmp_path / "new" / "bundle"
    arguments = ("--stage", "3", *TINY_RANDOM, "-o", folder, "--check", fixed, moving)
    result = _export(*arguments, "--engine", "fp16")
    assert result.exit_code == 0, result.output
    row, full, whole = (line.split() for line in result.stdout.splitlines() if " images " in line)
    assert row[:2] == ["3", "images"]
    assert "".join(row[2:7]) == "26x32x28"  # the first patch
    assert float(row[-1]) <= 1e-3
    # The chain, the other stages of it in torch.
    assert "".join(full[:7]) == "fp32images36x32x28"
    assert "".join(whole[:7]) == "fp16images36x32x28"
    assert float(full[-3]) < 1e-5 < float(whole[-3]) < 0.05  # voxels
    assert "fp16 not yet usable: export stage 1, 2 into the same folder" in result.stdout
    assert "fp32 not yet usable: export stage 1, 2 into the same folder" in result.stdout
    assert Bundle.open(folder).manifest.files.keys() == {
        "fp32/stage3.onnx", "fp16/stage3.onnx", "features3.onnx", "enter3.onnx", "compose.onnx",
        "mind.onnx", "refine.onnx",
    }  # fmt: skip


def test_a_stage_that_differs_is_not_kept(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other_weights(cascade: Any, folder: Path, **about: Any) -> dict[str, Any]:
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        with torch.no_grad():
            cascade.stage(1).head[-1].bias += 0.002
        return {}

    monkeypatch.setattr(cli, "write_bundle", write_other_weights)
    result = _export("--stage", "all", *TINY_RANDOM, "-o", tmp_path / "bundle")
    begun = (f"comparing stage {n} with torch" for n in (1, 2))
    _assert_refused(result, "stage 2 differs from torch by 0.00", *begun)
    assert "random input of size (24, 28, 32), batch 1" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_changes_nothing(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def write(cascade: Any, folder: Path, **about: Any) -> None:
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        Path("/dev/full").write_bytes(b"x")

    folder = tmp_path / "bundle"
    if there:
        shutil.copytree(exported, folder)
        (folder / "manifest.json").write_text("of an older export")
    monkeypatch.setattr(cli, "write_bundle", write)
    said = "(No space left on device): make room or choose another folder with -o"
    _assert_refused(_export("--stage", "all", *TINY_RANDOM, "-o", folder), said)
    assert list(tmp_path.iterdir()) == ([folder] if there else [])
    if there:
        assert (folder / "manifest.json").read_text() == "of an older export"


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [([], DEFAULT_SHAPES), (["64x64x96", "64x96x96"], [(64, 64, 96), (64, 96, 96)])],
)
def test_engines_are_built_of_what_was_written(
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shapes: list[str],
    expected: Any,
) -> None:
    def write(cascade: Any, folder: Path, **about: Any) -> dict[str, Any]:
        shutil.copytree(exported, folder, dirs_exist_ok=True)
        return {}

    def built(*arguments: Any) -> None:
        asked.append(arguments)

    asked: list[Any] = []
    (product,) = (product for product in PRODUCTS if product.name == "tensorrt-rtx")
    monkeypatch.setattr(cli, "write_bundle", write)
    monkeypatch.setattr(checks, "compare_stage", lambda *arguments: [])
    monkeypatch.setattr(cli, "compile_stages", built)
    monkeypatch.setattr(cli, "compile_chain", built)
    monkeypatch.setattr(options, "find_product", {"tensorrt-rtx": product}.__getitem__)
    sizes = [word for shape in shapes for word in ("--shape", shape)]
    arguments = ("--stage", "all", *TINY_RANDOM, "-o", tmp_path / "bundle")
    result = _export(*arguments, "--compile", "tensorrt-rtx", *sizes)
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(tmp_path / "bundle")
    assert asked == [
        (bundle, product, expected, [0, 1, 2], typer.echo),
        (bundle, product, expected, typer.echo),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*TINY_RANDOM, "-o", "new", "--report", "new/manifest.json"), "in the bundle's folder"),
        (("--preset", "huge"), "choose one of base, thesis, tiny"),
        (("--preset", "tiny"), "no weights come with preset tiny"),
        (("--weights", "absent.safetensors"), "no weights at absent.safetensors"),
        (("--weights", "text.safetensors"), "text.safetensors is not a safetensors file"),
        (("--preset", "base", "--weights", "tiny.safetensors"), "leave out --preset"),
        ((*TINY_RANDOM, "--weights", "tiny.safetensors"), "exclude each other"),
        (("--published", *3 * ["absent.pth"]), "no weights at absent.pth"),
        (("--published", *3 * ["text.nii"]), "text.nii is not a file of weights"),
        (("--published", *3 * ["text.nii"], "--intensity", "1", "1"), "give MIN below MAX"),
        (("--published", *3 * ["text.nii"], "--intensity", "0", "nan"), "give MIN below MAX"),
        (("--published", *3 * ["text.nii"], "--random-weights"), "exclude each other"),
        ((*TINY_RANDOM, "--intensity", "0", "1"), "with --published only"),
        ((*TINY_RANDOM, "--stage", "4"), "choose all, 1, 2, 3"),
        ((*TINY_RANDOM, "--engine", "fp8"), "no engine fp8: choose from fp32, fp16, bf16"),
        ((*TINY_RANDOM, "--check", "no.nii", "text.nii"), "no.nii does not exist"),
        ((*TINY_RANDOM, "--check", "text.nii", "no.nii"), "text.nii is not a NIfTI file"),
        ((*TINY_RANDOM, "-o", "text.nii"), "text.nii is a file"),
        (("--weights", "others.safetensors"), "these weights cannot be used: "),
        ((*TINY_RANDOM, "--shape", "64x64x64"), "goes with --compile only"),
        ((*TINY_RANDOM, "--gate", "0"), "--gate is 0 where voxels above 0 are wanted"),
        ((*TINY_RANDOM, "--gate", "nan"), "--gate is nan where voxels above 0 are wanted"),
        ((*TINY_RANDOM, "--data", "."), "--data goes with --cases only"),
        ((*TINY_RANDOM, "--cases", "no.csv"), "no.csv does not exist"),
        ((*TINY_RANDOM, "--cases", "cases.csv"), "row 2, column fixed: no.nii is not a file"),
        ((*TINY_RANDOM, "--report", "folder"), "folder is a folder: choose another with --report"),
        (
            ("--weights", "tiny.safetensors", "--report", "tiny.safetensors"),
            "would be replaced by a result: choose another with --report",
        ),
        ((*TINY_RANDOM, "--compile", "trt"), "choose tensorrt or tensorrt-rtx"),
        (
            (*TINY_RANDOM, "--compile", "tensorrt", "--shape", "63x64x65"),
            "multiple of 4, and the nearest that fits is 64x64x64",
        ),
        ((*TINY_RANDOM, "--compile", "tensorrt"), 'pip install "rwcnet[tensorrt]"'),
    ],
)
def test_wrong_calls(
    arguments: tuple[str, ...],
    said: str,
    cascade: Cascade,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(products, "version_of", lambda name: None)
    save_weights(cascade, Path("tiny.safetensors"))
    # Weights of one model under the sizes of another.
    tensors, metadata = load_file("tiny.safetensors"), _metadata("tiny.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, "others.safetensors", metadata)
    Path("text.safetensors").write_text("no weights")
    Path("text.nii").write_text("no image")
    Path("cases.csv").write_text("case,fixed,moving\none,no.nii,text.nii\n")
    Path("folder").mkdir()
    before = sorted(tmp_path.iterdir())
    _assert_refused(_export("--stage", "all", *arguments), said)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("other", ["sizes", "intensities"])
def test_a_stage_does_not_join_another_bundle(exported: Path, tmp_path: Path, other: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported, folder)
    fields = json.loads((folder / "manifest.json").read_text())
    if other == "sizes":
        fields["stages"][0]["radius"] = 99
    else:
        fields |= {"intensity": FIXED_RANGE, "intensity_range": [0, 1]}
    (folder / "manifest.json").write_text(json.dumps(fields))
    result = _export("--stage", "1", *TINY_RANDOM, "-o", folder)
    _assert_refused(result, "choose another folder with -o")
    assert list(tmp_path.iterdir()) == [folder]


def test_the_range_that_weights_were_trained_with_goes_into_the_bundle(tmp_path):
    weights, out = tmp_path / "w.safetensors", tmp_path / "bundle"
    one_stage = replace(TINY, stages=TINY.stages[2:])
    save_weights(random_weights(one_stage), weights, intensity_range="[-4e-3, 16e3]")
    arguments = ["--stage", "all", "--weights", str(weights), "-o", str(out)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    manifest = Bundle.open(out).manifest
    assert (manifest.intensity, manifest.intensity_range) == (FIXED_RANGE, (-4e-3, 16e3))
