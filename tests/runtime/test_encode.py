import pytest

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats.encode import replaced


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "field.nii"
    path.write_text("old")

    def fail(error):
        with replaced(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(InputError, match=f"{path} could not be written \\(No space left"):
        fail(OSError(28, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert [(x.name, x.read_text()) for x in tmp_path.iterdir()] == [("field.nii", "old")]


def test_what_succeeds_takes_its_place(tmp_path):
    path = tmp_path / "field.nii"
    path.write_text("old")
    with replaced(path) as partial:
        partial.write_text("new")
    assert [(x.name, x.read_text()) for x in tmp_path.iterdir()] == [("field.nii", "new")]
