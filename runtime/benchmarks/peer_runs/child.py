"""What the scripts that run one method share: the job they are given, its time and its memory.

Only the standard library is used: a peer's environment holds the peer and nothing of ours.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")


def read_job() -> dict[str, Any]:
    """Read the job file named on the command line and keep to its number of cores.

    Call it before a library is imported that counts cores.
    """
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    return job


def timed(job: dict[str, Any], work: Callable[[], Result]) -> tuple[Result, dict[str, Any]]:
    """Return what `work` returns, and what it cost, once or as often as the job says.

    ``seconds`` and ``cpu_seconds`` (of all cores) are medians; ``cold_seconds`` is from the start
    of this process, interpreter and imports included, to the first result. Threads that wait for
    each other by spinning count too: beside other work all are too long.
    """
    seconds, cpu_seconds, first = [], [], 0.0
    for _ in range(job["repeats"]):
        start, cpu_start = time.perf_counter(), time.process_time()
        result = work()
        seconds.append(round(time.perf_counter() - start, 3))
        cpu_seconds.append(round(time.process_time() - cpu_start, 3))
        first = first or time.time() - job["started"]
    return result, {
        "seconds": statistics.median(seconds),
        "cpu_seconds": statistics.median(cpu_seconds),
        "seconds_each": seconds,
        "cold_seconds": round(first, 3),
    }


def write_outcome(
    job: dict[str, Any], spent: dict[str, Any], packages: list[str], **more: Any
) -> None:
    """Write what the parent is to know, with the peak of this program's memory so far.

    The peak is of resident memory (VmHWM). `ru_maxrss` is no use here: it starts at the size of
    the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    outcome = {
        **spent,
        "peak_memory_mb": round(peak_kib * 1024 / 1e6, 1),
        "versions": {name: version(name) for name in packages},
        **more,
    }
    Path(job["outcome"]).write_text(json.dumps(outcome))
