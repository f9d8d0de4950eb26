"""GPUs as nvidia-smi lists them; a script takes its place."""

import pytest

from rwcnet_runtime.devices import Gpu, gpus

SCRIPT = """#!/bin/sh
[ "$1" = --query-gpu=name,compute_cap,driver_version ] || exit 6
"""


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (
            "echo 'NVIDIA L4, 8.9, 580.65.06'; echo 'NVIDIA H100 80GB HBM3, 9.0, 580.65.06'",
            [
                Gpu("NVIDIA L4", "8.9", "580.65.06"),
                Gpu("NVIDIA H100 80GB HBM3", "9.0", "580.65.06"),
            ],
        ),
        ("echo 'No devices were found'", []),
        ("echo 'NVIDIA L4, 8.9, 580.65.06'; exit 9", []),
    ],
)
def test_what_the_driver_says(rest, expected, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(SCRIPT + rest)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpus() == expected


def test_without_a_driver_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
