"""Write the figures of the newest results into the READMEs, between their markers, and a picture.

python runtime/benchmarks/readme.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import comparison
import numpy as np

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent.parent

# Column of a method in the table of peers.
METHODS = {
    "zero": "start",
    "refined": "RWCNet `base`",
    "rwcnet": "without refinement",
    "convexadam": "ConvexAdam",
    "convex": "its convex part",
    "adam": "its Adam part",
    "syn": "ANTs SyN",
}
DATA_SETS = {
    "brain_trt": "brain T1, two people",
    "hippocampus_mr": "hippocampus MR crops, two people",
    "brain_templates": "Colin27 to MNI ICBM152 2009c",
    "lung_ct": "lung CT, two visits",
    "liver_4dmri": "liver MR, breathing: 2 pairs, 2 sets of landmarks each",
    "spine_t1_t2": "cervical spine, T1 to T2",
}
# Labels of FreeSurfer below this are not cortex.
CORTEX = 1000

Row = dict[str, Any]


def mean_of(cases: list[Row], name: str) -> float:
    """Return the mean of a measure over the cases that have it."""
    return float(np.mean([case[name] for case in cases if case.get(name) is not None]))


def subcortical_dice(cases: list[Row]) -> float:
    """Return the mean Dice over labels that are not cortex, of the cases' means."""
    means = []
    for case in cases:
        found = [
            values["dice_after"]
            for label, values in case["labels"].items()
            if int(label) < CORTEX and values["dice_after"] is not None
        ]
        means.append(np.mean(found))
    return float(np.mean(means))


def peers(report: Row) -> list[Sequence[str]]:
    """Return a line for each measure of each data set, with a column for each method."""
    lines: list[Sequence[str]] = [("data (cases)", "measure", *METHODS.values())]
    for name, title in DATA_SETS.items():
        results = report["results"].get(name)
        if results is None:
            continue
        everywhere = set.intersection(
            *(
                {row["case"] for row in found["cases"] if "error" not in row}
                for found in results.values()
            )
        )
        if not everywhere:
            continue
        # A method that fails on a hard case must not look better for it.
        cases = {
            method: [row for row in results[method]["cases"] if row["case"] in everywhere]
            for method in METHODS
            if method in results
        }
        any_row = next(iter(cases.values()))[0]
        title = f"{title} ({len(everywhere)})"
        measures: list[tuple[str, Callable[[list[Row]], float], str]] = []
        if "dice_after" in any_row:
            measures.append(("Dice", lambda rows: mean_of(rows, "dice_after"), ".3f"))
        if name == "brain_trt":
            measures.append(("Dice, not cortex", subcortical_dice, ".3f"))
        if "tre_mm_after" in any_row:
            measures.append(("TRE, mm", lambda rows: mean_of(rows, "tre_mm_after"), ".2f"))
        measures.append(("folded voxels, %", lambda rows: mean_of(rows, "folded_percent"), ".3f"))
        for measure, value, digits in measures:
            cells = [
                format(value(cases[method]), digits) if method in cases else ""
                for method in METHODS
            ]
            lines.append((title, measure, *cells))
            title = ""
    return lines


def refinement(report: Row) -> list[Sequence[str]]:
    """Return a line for each measure of each data set, with a column for each kind of features."""
    kinds = {"none": "not refined", "mind": "`mind`", "learned": "`learned`", "both": "`both`"}
    lines: list[Sequence[str]] = [("data (cases)", "measure", *kinds.values())]
    measures = {
        "dice_after": ("Dice", ".3f"),
        "tre_mm_after": ("TRE, mm", ".2f"),
        "folded_percent": ("folded voxels, %", ".3f"),
        "seconds": ("time, s", ".1f"),
    }
    for name, title in DATA_SETS.items():
        results = report["results"].get(name)
        if results is None:
            continue
        cases = {kind: results[kind]["cases"] for kind in kinds}
        title = f"{title} ({len(cases['none'])})"
        for measure, (head, digits) in measures.items():
            if not any(measure in row for row in cases["mind"]):
                continue
            cells = [
                format(mean_of(rows, measure), digits) if measure in rows[0] else ""
                for rows in cases.values()
            ]
            lines.append((title, head, *cells))
            title = ""
    return lines


def refinement_steps(report: Row) -> list[Sequence[str]]:
    """Return a line for each number of threads."""
    size = " x ".join(map(str, report["size"]))
    return [
        ("threads", f"a step at {size}", "ConvexAdam's", "times as fast"),
        *(
            (
                threads,
                f"{step['rwcnet']['seconds']:.2f} s",
                f"{step['convexadam']['seconds']:.2f} s",
                f"{step['convexadam']['seconds'] / step['rwcnet']['seconds']:.1f}",
            )
            for threads, step in report["steps"].items()
        ),
    ]


