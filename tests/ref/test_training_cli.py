import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rwcnet_ref.checkpoint import load_weights
from rwcnet_ref.training import cli, loop
from rwcnet_ref.training.cli import app, shipped

CONFIG = """
[about]
licence = "MIT"
training_data = "shapes"
[model]
preset = "tiny"
[data]
kind = "synthetic"
validation = 1
[losses]
error = 1
[training]
size = 8
steps = {steps}
batch = 1
validate_every = 5
save_every = 5
seed = {seed}
"""

# Stops itself as a scheduler would, while step 7 is being done.
STOPPED = """
import os, signal
from rwcnet_ref.training import cli, loop

advance = loop.Training._advance

def interrupted(self):
    if self.step == 6:
        os.kill(os.getpid(), signal.SIGTERM)
    return advance(self)

loop.Training._advance = interrupted
cli.app()
"""


@pytest.fixture
def config(tmp_path):
    def write(name="tiny.toml", steps=2, seed=0):
        path = tmp_path / name
        path.write_text(CONFIG.format(steps=steps, seed=seed))
        return path

    return write


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_run_ends_in_weights_for_export(config, tmp_path):
    found = run(config(), "-o", tmp_path / "run")
    assert found.exit_code == 0, found.output
    for part in ("stage 1 of 3 at 1/4", "device cpu", "fp32", "2 steps", "parameters"):
        assert part in found.stderr
    assert f"wrote {tmp_path / 'run' / 'weights.safetensors'}" in found.stdout
    _, about = load_weights(tmp_path / "run" / "weights.safetensors")
    assert (about["licence"], about["training_data"]) == ("MIT", "shapes")
    again = run(config(), "-o", tmp_path / "run")
    assert again.exit_code == 0
    assert "stage" not in again.stderr


def test_stages_can_be_trained_one_by_one(config, tmp_path):
    for stage in ("1", "2", "3"):
        assert not (tmp_path / "run" / "weights.safetensors").exists()
        assert run(config(), "-o", tmp_path / "run", "--stage", stage).exit_code == 0
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_sigterm_finishes_the_step_and_resuming_is_bit_identical(config, tmp_path):
    path = config(steps=20)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert run(path, "-o", straight, "--stage", "1").exit_code == 0
    arguments = [str(path), "-o", str(broken), "--stage", "1"]
    stopped = subprocess.run(
        [sys.executable, "-c", STOPPED, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert stopped.returncode == 130, stopped.stderr
    assert "run the same command to go on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert torch.load(broken / "stage1.ckpt", weights_only=True)["step"] == 7
    resumed = run(*arguments)
    assert "going on from step 7" in resumed.stderr
    states = [torch.load(f / "stage1.ckpt", weights_only=True) for f in (straight, broken)]
    for part in ("cascade", "averaged"):
        for name, value in states[0][part].items():
            assert torch.equal(value, states[1][part][name]), name
    for first, second in zip(
        *(state["optimiser"]["state"].values() for state in states), strict=True
    ):
        assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_handlers_are_put_back(config, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(config(), "-o", tmp_path / "run", "--stage", "1")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with cli._until_signalled() as signalled:
        assert not signalled()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signalled()
        assert signal.getsignal(signal.SIGTERM) == before[1]  # the second one stops at once


def test_a_run_with_other_settings_is_refused(config, tmp_path):
    run(config(), "-o", tmp_path / "run", "--stage", "1")
    before = (tmp_path / "run" / "settings.json").read_bytes()
    found = run(config(seed=1), "-o", tmp_path / "run", "--stage", "1")
    assert found.exit_code == 2
    assert "holds a training with another training.seed: choose another folder" in found.stderr
    assert (tmp_path / "run" / "settings.json").read_bytes() == before
    # When it is written and where it is computed may change.
    path = config()
    path.write_text(path.read_text().replace("save_every = 5", "save_every = 1"))
    assert run(path, "-o", tmp_path / "run", "--device", "cpu", "--stage", "1").exit_code == 0


def test_no_number_is_exit_code_1_and_one_sentence(config, tmp_path, monkeypatch):
    monkeypatch.setattr(
        loop, "batch_loss", lambda cascade, *_: sum(p.sum() for p in cascade.parameters()) * 1e40
    )
    found = run(config(), "-o", tmp_path / "run")
    assert found.exit_code == 1
    assert "Error: the loss is" in found.stderr
    assert "Traceback" not in found.output
    assert not (tmp_path / "run" / "stage1.ckpt").exists()
    assert (tmp_path / "run" / "stage1.nan.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no.toml"], "there is no file no.toml: give a TOML file or one of base"),
        (["{config}", "--stage", "4"], "there is no stage 4: choose all, 1, 2, 3"),
        (["{config}", "--device", "gpu"], "training.device is 'gpu'"),
        (["{config}", "--device", "cuda:63"], "device cuda:63 is not there"),
        (["{config}", "-o", "{config}"], "is a file: choose a folder with -o"),
        (["base"], "there is no folder synthseg_label_maps"),
        (["{config}", "--stage", "2", "-o", "new"], "stage 1 is not trained in new"),
    ],
    ids=str,
)
def test_bad_input_gets_one_sentence(config, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    path = config()
    found = run(*(argument.format(config=path) for argument in arguments))
    assert found.exit_code == 2
    assert says in found.stderr
    assert found.stderr.startswith("Error: ")
    assert found.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_without_tensorboard_it_says_so_and_trains(config, tmp_path, monkeypatch):
    from rwcnet_ref.training import log

    monkeypatch.setattr(log, "tensorboard_installed", lambda: False)
    found = run(config(), "-o", tmp_path / "run", "--stage", "1")
    assert found.exit_code == 0
    assert "TensorBoard is not installed" in found.stdout
    assert not (tmp_path / "run" / "events").exists()
    assert json.loads((tmp_path / "run" / "stage1.jsonl").read_text())["step"] == 2


def test_settings_that_come_along_are_found_by_name(monkeypatch, tmp_path):
    assert {"base", "ten-minutes", "thesis-nlst", "thesis-oasis"} <= shipped().keys()
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(cli, "train", lambda *given: seen.append(given) or True)
    assert run("ten-minutes").exit_code == 0
    assert run("ten-minutes.toml").exit_code == 0
    for settings, folder, *_ in seen:
        assert len(settings.stages) == 3
        assert folder.path == Path("runs/ten-minutes")
