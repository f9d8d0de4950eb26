"""Ctrl-C and SIGTERM, wherever they come: one sentence, its exit code, and nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rwcnet_export import cli, folder
from rwcnet_export.checks import Findings
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.interrupts import uninterrupted

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
EXPORT = ("--stage", "all", "--preset", "tiny", "--random-weights", "-o")


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """As at a terminal, also where the tests were started in the background."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    assert {number: signal.getsignal(number) for number in usual} == usual
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def export(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Result, Path]]:
    """The command with its work replaced by a copy of the bundle, and by what a test does."""

    def call(work: Callable[[], None] = lambda: None) -> tuple[Result, Path]:
        def write(cascade: Any, place: Path, **about: Any) -> dict[str, Any]:
            shutil.copytree(exported, place, dirs_exist_ok=True)
            work()
            return {}

        target = tmp_path / "bundle"
        target.mkdir()
        (target / "manifest.json").write_text("of an older export")
        monkeypatch.setattr(cli, "write_bundle", write)
        monkeypatch.setattr(cli, "compare", lambda *arguments: Findings())
        return CliRunner().invoke(cli.app, [*EXPORT, str(target)]), target

    return call


def _assert_ended(result: Result, code: int, said: str) -> None:
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.splitlines()[-1] == f"Error: interrupted, and {said}"
    assert result.stderr.count("Error") == 1


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_in_the_work(export: Callable[..., Any], number: int, code: int) -> None:
    result, target = export(lambda: signal.raise_signal(number))
    _assert_ended(result, code, "nothing was written")
    assert [path.name for path in target.iterdir()] == ["manifest.json"]
    assert (target / "manifest.json").read_text() == "of an older export"


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("fails", [False, True])
def test_swallowed_by_a_library(
    export: Callable[..., Any], number: int, code: int, fails: bool
) -> None:
    """Which goes on, or fails later of what it lacks."""

    def swallow() -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if fails:
                raise AttributeError("half imported") from None

    result, target = export(swallow)
    _assert_ended(result, code, "nothing was written")
    assert [path.name for path in target.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_while_files_are_moved(
    export: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    replace = Path.replace

    def interrupted(path: Path, place: Path) -> Path:
        signal.raise_signal(number)
        return replace(path, place)

    monkeypatch.setattr(Path, "replace", interrupted)
    result, target = export()
    _assert_ended(result, code, f"{target} is written")
    assert result.stdout == ""
    Bundle.open(target)
    assert list(target.glob(".rwcnet-export-*")) == []


def test_while_the_folder_is_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rmdir = os.rmdir

    def interrupted(*arguments: Any, **named: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        rmdir(*arguments, **named)

    with pytest.raises(KeyboardInterrupt), folder.scratch_beside(tmp_path) as scratch:  # noqa: PT012
        (scratch / "fp32").mkdir()
        monkeypatch.setattr(os, "rmdir", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_held_back_until_the_end_of_a_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == [1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_real_process_stops_in_the_exporter(tmp_path: Path, number: int, code: int) -> None:
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from rwcnet_export.entry import export; export()"
    )
    target = tmp_path / "bundle"
    with subprocess.Popen(
        [sys.executable, "-c", start, *EXPORT, str(target)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "exporting stage 1\n"
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == code
    assert said.splitlines()[-1] == "Error: interrupted, and nothing was written"
    assert list(tmp_path.iterdir()) == []
