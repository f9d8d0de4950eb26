"""rwcnet-export --engine: what is written, what is said, and what the gate stops."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from rwcnet_export import cli, gate
from rwcnet_export.cases import random_weights
from rwcnet_ref.checkpoint import save_weights
from rwcnet_ref.config import TINY
from rwcnet_ref.pairs import SyntheticSource
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade
from rwcnet_runtime.errors import BackendError

# A stage alone: the shortest export.
ONE_STAGE = replace(TINY, stages=TINY.stages[2:])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_weights(random_weights(ONE_STAGE), path)
    return path


def _export(weights: Path, target: Path, *more: str) -> Result:
    engines = ("--engine", "bf16", "--engine", "fp32", "--engine", "fp16", "--engine", "bf16")
    arguments = ("--stage", "all", "--weights", weights, "-o", target, *engines, *more)
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def low(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Bundle]:
    target = tmp_path_factory.mktemp("low") / "bundle"
    result = _export(weights, target)
    assert result.exit_code == 0, result.output
    return result, Bundle.open(target)


def test_each_engine_is_written_and_compared(low: tuple[Result, Bundle]) -> None:
    result, bundle = low
    assert bundle.engines == ["bf16", "fp16", "fp32"]
    lines = result.stdout.splitlines()
    for engine in ("fp16", "bf16"):
        assert len([x for x in lines if x.startswith(f"stage 1, {engine}: ")]) == 1
        (row,) = (line.split() for line in lines if line.startswith(f"{engine} "))
        assert row[1:7] == ["shapes", "64", "x", "48", "x", "80"]
        mean, p99, largest = map(float, row[-3:])
        assert 0 < mean < p99 < largest
        assert mean < gate.MEAN_VOX
    assert "no real image was compared" in result.stdout
    assert "--force" not in result.stdout


def test_the_runtime_runs_fp16_and_refuses_bf16(low: tuple[Result, Bundle]) -> None:
    _, bundle = low
    pair = SyntheticSource((32, 24, 28), 1, amplitude=4).draw(torch.Generator().manual_seed(0))
    full, half = (
        Cascade(bundle, engine).run(pair.fixed.numpy(), pair.moving.numpy())[0]
        for engine in ("fp32", "fp16")
    )
    assert 0 < np.abs(full - half).max() < 0.05  # voxels
    with pytest.raises(BackendError, match="onnxruntime runs fp32 and fp16 here, not bf16"):
        Cascade(bundle, "bf16")


def test_over_the_bar_nothing_is_written_without_force(
    low: tuple[Result, Bundle], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bundle = low

    def write(cascade: Any, folder: Path, **about: Any) -> dict[str, Any]:
        shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)
        return {}

    monkeypatch.setattr(cli, "write_bundle", write)
    report = tmp_path / "report.json"
    arguments = ("--gate", "1e-5", "--report", str(report))
    result = _export(weights, tmp_path / "bundle", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: fp16 changes the flow by ")
    assert "where 1e-05 is allowed" in error
    assert error.endswith("or keep it with --force")
    assert list(tmp_path.iterdir()) == []
    result = _export(weights, tmp_path / "bundle", *arguments, "--force")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("kept with --force") == 2
    assert Bundle.open(tmp_path / "bundle").engines == bundle.engines
    assert json.loads(report.read_text())["gate_vox"] == 1e-5
