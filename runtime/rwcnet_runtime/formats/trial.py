"""Read a transform file in a process of its own first, since damaged ones end the process.

ITK reads beyond the parameters of a transform that has too few, and allocates what HDF5 speaks of.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rwcnet_runtime.formats.limits import available_memory

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


def can_be_read(path: Path) -> bool:
    """Whether ITK reads a transform file to its end, within free memory and two minutes."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL, str(path), str(available_memory())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
