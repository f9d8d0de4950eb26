"""GPUs as nvidia-smi lists them; a script takes its place."""

import pytest

from rwcnet_runtime.devices import Gpu, gpus

SCRIPT = """#!/bin/sh
[ "$1" = --query-gpu=index,uuid,name,compute_cap,driver_version ] || exit 6
"""


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (
            "echo '0, GPU-a1, NVIDIA L4, 8.9, 580.1'; echo '1, GPU-b2, NVIDIA H100, 9.0, 580.1'",
            [
                Gpu("NVIDIA L4", "8.9", "580.1"),
                Gpu("NVIDIA H100", "9.0", "580.1"),
            ],
        ),
        ("echo 'No devices were found'", []),
        ("echo '0, GPU-a1, NVIDIA L4, 8.9, 580.1'; exit 9", []),
        ("echo '0, GPU-a1, NVIDIA old, [N/A], 580.1'", []),
    ],
)
def test_what_the_driver_says(rest, expected, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(SCRIPT + rest)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == expected


@pytest.mark.parametrize(
    ("visible", "names"),
    [("1", ["B"]), ("1,0", ["B", "A"]), ("GPU-b", ["B"]), ("", []), ("-1", []), ("0,7,1", ["A"])],
)
def test_what_cuda_is_allowed_to_see(visible, names, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    rows = "echo '0, GPU-a1, A, 8.9, 580.1'; echo '1, GPU-b2, B, 9.0, 580.1'"
    program.write_text(SCRIPT + rows)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in gpus()] == names


def test_without_a_driver_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
