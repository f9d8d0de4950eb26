"""Run RWCNet and its peers on the same cases from the same start, and measure them the same way.

    python runtime/benchmarks/peers.py runtime/benchmarks/cases/*.csv \
        -o runtime/benchmarks/results/DATE-peers.json

Each peer gets an environment of its own, made below ``--work`` with pip. A pair whose cases file
names no initial transform gets one, an affine, which is stored beside the file. Fields are kept as
``WORK/<cases file>/<method>/<case>.nii.gz``: a run that is started again goes on where it stopped.
Data are read from ``RWCNET_DATA`` (by default ``../shared/data``). Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from draw_cases import DATA
from peer_runs import starts
from peer_runs.environments import Launcher, make_environment
from peer_runs.methods import METHODS, register_case

from rwcnet_runtime import RwcnetError
from rwcnet_runtime.evaluation import Case, evaluate_fields, read_cases, summarise
from rwcnet_runtime.evaluation.summary import environment, jsonable

# Measure of `summarise`, head of its column, digits after the point.
COLUMNS = (
    ("dice_after", "Dice", 3),
    ("hd95_after", "HD95, voxels", 2),
    ("tre_mm_after", "TRE, mm", 2),
    ("sd_log_jacobian", "SDlogJ", 3),
    ("folded_percent", "folded, %", 4),
    ("ndv_percent", "NDV, %", 4),
    ("seconds", "time, s", 1),
    ("cpu_seconds", "time of all cores, s", 1),
    ("peak_memory_mb", "memory, MB", 0),
)


def say(text: str) -> None:
    """Tell how far the run is."""
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def make_ready(files: dict[Path, list[Case]], methods: list[str], launcher: Launcher) -> None:
    """Make the environments and the missing starts, so that what is not to be had is known first.

    Raises
    ------
    RwcnetError
        If an environment cannot be made, or there is no start for a case.
    """
    missing = {
        (path, case.fixed, case.moving): case  # one start for all cases of two images
        for path in files
        for case in files[path]
        if not case.initial_transform
    }
    environments = {METHODS[name].environment for name in methods}
    if missing:
        environments.add("antspy")
    for name in filter(None, environments):
        say(f"environment {name}")
        make_environment(name, launcher.environments)
    for (path, *_), case in missing.items():
        say(f"{path.stem}, start: {case.name}")
        starts.complete(path, case, launcher)


def run_method(name: str, cases: list[Case], folder: Path, launcher: Launcher) -> dict[str, Any]:
    """Register all cases with one method and measure what it found.

    Parameters
    ----------
    name
        Of `METHODS`.
    cases
        What to register; a case that the method fails on does not stop the others.
    folder
        Where the fields are, or will be.
    launcher
        Runs the method.

    Returns
    -------
    dict
        ``about``, ``settings`` and ``versions``: the method; ``summary``: `summarise`; ``cases``: a
        row each, `evaluate_fields`, with ``parts``, seconds of each part, where they are known.
    """
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for number, case in enumerate(cases, 1):
        say(f"{folder.parent.name} {number} of {len(cases)}, {name}: {case.name}")
        try:
            report = register_case(name, case, folder, launcher)
            (row,) = evaluate_fields([case], folder)
            versions |= report.get("versions", {})
            rows.append(row | {key: report[key] for key in ("parts",) if key in report})
        except RwcnetError as error:
            rows.append({"case": case.name, "error": str(error)})
        if "error" in rows[-1]:
            say(rows[-1]["error"])
    return {
        "about": METHODS[name].about,
        "settings": METHODS[name].settings,
        "versions": versions,
        "summary": summarise(rows),
        "cases": rows,
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table of methods and means, with 95 % intervals of Dice and TRE."""
    measures = {name: result["summary"]["measures"] for name, result in results.items()}
    columns = [column for column in COLUMNS if any(column[0] in m for m in measures.values())]
    lines = [("method", "cases", *(head for _, head, _ in columns)), ("---",) * (len(columns) + 2)]
    for name, found in measures.items():
        cells = [name, str(results[name]["summary"]["cases"])]
        for measure, _, digits in columns:
            value = found.get(measure, {})
            text = f"{value['mean']:.{digits}f}" if value else ""
            if value.get("interval") and measure in ("dice_after", "tre_mm_after"):
                text += " ({:.{d}f} to {:.{d}f})".format(*value["interval"], d=digits)
            cells.append(text)
        lines.append(tuple(cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Compute what is missing, measure everything, write one JSON and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path, nargs="+", help="cases files")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--methods", default=",".join(METHODS), help="by default %(default)s")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="%(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pairs", type=int, help="only the first ones of each cases file")
    options = parser.parse_args()
    methods = options.methods.split(",")
    options.output.parent.mkdir(parents=True, exist_ok=True)  # hours before it is needed
    for name in methods:
        if name not in METHODS:
            parser.error(f"{name!r} is no method; choose from {', '.join(METHODS)}")
    if len({path.stem for path in options.cases}) < len(options.cases):
        parser.error("two cases files have one name, after which results are called; rename one")
    launcher = Launcher(options.work / "environments", options.threads)
    report: dict[str, Any] = {
        "environment": environment() | {"threads": options.threads},
        "start_rule": starts.RULE,
        "starts": {},
        "results": {},
    }
    try:
        files = {path: read_cases(path, DATA)[: options.pairs] for path in options.cases}
        make_ready(files, methods, launcher)
        for path in files:
            report["starts"][path.stem] = starts.read_record(path)
            cases = read_cases(path, DATA)[: options.pairs]
            results = {
                name: run_method(name, cases, options.work / path.stem / name, launcher)
                for name in methods
            }
            report["results"][path.stem] = results
            print(f"\n{path.stem}\n\n{table(results)}", flush=True)
    except RwcnetError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    partial = options.output.with_name(f".{os.getpid()}-{options.output.name}")
    partial.write_text(json.dumps(jsonable(report, digits=4), allow_nan=False) + "\n")
    partial.replace(options.output)


if __name__ == "__main__":
    main()
