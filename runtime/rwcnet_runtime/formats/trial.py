"""Read a transform file in a process of its own first, since damaged ones end the process.

ITK reads beyond the parameters of a transform that has too few, and allocates what HDF5 speaks of.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rwcnet_runtime.memory import memory_at_hand

_TRIAL = """
import sys

import SimpleITK

path, memory = sys.argv[1:]
if memory != "None":
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
SimpleITK.ReadTransform(path)
"""
_SECONDS = 120
# Python and ITK take address space, which is no memory yet, before they read.
_LEAST = 2 << 30


def can_be_read(path: Path) -> bool:
    """Whether ITK reads a transform file in two minutes and free memory, or 2 GiB."""
    free = memory_at_hand().free
    most = None if free is None else max(free, _LEAST)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL, str(path), str(most)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