def known_displacement(report: Row) -> list[Sequence[str]]:
    """Return one line an image and change of contrast."""
    return [
        ("image, known deformation", "error before", "after", "folded voxels"),
        *(
            (
                name,
                f"{values['error_mm_before']:.2f} mm",
                f"{values['error_mm_after']:.2f} mm",
                f"{values['folded_percent']:.3f} %",
            )
            for name, values in report["results"].items()
        ),
    ]


def ablations(report: Row) -> list[Sequence[str]]:
    """Return one line a variant."""
    results, lost = report["results"], report["share_of_gain_lost"]
    small, large = results["small"], results["large"]
    lines: list[Sequence[str]] = [
        (
            "variant",
            f"small motion: Dice (start {small['full']['dice_start']:.3f})",
            "gain lost",
            f"large motion: error, voxels (start {large['full']['error_start']:.2f})",
            "gain lost",
        )
    ]
    for name in small:
        shares = (
            f"{100 * lost[motion][name]:.0f} %" if name in lost[motion] else ""
            for motion in ("small", "large")
        )
        of_small, of_large = shares
        lines.append(
            (
                name,
                f"{small[name]['dice']:.3f}",
                of_small,
                f"{large[name]['error']:.2f}",
                of_large,
            )
        )
    return lines


def precisions(report: Row) -> list[Sequence[str]]:
    """Return one line a pair and engine."""
    lines: list[Sequence[str]] = [
        ("pair", "engine", "mean", "99 %", "largest", "accuracy in torch", "its change")
    ]
    measures = {
        "dice_after": ("Dice {:.4f}", "{:+.4f}"),
        "tre_mm_after": ("TRE {:.3f} mm", "{:+.3f} mm"),
    }
    for rows in report["results"].values():
        for row in rows:
            size = " x ".join(map(str, row["size"]))
            title = f"{row['case']}, {size}, flow {row['flow_vox']:.2f}"
            distances = (f"{row[name]:.2g}" for name in ("mean_vox", "p99_vox", "max_vox"))
            absolute, change = [], []
            for name, (torch, found) in row["accuracy"].items():
                absolute.append(measures[name][0].format(torch))
                change.append(measures[name][1].format(found - torch))
            truth = (", ".join(absolute), ", ".join(change))
            lines.append((title, row["engine"], *distances, *truth))
    return lines


def precision_nodes(report: Row) -> list[Sequence[str]]:
    """Return one line an engine and stage."""
    return [
        ("engine", "stage", "nodes in the low type", "in fp32", "casts"),
        *(
            (engine, n, str(stage["low"]), str(stage["full"]), str(stage["casts"]))
            for engine, stages in report["nodes"].items()
            for n, stage in stages.items()
        ),
    ]


def pipeline(report: Row) -> list[Sequence[str]]:
    """Return one line a setting of ONNX Runtime and number of threads."""
    size = " x ".join(map(str, report["size"]))
    return [
        (f"{size} voxels", "threads", "first run", "second", "memory", "from the runtime, voxels"),
        *(
            (
                row["what"],
                str(row["threads"]),
                *(f"{seconds:.1f} s" for seconds in row["seconds"]),
                f"{row['peak_mib'][-1] / 1024:.1f} GiB",
                f"{row['largest_difference_vox']:.1g}" if "largest_difference_vox" in row else "",
            )
            for row in report["results"].values()
        ),
    ]


def graph_passes(report: Row) -> list[Sequence[str]]:
    """Return one line a pass, over all graphs of the bundle."""
    lines: list[Sequence[str]] = [("pass", "fired", "found")]
    for each in zip(*report["passes"].values(), strict=True):
        fired, found, among = (sum(row[n] for row in each) for n in ("fired", "found", "among"))
        first = each[0]
        lines.append((first["name"], str(fired), f"{found} of {among} {first['wanted']}"))
    return lines


def folds(report: Row) -> list[Sequence[str]]:
    """Return a line for each way on each data set: accuracy and three measures of folding."""
    lines: list[Sequence[str]] = [
        ("data (cases)", "", "accuracy", "folded voxels", "in one-sided differences", "NDV")
    ]
    for name, title in DATA_SETS.items():
        for way, found in report["results"].get(name, {}).items():
            cases = found["cases"]
            dice = "dice_after" in cases[0]
            accuracy = mean_of(cases, "dice_after" if dice else "tre_mm_after")
            one_sided = 100 * sum(row["folded_one_sided"] / row["voxels"] for row in cases)
            lines.append(
                (
                    f"{title} ({len(cases)})" if way == "plain" else "",
                    way,
                    f"Dice {accuracy:.3f}" if dice else f"TRE {accuracy:.2f} mm",
                    f"{mean_of(cases, 'folded_percent'):.3f} %",
                    f"{one_sided / len(cases):.3f} %",
                    f"{mean_of(cases, 'ndv_percent'):.4f} %",
                )
            )
    return lines


