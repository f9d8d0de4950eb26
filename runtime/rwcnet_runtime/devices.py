"""Which NVIDIA GPU there is, as its driver says: no CUDA library is loaded for that."""

from __future__ import annotations

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


def gpus() -> list[Gpu]:
    """Return the GPUs in the order of ``nvidia-smi``; none where it is missing or fails."""
    try:
        answer = subprocess.run(_QUESTION, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines()]
    return [Gpu(*row) for row in rows if len(row) == 3]
