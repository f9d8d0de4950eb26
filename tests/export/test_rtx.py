"""Whatever TensorRT-RTX does in its child process becomes one line here."""

from pathlib import Path

import pytest

from rwcnet_export import rtx

PROFILE = ((1, 8, 8, 8), (1, 16, 16, 16), (2, 32, 32, 32))


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
    (tmp_path / f"{rtx.MODULE}.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert rtx.try_build(tmp_path / "stage1.onnx", PROFILE, limit_s=1) == verdict


def test_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "MODULE", "no_such_module")
    assert rtx.try_build(tmp_path / "stage1.onnx", PROFILE) == rtx.MISSING