def alignment(report: Row) -> list[Sequence[str]]:
    """Return a line a data set: by the headers, from the stored starts, as `auto` aligns."""
    lines: list[Sequence[str]] = [("data (cases)", "measure", "headers", "stored start", "`auto`")]
    for name, title in DATA_SETS.items():
        if cases := report["cases"].get(name):
            dice = cases[0]["measure"] == "dice"
            starts = (mean_of(cases, start) for start in ("headers", "stored", "ours"))
            cells = (format(value, ".3f" if dice else ".1f") for value in starts)
            lines.append((f"{title} ({len(cases)})", "Dice" if dice else "TRE, mm", *cells))
    moved = report["recovered"]
    lines.append(
        (
            f"brain, moved by up to 25° and 40 mm ({len(moved)})",
            "error, mm",
            f"{mean_of(moved, 'mean_mm_before'):.1f}",
            "",
            f"{mean_of(moved, 'mean_mm'):.2f}, at most {max(row['mean_mm'] for row in moved):.2f}",
        )
    )
    return lines


def verdicts(report: Row) -> list[Sequence[str]]:
    """Return one line a kind of pair."""
    levels = ("ok", "check", "failed", "refused")
    lines: list[Sequence[str]] = [
        ("pairs", *levels, "correlation after", "squared local correlation after")
    ]
    kinds = dict.fromkeys(row["kind"] for row in report["results"])
    for kind in sorted(kinds, key=lambda name: (not name.startswith("fine"), name)):
        rows = [row for row in report["results"] if row["kind"] == kind]
        found = [row["verdict"]["level"] for row in rows]
        counts = [str(found.count(level) or "") for level in levels]
        ranges = []
        for name in ("correlation", "local_correlation"):
            values = [
                row["findings"]["similarity"][name]["after"] for row in rows if "findings" in row
            ]
            ranges.append(
                f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
            )
        lines.append((f"{kind} ({len(rows)})", *counts, *ranges))
    return lines


# Marker, where it stands, newest of which results, how they become a table.
TABLES: list[tuple[str, str, str, Callable[[Row], list[Sequence[str]]]]] = [
    ("peers", "README.md", "*-peers*.json", peers),
    ("refinement", "README.md", "*-refinement*.json", refinement),
    ("refinement steps", "README.md", "*-adam-step.json", refinement_steps),
    ("comparison", "README.md", "*-compare.json", comparison.methods),
    ("growth", "README.md", "*-growth.json", comparison.growth),
    ("arithmetic", "README.md", "*-compare.json", comparison.arithmetic),
    ("known displacement", "README.md", "*-known-displacement.json", known_displacement),
    ("folds", "runtime/README.md", "*-folds*.json", folds),
    ("alignment", "runtime/README.md", "*-alignment.json", alignment),
    ("ablations", "rwcnet_ref/README.md", "*-ablations.json", ablations),
    ("precisions", "export/README.md", "*-precisions.json", precisions),
    ("pipeline", "export/README.md", "*-pipeline.json", pipeline),
    ("verdicts", "runtime/README.md", "*-verdicts.json", verdicts),
    ("passes", "export/README.md", "*-precisions.json", graph_passes),
    ("precision nodes", "export/README.md", "*-precisions.json", precision_nodes),
]


def table(lines: list[Sequence[str]]) -> str:
    """Return a Markdown table; the first line is its head."""
    head, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rest))


def newest(pattern: str) -> list[Path]:
    """Return the results of the newest date that a pattern finds."""
    sources = sorted(RESULTS.glob(pattern))
    if not sources:
        raise SystemExit(f"{RESULTS} holds no {pattern}")
    date = sources[-1].name[: len("2000-01-01")]
    return [source for source in sources if source.name.startswith(date)]


def joined(report: Row, found: Row) -> Row:
    """Return two reports as one, with the results of both where they are by data set."""
    if not isinstance(found.get("results"), dict):
        return found
    return found | {"results": report.get("results", {}) | found["results"]}


def fill(text: str, name: str, block: str) -> str:
    """Put a block between the markers of its name in a text.

    Raises
    ------
    ValueError
        If the markers are not there exactly once.
    """
    text, count = re.subn(
        f"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
        lambda found: f"{found[1]}{block}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise ValueError(f"{count} places for the table of {name}, one is wanted")
    return text


def main() -> None:
    """Replace what stands between the markers."""
    texts: dict[Path, str] = {}
    for name, place, pattern, lines in TABLES:
        file, sources = ROOT / place, newest(pattern)
        report: Row = {}
        for source in sources:  # the data sets of one run may stand in several files
            found = json.loads(source.read_text())
            report = joined(report, found)
        names = ", ".join(f"`{source.name}`" for source in sources)
        block = f"{table(lines(report))}\n\nFrom {names} in `runtime/benchmarks/results`."
        texts[file] = fill(texts.get(file) or file.read_text(), name, block)
    for file, text in texts.items():
        file.write_text(text)
    comparison.redraw(newest("*-compare.json")[-1], ROOT / "docs/accuracy-over-time.png")


if __name__ == "__main__":
    main()
