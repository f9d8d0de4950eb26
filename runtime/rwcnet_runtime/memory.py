"""How much memory there is, how much a registration takes, and giving it back."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rwcnet_runtime.patches import VOXELS_AT_ONCE

# What the process holds before an image is read: interpreter, libraries, graphs.
_PROGRAM = 600_000_000
# Bytes for each voxel of the images as read; of the fixed one for the warped image and the
# displacement, and for the latter once more while it is written.
_IMAGE, _OUTPUT = 4, 4 * (1 + 3 + 3)
# What a voxel of patches of the full resolution takes more than one of the image.
_PATCHES = 2
# The system and others need some of the machine.
_OURS = 0.9
_ROOT = Path("/")


@dataclass(frozen=True)
class Memory:
    """Memory of this machine, or of the container the process runs in, in bytes.

    Attributes
    ----------
    limit
        What the process could have if nothing else ran; None where the system does not say.
    free
        What it can have now, beside what it has; None where the system does not say.
    """

    limit: int | None
    free: int | None

    @property
    def usable(self) -> float:
        """What a registration may take; depends on the machine, and not on what else runs."""
        return float("inf") if self.limit is None else _OURS * self.limit


def bytes_needed(
    fixed: int, moving: int, bytes_per_voxel: int, working: int, *, program: bool = True
) -> int:
    """Estimate what a registration takes at its peak, the program and its images included.

    Parameters
    ----------
    fixed, moving
        Voxels of the images.
    bytes_per_voxel
        Of the working grid, while the network runs whole and refines.
    working
        Voxels of the working grid.
    program
        Whether to count what is there once the images are read.
    """
    held = _PROGRAM + _IMAGE * (fixed + moving) if program else 0
    network = max(working, _PATCHES * min(working, VOXELS_AT_ONCE)) * bytes_per_voxel
    return held + max(round(network), _OUTPUT * fixed)


def memory_at_hand(root: Path = _ROOT) -> Memory:
    """Ask Linux, and the control groups (v1 or v2) that the process is in; macOS tells its size.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.
    """
    try:
        found = dict(re.findall(r"(\w+):\s*(\d+) kB", (root / "proc/meminfo").read_text()))
    except OSError:
        names = getattr(os, "sysconf_names", {})
        known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(names)
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else None
        return Memory(size, None)
    limits = [1024 * int(found["MemTotal"])]
    free = []
    if "MemAvailable" in found:  # since Linux 3.14
        free.append(1024 * (int(found["MemAvailable"]) + int(found.get("SwapFree", 0))))
    for limit, left in _groups(root):
        limits.append(limit)
        free.append(left)
    return Memory(min(limits), min(free, default=None))


def give_back() -> None:
    """Have glibc hand what is free to the system: it keeps up to 0.7 GiB otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:  # musl and macOS have none
        trim(0)


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and rest of each control group with one, from the process's own upwards."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers == "":  # v2
            base, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
            cached = "inactive_file"
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            cached = "total_inactive_file"
        else:
            continue
        inner = base / place.lstrip("/")
        # Inside a container the place may be the host's, and the files lie at the top.
        for folder in (inner, *(p for p in inner.parents if p.is_relative_to(base))):
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                statistics = (folder / "memory.stat").read_text()
            except (OSError, ValueError):  # not there, or the limit is "max"
                continue
            kept = re.search(rf"^{cached} (\d+)$", statistics, re.MULTILINE)
            yield limit, limit - used + (int(kept[1]) if kept else 0)
