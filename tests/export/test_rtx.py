"""Whatever TensorRT-RTX does in its child process becomes one line here."""

from pathlib import Path

import pytest

from rwcnet_export import rtx

PROFILE = ((1, 8, 8, 8), (1, 16, 16, 16), (2, 32, 32, 32))

# A builder that fails and gives the sizes it was asked for as the reason.
RECORDS = """
__version__ = "0"

class Tensor:
    def __init__(self, name, channels):
        self.name, self.shape = name, (-1, channels, -1, -1, -1)

class ILogger:
    ERROR = 1

class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 0

class OnnxParser:
    def __init__(self, network, logger):
        pass
    def parse_from_file(self, path):
        return True

class Network:
    num_inputs = 2
    def get_input(self, n):
        return (Tensor("fixed", 1), Tensor("hidden", 6))[n]

class Profile:
    def __init__(self):
        self.sizes = {}
    def set_shape(self, name, *sizes):
        self.sizes[name] = sizes

class Config:
    def add_optimization_profile(self, profile):
        self.profile = profile

class Builder:
    def __init__(self, logger):
        self.logger = logger
    def create_network(self, flags):
        return Network()
    def create_builder_config(self):
        return Config()
    def create_optimization_profile(self):
        return Profile()
    def build_serialized_network(self, network, config):
        self.logger.log(1, str(config.profile.sizes))
"""


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("import os; os.abort()", "the build crashed with SIGABRT"),
        ("import time; time.sleep(60)", "no engine after 1 s, given up"),
        ("raise OSError('no such library')", "the build failed: OSError: no such library"),
    ],
)
def test_one_line_a_misfortune(
    program: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(program, tmp_path, monkeypatch)
    limit_s = 1 if "given up" in verdict else 60
    assert rtx.try_build(tmp_path / "stage1.onnx", PROFILE, limit_s=limit_s) == verdict


@pytest.mark.parametrize(("stride", "edges"), [(1, (8, 16, 32)), (2, (4, 8, 16))])
def test_the_hidden_state_has_the_stride_of_the_stage(
    stride: int, edges: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(RECORDS, tmp_path, monkeypatch)
    verdict = rtx.try_build(tmp_path / "stage1.onnx", PROFILE, stride=stride)
    expected = {
        "fixed": tuple((b, 1, *grid) for b, *grid in PROFILE),
        "hidden": tuple((b, 6, n, n, n) for (b, *_), n in zip(PROFILE, edges, strict=True)),
    }
    assert verdict == f"TensorRT-RTX 0 cannot build it: {expected}"


def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "MODULE", "no_such_module")
    assert rtx.try_build(tmp_path / "stage1.onnx", PROFILE) == rtx.MISSING
    assert rtx.MISSING.startswith("optional check not made")
    assert rtx.MISSING.endswith("to make it, pip install tensorrt-rtx and export again")


def _install(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{rtx.MODULE}.py").write_text(program)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
