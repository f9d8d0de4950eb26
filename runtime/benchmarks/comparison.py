"""Tables and the picture of what `compare.py` has measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

TITLES = {
    "zero": "start alone",
    "convexadam": "ConvexAdam",
    "convex": "its convex part",
    "adam": "its Adam part",
    "syn": "ANTs SyN",
}
_NETWORK = ("stage1", "stage2", "stage3", "chain", "network")


def network_seconds(parts: Row) -> float:
    """Return the time of the network alone."""
    return float(sum(parts.get(name, 0.0) for name in _NETWORK))


def methods(report: Row) -> list[Sequence[str]]:
    """Return one line a method."""
    size = " x ".join(map(str, report["size"]))
    head = (f"{report['case']}, {size}, {report['environment']['threads']} threads",)
    lines: list[Sequence[str]] = [
        (
            *head,
            "warm",
            "of it network",
            "refinement",
            "first, with start",
            "memory",
            "Dice",
            "folded",
        )
    ]
    for name, row in report["results"].items():
        title = TITLES.get(name, f"RWCNet, {name}")
        if "error" in row:
            lines.append((title, row["error"], "", "", "", "", "", ""))
            continue
        parts = row.get("parts", {})
        lines.append(
            (
                title,
                f"{row['seconds']:.1f} s" if "seconds" in row else "",
                f"{network_seconds(parts):.1f} s" if parts else "",
                f"{parts['refine']:.1f} s" if "refine" in parts else "",
                f"{row['cold_seconds']:.1f} s" if "cold_seconds" in row else "",
                f"{row['peak_memory_mb'] / 1000:.1f} GB" if "peak_memory_mb" in row else "",
                f"{row['dice_after']:.3f}",
                f"{row['folded_percent']:.3f} %",
            )
        )
    return lines


def growth(report: Row) -> list[Sequence[str]]:
    """Return one line a size or number of threads, with time and memory of each backend."""
    rows = report["growth"]
    names = list(dict.fromkeys(row["backend"] for row in rows))
    keys = list(dict.fromkeys((tuple(row["size"]), row["threads"]) for row in rows))
    lines: list[Sequence[str]] = [("voxels", "threads", *names)]
    for size, threads in keys:
        found = {
            row["backend"]: row
            for row in rows
            if (tuple(row["size"]), row["threads"]) == (size, threads)
        }
        cells = [
            "failed"
            if "error" in found[name]
            else f"{found[name]['seconds']:.1f} s, {found[name]['peak_memory_mb'] / 1000:.1f} GB"
            for name in names
        ]
        lines.append((" x ".join(map(str, size)), str(threads), *cells))
    return lines


def arithmetic(report: Row) -> list[Sequence[str]]:
    """Return one line a backend: how near the stages are to what the machine does at most."""
    about = report["arithmetic"]
    flop = sum(about["flop"].values())
    lines: list[Sequence[str]] = [
        ("backend", "convolution at most", f"floor of {flop / 1e12:.2f} TFLOP", "stages", "share")
    ]
    for name, rate in about["peak_flops"].items():
        parts = report["results"][name]["parts"]
        seconds = sum(parts[f"stage{n}"] for n in (1, 2, 3))
        floor = flop / rate
        lines.append(
            (
                name,
                f"{rate / 1e9:.0f} GFLOP/s",
                f"{floor:.1f} s",
                f"{seconds:.1f} s",
                f"{100 * floor / seconds:.0f} %",
            )
        )
    return lines


def draw(report: Row, path: Path) -> None:
    """Draw accuracy over time, a point a method."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, row in report["results"].items():
        if "seconds" not in row:
            continue
        peer = name in TITLES
        axes.plot(
            row["seconds"], row["dice_after"], "s" if peer else "o", color="C1" if peer else "C0"
        )
        axes.annotate(
            TITLES.get(name, name),
            (row["seconds"], row["dice_after"]),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.set_xlabel(f"seconds a pair, warm, {report['environment']['threads']} CPU threads")
    axes.set_ylabel("mean Dice")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def redraw(source: Path, path: Path) -> None:
    """Draw the picture of a result."""
    draw(json.loads(source.read_text()), path)
