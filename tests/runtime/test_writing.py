import os

import pytest

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.writing import all_or_none, check_output

FILES = ("image", "report")


def write(folder, files=FILES):
    with all_or_none(folder, FILES) as written:
        for name in files:
            (written / name).write_text(f"new {name}")


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_results_replace_no_input_and_no_file(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="out is a file where a folder is needed"):
        check_output(tmp_path / "out", FILES)
    with pytest.raises(InputError, match=r"cannot write to .*out: choose another"):
        check_output(tmp_path / "out" / "below", FILES)
    (tmp_path / "link").symlink_to(tmp_path / "image")
    for path in (tmp_path / "image", tmp_path / "link"):
        with pytest.raises(InputError, match=f"{path} would be replaced by a result"):
            check_output(tmp_path, FILES, tmp_path / "other", path)
    (tmp_path / "report").mkdir()
    with pytest.raises(InputError, match="report is a folder: choose another"):
        check_output(tmp_path, FILES)
    check_output(tmp_path / "new" / "folder", FILES, tmp_path / "image")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=f"cannot write to {tmp_path}: choose another"):
        check_output(tmp_path / "new" / "folder", FILES)


def test_files_are_replaced_and_others_are_left(tmp_path):
    folder = tmp_path / "new" / "folder"
    write(folder)
    (folder / "image").write_text("old")
    (folder / "other").write_text("other")
    write(folder)
    assert contents(folder) == {
        "image": "new image", "report": "new report", "other": "other"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            OSError(28, "No space left on device"),
            InputError,
            r"cannot .*\(No space left on device\)",
        ),
        (TypeError("no text"), TypeError, "no text"),
    ],
)
def test_what_fails_leaves_what_was_there(tmp_path, error, kind, says):
    def fail():
        with all_or_none(tmp_path, FILES) as written:
            (written / "image").write_text("new image")
            raise error

    (tmp_path / "report").write_text("old")
    with pytest.raises(kind, match=says):
        fail()
    assert contents(tmp_path) == {"report": "old"}


def test_a_report_is_about_the_files_beside_it(tmp_path):
    """A move that fails half-way leaves no report, as the old one says nothing of the new image."""
    (tmp_path / "report").write_text("old")
    with pytest.raises(InputError, match="cannot write to"):
        write(tmp_path, files=["image"])
    assert contents(tmp_path) == {"image": "new image"}


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"cannot write to .*out"):
        write(tmp_path / "out")
