"""Write the files of one result into a folder: all or none, and never over an input."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.interrupts import uninterrupted


def check_output(
    folder: Path,
    files: Sequence[str],
    *inputs: Path,
    option: str = "-o",
    overwrite: bool = True,
) -> None:
    """Refuse a folder that results cannot go to; better before the work than after it.

    Parameters
    ----------
    folder
        Need not be there.
    files
        Names that the results will have in it.
    inputs
        What they are made from.
    option
        What the user gives the folder with, for messages.
    overwrite
        Whether results may replace what has their names.

    Raises
    ------
    InputError
        If the folder is a file or cannot be made or written to, a folder has the name of a result,
        one of the inputs would be replaced by a result, or anything would that may not.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{folder} is a file where a folder is needed: choose another with {option}"
        )
    place = folder.absolute()
    nearest = next(path for path in (place, *place.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"cannot write to {nearest}: choose another with {option}")
    results = [folder / file for file in files]
    for path in results:
        if path.is_dir():
            raise InputError(f"{path} is a folder: choose another with {option}")
    for path in inputs:
        if path.resolve() in {result.resolve() for result in results}:
            raise InputError(f"{path} would be replaced by a result: choose another with {option}")
    there = [path.name for path in results if path.exists() or path.is_symlink()]
    if there and not overwrite:
        raise InputError(
            f"{folder} holds {', '.join(there)} already: give --overwrite to replace results, "
            f"or choose another with {option}"
        )


@contextmanager
def all_or_none(
    folder: Path, files: Sequence[str], option: str = "-o", outdated: Sequence[str] = ()
) -> Iterator[Path]:
    """Give an empty folder to write into; what lies there in the end goes to `folder` at once.

    Parameters
    ----------
    folder
        Made if it is not there; files of these names in it are replaced.
    files
        Names of what is written. The last is the report about the others.
    option
        What the user gives the folder with, for messages.
    outdated
        Names of earlier results, removed where none of `files` replaces them.

    Yields
    ------
    Path
        On the disk of `folder`. If the block fails, `folder` keeps what it had.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    place = folder.absolute()
    near = next(path for path in (place, *place.parents) if path.is_dir())
    try:
        # Should even its removal be interrupted, it goes when the process ends.
        scratch = tempfile.TemporaryDirectory(prefix=".rwcnet-", dir=near)
        try:
            written = Path(scratch.name)
            yield written
            with uninterrupted():
                folder.mkdir(parents=True, exist_ok=True)
                # The old report goes first and the new one comes last: where there is one, it is
                # about the files beside it.
                (folder / files[-1]).unlink(missing_ok=True)
                for file in set(outdated) - set(files):
                    (folder / file).unlink(missing_ok=True)
                for file in files:
                    (written / file).replace(folder / file)
        except InputError as error:  # a writer names where it wrote, which says nothing to the user
            raise InputError(str(error).replace(scratch.name, str(folder))) from error
        finally:
            with uninterrupted():
                scratch.cleanup()
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror or error}): make room or choose another "
            f"with {option}"
        ) from error
