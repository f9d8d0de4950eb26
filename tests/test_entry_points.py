"""The commands of pyproject.toml from their first line on, each in a process of its own."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rwcnet_runtime

SCRIPTS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "scripts"
]
# A machine without the extra, for an interpreter.
WITHOUT = "import sys; sys.modules |= dict.fromkeys({names!r})\n"
# Ctrl-C while the first of the large packages is sought, which swallows what Python raises then.
INTERRUPTED = """
import signal, sys

# As at a terminal, also where the tests were started in the background and ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Finder:
    def find_spec(self, name, path, target=None):
        if name in ("numpy", "onnx", "torch", "typer"):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise AttributeError(name) from None

sys.meta_path.insert(0, Finder())
"""


def start(script, before, *arguments):
    module, _, function = SCRIPTS[script].partition(":")
    code = f"{before}\nfrom {module} import {function}\n{function}()\n"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("script", "missing", "said"),
    [
        ("rwcnet-train", ["torch"], "rwcnet-train needs PyTorch, which is not installed"),
        ("rwcnet-train", ["pydantic"], "rwcnet-train needs pydantic, which is not installed"),
        ("rwcnet-export", ["onnx", "torch"], "rwcnet-export needs onnx, which is not installed"),
        ("rwcnet-export", ["torch"], "rwcnet-export needs PyTorch, which is not installed"),
    ],
)
def test_a_missing_extra_is_one_sentence(script, missing, said):
    found = start(script, WITHOUT.format(names=missing), "--help")
    extra = script.removeprefix("rwcnet-")
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr == (
        f'Error: {said}: pip install "rwcnet[{extra}]", or in a clone pip install ".[{extra}]"\n'
    )


def test_a_missing_module_of_ours_is_no_missing_extra():
    found = start("rwcnet-train", WITHOUT.format(names=["rwcnet_ref.training.cli"]))
    assert "ModuleNotFoundError" in found.stderr
    assert "pip install" not in found.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_during_the_imports_ends_quietly(script):
    found = start(script, INTERRUPTED, "--help")
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_command_starts(script):
    found = start(script, "", "--help")
    assert found.returncode == 0, found.stderr
    assert "Usage:" in found.stdout


def test_the_names_of_the_runtime_are_there():
    for name in rwcnet_runtime.__all__:
        assert getattr(rwcnet_runtime, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        rwcnet_runtime.absent  # noqa: B018
