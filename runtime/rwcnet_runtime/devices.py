"""What there is to compute with: CPU cores, and NVIDIA GPUs as their driver tells of them."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

_QUESTION = ("nvidia-smi", "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader")


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
    """Return the GPUs in the order of ``nvidia-smi``; none where it is missing or fails.

    No CUDA library is loaded for that.
    """
    try:
        answer = subprocess.run(_QUESTION, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines()]
    return [Gpu(*row) for row in rows if len(row) == 3]
