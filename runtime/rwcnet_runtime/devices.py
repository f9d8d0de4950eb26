"""What there is to compute with: CPU cores, and NVIDIA GPUs as their driver tells of them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

_QUESTION = (
    "nvidia-smi",
    "--query-gpu=index,uuid,name,compute_cap,driver_version",
    "--format=csv,noheader",
)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes
    ----------
    name
        As the driver calls it.
    sm
        Compute capability, such as 8.9.
    driver
        Version of the driver.
    """

    name: str
    sm: str
    driver: str


def thread_count() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[Gpu]:
    """Return the GPUs that CUDA sees, in its order if CUDA_DEVICE_ORDER is PCI_BUS_ID.

    They are asked of ``nvidia-smi``, and no CUDA library is loaded; there are none where it is
    missing or fails, and those are left out that CUDA_VISIBLE_DEVICES does not name.
    """
    try:
        answer = subprocess.run(_QUESTION, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines()]
    found = [row for row in rows if len(row) == 5 and re.fullmatch(r"\d+\.\d+", row[3])]
    return [Gpu(*row[2:]) for row in _visible(found)]


def _visible(rows: list[list[str]]) -> Iterator[list[str]]:
    """Yield the rows that CUDA_VISIBLE_DEVICES names, in its order, up to a name of none."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        yield from rows
        return
    for name in map(str.strip, wanted.split(",")):
        named = [row for row in rows if name and (row[0] == name or row[1].startswith(name))]
        if not named:
            return
        yield named[0]
