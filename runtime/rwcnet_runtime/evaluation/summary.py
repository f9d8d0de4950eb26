"""Means over cases with their uncertainty, and the files they are written to."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwcnet_runtime.devices import thread_count
from rwcnet_runtime.evaluation.measures import Row
from rwcnet_runtime.versions import versions
from rwcnet_runtime.writing import all_or_none

CASES, SUMMARY, TABLE = "cases.csv", "summary.json", "summary.md"
OUTPUTS = (CASES, TABLE, SUMMARY)

# Measure, what it is called in the table, digits after the point.
_MEASURES = {
    "dice_before": ("Dice before", 4),
    "dice_after": ("Dice after", 4),
    "hd95_before": ("HD95 before, voxels", 2),
    "hd95_after": ("HD95 after, voxels", 2),
    "tre_mm_before": ("TRE before, mm", 2),
    "tre_mm_after": ("TRE after, mm", 2),
    "sd_log_jacobian": ("SDlogJ", 4),
    "folded_percent": ("folded voxels, %", 4),
    "ndv_percent": ("non-diffeomorphic volume, %", 4),
    "seconds": ("time, s", 2),
    "cpu_seconds": ("time of all cores, s", 2),
    "peak_memory_mb": ("peak memory, MB", 0),
}
_COLUMNS = ("case", *_MEASURES, "landmarks", "landmarks_outside", "landmarks_unmatched", "error")
# Learn2Reg's "30" of its four measures: this quantile over the cases.
_LEARN2REG_30 = {"dice_after": 0.3, "hd95_after": 0.3, "tre_mm_after": 0.7, "sd_log_jacobian": 0.7}
_RESAMPLES, _SEED = 10_000, 0


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Average what was measured over the cases.

    Parameters
    ----------
    rows
        As `evaluate_bundle` and `evaluate_fields` return them.

    Returns
    -------
    dict
        ``cases`` and ``failed``, how many; ``measures``: by name ``mean``, ``interval`` (its 95 %
        percentile bootstrap interval over the cases, 10,000 resamples with a fixed seed; None for
        a single case), ``cases`` (how many have the measure) and, for Learn2Reg's measures,
        ``learn2reg_30``: the quantile 0.3 of Dice and HD95 and 0.7 of TRE and SDlogJ, which is,
        but for HD95, where the worst 30 % of the cases begin.
    """
    measures: dict[str, Any] = {}
    for name in _MEASURES:
        found = np.array([row.get(name, math.nan) for row in rows], float)
        values = found[~np.isnan(found)]
        if not values.size:
            continue
        measures[name] = {
            "mean": float(values.mean()),
            "interval": _bootstrap_interval(values),
            "cases": values.size,
        }
        if name in _LEARN2REG_30:
            measures[name]["learn2reg_30"] = _quantile(values, _LEARN2REG_30[name])
    failed = sum("error" in row for row in rows)
    return {"cases": len(rows) - failed, "failed": failed, "measures": measures}


def environment() -> dict[str, Any]:
    """Return what figures of time, memory and accuracy depend on."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": thread_count(),
        "versions": versions(["onnxruntime"]),
    }


def jsonable(value: Any, digits: int | None = None) -> Any:
    """Replace what JSON has no number for: NaN by null, infinity by the text "inf".

    Parameters
    ----------
    value
        Dicts, lists and plain values.
    digits
        After the point, of floats; all of them by default.
    """
    match value:
        case dict():
            return {str(key): jsonable(item, digits) for key, item in value.items()}
        case list() | tuple():
            return [jsonable(item, digits) for item in value]
        case float() if math.isnan(value):
            return None
        case float() if math.isinf(value):
            return str(value)
        case float() if digits is not None:
            return round(value, digits)
    return value


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of means, and the failures below it."""
    summary = summarise(rows)
    lines = [
        "| measure | mean | 95 % interval | Learn2Reg's 30 | cases |",
        "|---|---|---|---|---|",
    ]
    for name, found in summary["measures"].items():
        title, digits = _MEASURES[name]
        figures = [found["mean"], *(found["interval"] or ()), found.get("learn2reg_30")]
        mean, *interval, worst = ("" if x is None else f"{x:.{digits}f}" for x in figures)
        lines.append(f"| {title} | {mean} | {' to '.join(interval)} | {worst} | {found['cases']} |")
    lines += ["", f"Cases: {summary['cases']}, failed: {summary['failed']}."]
    lines += [f"- {row['case']}: {row['error']}" for row in rows if "error" in row]
    return "\n".join(lines) + "\n"


def write_results(folder: Path, rows: Sequence[Row], about: dict[str, Any]) -> list[Path]:
    """Write ``cases.csv``, ``summary.md`` and ``summary.json``, all or none.

    Parameters
    ----------
    folder
        Made if it is not there; files of these names in it are replaced.
    rows
        As `evaluate_bundle` and `evaluate_fields` return them.
    about
        What was evaluated; goes into the JSON beside the environment.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """
    report = {**about, "environment": environment(), "summary": summarise(rows), "cases": rows}
    with all_or_none(folder, OUTPUTS) as written:
        with (written / CASES).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        (written / TABLE).write_text(markdown(rows), encoding="utf-8")
        text = json.dumps(jsonable(report), indent=2, allow_nan=False)
        (written / SUMMARY).write_text(text + "\n", encoding="utf-8")
    return [folder / output for output in OUTPUTS]


def _bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Percentile interval of the mean, from samples of the cases drawn with replacement."""
    if values.size < 2:
        return None
    random = np.random.default_rng(_SEED)
    means = values[random.integers(values.size, size=(_RESAMPLES, values.size))].mean(axis=1)
    return _quantile(means, 0.025), _quantile(means, 0.975)


def _quantile(values: NDArray[np.float64], share: float) -> float:
    # Between infinite values (HD95 of a label that left the image) nothing can be interpolated.
    if np.isfinite(values).all():
        return float(np.quantile(values, share))
    return float(np.quantile(values, share, method="nearest"))


def _processor() -> str:
    """Return the name of the processor, as exactly as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
