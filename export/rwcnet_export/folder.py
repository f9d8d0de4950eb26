"""The folder a bundle goes to: nothing in it changes before all is written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rwcnet_export.precision import LOW_TYPES
from rwcnet_runtime.bundle import MANIFEST, Manifest
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.interrupts import uninterrupted


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Give an empty folder to write a bundle into, on the disk of `target`; it goes in the end.

    Raises
    ------
    InputError
        If files cannot be written there or, by `move`, to `target`, as where the disk is full.
    """
    place = target.absolute()
    near = next(folder for folder in (place, *place.parents) if folder.is_dir())
    try:
        # Should even this be interrupted, it goes when the process ends.
        scratch = tempfile.TemporaryDirectory(prefix=".rwcnet-export-", dir=near)
        try:
            yield Path(scratch.name)
        finally:
            with uninterrupted():
                scratch.cleanup()
    except OSError as error:
        raise InputError(
            f"cannot write {target} ({error.strerror or error}): make room or choose another "
            "folder with -o"
        ) from error


def move(source: Path, target: Path) -> None:
    """Move a bundle's files to `target`, which is made if it is not there.

    The manifest is last: should moving fail, the old one refuses the new files. Stages of an export
    before, in a precision that this one has not, are deleted.

    Raises
    ------
    InputError
        If a file or folder at `target` has the name of a folder or file of the bundle, with nothing
        moved.
    """
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for name in files:
        _require_free(target, name)
    for name in sorted(files, key=lambda name: name.name == MANIFEST):
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(place)
    known = Manifest.from_json((target / MANIFEST).read_bytes()).files
    for engine in LOW_TYPES:
        for path in target.glob(f"{engine}/stage*.onnx"):
            if path.relative_to(target).as_posix() not in known:
                path.unlink()


def _require_free(target: Path, name: Path) -> None:
    for part in (target / folder for folder in name.parents):
        if part.exists() and not part.is_dir():
            raise InputError(
                f"{part} is a file where the bundle has a folder: choose another folder with -o"
            )
    if (target / name).is_dir():
        raise InputError(
            f"{target / name} is a folder where the bundle has a file: choose another folder with "
            "-o"
        )
