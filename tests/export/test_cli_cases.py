"""rwcnet-export --cases: precisions on real pairs with truth, and the report about them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from rwcnet_export import checks, cli
from rwcnet_export.cases import random_weights
from rwcnet_export.parity import Comparison
from rwcnet_ref.checkpoint import save_weights
from rwcnet_ref.config import TINY
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.evaluation import evaluate_bundle, read_cases
from rwcnet_runtime.registrar import Registrar


@pytest.fixture
def data(tmp_path: Path, make_grid: Callable[..., Any], save_phantom: Callable[..., Path]) -> Path:
    """A pair with labels and landmarks, and the same pair without."""
    for name, grid in (
        ("fixed", make_grid("RAS")),
        ("moving", make_grid("PSR", scale=1.1, centre=(1.3, -1.1, 0.4))),
    ):
        image = nib.load(save_phantom(grid, f"{name}.nii.gz"))
        values = image.get_fdata()
        labels = (values > np.quantile(values, 0.8)).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, image.affine), tmp_path / f"{name}_labels.nii.gz")
        (tmp_path / f"{name}.csv").write_text("x,y,z\n2,-3,1\n-4,2,3\n")
    (tmp_path / "cases.csv").write_text(
        "case,fixed,moving,fixed_labels,moving_labels,fixed_points,moving_points,points_frame\n"
        "known,fixed.nii.gz,moving.nii.gz,fixed_labels.nii.gz,moving_labels.nii.gz,fixed.csv,"
        "moving.csv,RAS\n"
        "unknown,fixed.nii.gz,moving.nii.gz,,,,,\n"
    )
    return tmp_path


def test_the_report_is_what_an_evaluation_of_the_bundle_finds(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Comparison(1, "random", (4, 5, 6), 1, 2.0, 1e-6)
    monkeypatch.setattr(checks, "compare_stage", lambda *arguments: [row])
    weights = data / "weights.safetensors"
    save_weights(random_weights(replace(TINY, stages=TINY.stages[2:])), weights)
    bundle, cases, report = data / "bundle", data / "cases.csv", data / "reports" / "report.json"
    arguments = ["--stage", "all", "--weights", weights, "-o", bundle]
    arguments += ["--engine", "fp16", "--cases", cases, "--data", data, "--report", report]
    result = CliRunner().invoke(cli.app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    assert "no real image" not in result.stdout
    assert result.stdout.endswith(f"wrote {bundle}\nwrote {report}\n")
    assert [path.name for path in report.parent.iterdir()] == ["report.json"]
    found = json.loads(report.read_text())
    manifest = Bundle.open(bundle).manifest
    assert found["weights"] == {"name": "tiny", "sha256": manifest.weights["sha256"]}
    assert found["files"] == manifest.files
    assert found["environment"]["versions"].keys() >= {"torch", "onnx", "onnxscript", "onnx-ir"}
    assert len(found["stages"]) == 1
    assert list(found["passes"]) == ["stage1", "features1", "compose", "mind", "refine", "resample"]
    assert all(len(each) == 4 for each in found["passes"].values())
    assert list(found["nodes"]) == ["fp16"]
    assert list(found["nodes"]["fp16"]) == ["1"]
    assert found["gate_vox"] == 0.05
    assert list(found["results"]) == ["known", "unknown"]
    full, half = found["results"]["known"]
    assert (full["engine"], half["engine"]) == ("fp32", "fp16")
    assert 0 <= full["mean_vox"] < 1e-5 < half["mean_vox"] < 0.05  # voxels
    # Whole, and padded to multiples of 4.
    assert full["size"] == [36, 32, 28]
    assert all(each["accuracy"] == {} for each in found["results"]["unknown"])

    known = read_cases(cases)[:1]
    (expected,) = evaluate_bundle(known, Registrar(bundle))
    for name, tolerance in (("dice_after", 1e-3), ("tre_mm_after", 1e-3)):
        in_torch, in_fp32 = full["accuracy"][name]
        assert in_torch == pytest.approx(expected[name], abs=tolerance)
        assert in_fp32 == pytest.approx(expected[name], abs=tolerance)
        assert half["accuracy"][name][0] == in_torch
        assert half["accuracy"][name][1] == pytest.approx(in_torch, abs=0.05)  # mm, or of Dice
    (dice, _), (before, after) = (half["accuracy"][n] for n in ("dice_after", "tre_mm_after"))
    assert after != before
    assert f"  Dice {dice:.4f} -> " in result.stdout
    assert f", TRE mm {before:.3f} -> {after:.3f}\n" in result.stdout


def test_unusable_truth_is_one_sentence_and_nothing_is_written(
    data: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cli,
        "write_bundle",
        lambda cascade, folder, **about: shutil.copytree(exported, folder, dirs_exist_ok=True),
    )
    monkeypatch.setattr(checks, "compare_stage", lambda *arguments: [])
    (data / "fixed_labels.nii.gz").write_bytes((data / "moving_labels.nii.gz").read_bytes())
    arguments = ["--stage", "all", "--preset", "tiny", "--random-weights", "-o", data / "bundle"]
    arguments += ["--cases", data / "cases.csv", "--report", data / "report.json"]
    result = CliRunner().invoke(cli.app, [str(each) for each in arguments])
    assert result.exit_code == 2
    *begun, error = result.stderr.splitlines()
    assert begun[-1] == "comparing fp32 with torch on known"
    assert error.startswith("Error: ")
    assert "fixed_labels.nii.gz does not lie on the grid of" in error
    assert not (data / "bundle").exists()
    assert not (data / "report.json").exists()
    assert list(data.glob(".rwcnet*")) == []
