"""How large a volume may be: what its file can hold, and what fits into memory.

Headers are believed about nothing before this is asked, since readers allocate what they say.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.memory import memory_at_hand

# Deflate cannot do better (zlib's technical details): 258 bytes in two bits.
_DEFLATE = 1032
# Beside the voxels of the file, their float32 and the same on other axes are in memory.
_WORKING_BYTES = 8


def check_size(
    path: Path, n_voxels: int, voxel_bytes: int, *, before: int = 0, stored: int, packed: bool
) -> None:
    """Refuse a volume that its file cannot hold, or that does not fit into memory.

    Parameters
    ----------
    path : Path
        For the message.
    n_voxels, voxel_bytes : int
        What the header says, and bytes of one voxel with all its components.
    before : int
        Bytes before the voxels.
    stored : int
        Bytes of the file.
    packed : bool
        Whether it may be compressed, at best 1032 times.

    Raises
    ------
    InputError
        If the header says too much.
    """
    said = before + n_voxels * voxel_bytes
    room = stored * (_DEFLATE if packed else 1)
    if said > room:
        raise InputError(
            f"{path} is cut off or has a damaged header: it says {_readable(said)} of voxels where "
            f"there is room for {_readable(room)}; give an intact volume."
        )
    needed = said + n_voxels * _WORKING_BYTES
    free = memory_at_hand().free
    if free is not None and needed > free:
        raise InputError(
            f"{path} needs {_readable(needed)} of memory to be read where {_readable(free)} are "
            "free; crop it or resample it to larger voxels, or take a machine with more."
        )


@contextmanager
def within_memory(path: Path) -> Iterator[None]:
    """Say in a sentence that memory ran out while a file was read.

    Raises
    ------
    InputError
        Instead of MemoryError.
    """
    try:
        yield
    except MemoryError as error:
        raise InputError(
            f"{path} does not fit into memory; crop it or resample it to larger voxels, or take a "
            "machine with more."
        ) from error


def _readable(n_bytes: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes} bytes"
