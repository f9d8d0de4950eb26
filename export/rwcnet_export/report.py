"""What an export has to tell, on a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rwcnet_export import gate, parity
from rwcnet_export.checks import Findings
from rwcnet_export.passes.outcome import Outcome, total
from rwcnet_runtime.bundle import Manifest
from rwcnet_runtime.evaluation.summary import environment, jsonable
from rwcnet_runtime.writing import all_or_none

_EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")
"""The packages that decide the bytes of a graph."""

Outcomes = Mapping[str, list[Outcome]]
"""By the name of a graph, what each pass did to it."""


def lines(findings: Findings, outcomes: Outcomes, limit_vox: float) -> Iterator[str]:
    """Yield what was compared, what the passes did, and which precision is over the limit."""
    yield parity.describe(findings.stages)
    yield f"passes over {len(outcomes)} graphs:"
    for each in zip(*outcomes.values(), strict=True):
        yield f"  {total(each)}"
        for graph, outcome in zip(outcomes, each, strict=True):
            if outcome.fired:
                yield f"    in {graph}: {outcome.fired}"
    for engine, stages in findings.nodes.items():
        for n, nodes in stages.items():
            yield f"stage {n + 1}, {engine}: {nodes}"
    if findings.chains:
        yield gate.describe(findings.chains)
    for missed in findings.chains:
        if gate.too_far(missed, limit_vox):
            over = f"{missed.engine} is over {limit_vox:g} voxels on {missed.case}"
            yield f"{over}: kept with --force"


def exporters() -> dict[str, str]:
    """Return the versions of the packages that decide the bytes of a graph."""
    return {name: version(name) for name in _EXPORTERS}


def contents(
    manifest: Manifest, findings: Findings, outcomes: Outcomes, limit_vox: float
) -> dict[str, Any]:
    """Return all that `lines` tells, and what it depends on, for a JSON file.

    Parameters
    ----------
    manifest
        Of the bundle that was written.
    findings, outcomes, limit_vox
        As for `lines`.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for row in findings.chains:
        results.setdefault(row.case, []).append(asdict(row))
    about = environment()
    about["versions"] |= exporters()
    return {
        "weights": {"name": manifest.name, "sha256": manifest.weights["sha256"]},
        "environment": about,
        "files": manifest.files,
        "stages": [asdict(row) for row in findings.stages],
        "passes": {graph: [asdict(each) for each in found] for graph, found in outcomes.items()},
        "nodes": {
            engine: {n + 1: asdict(nodes) for n, nodes in stages.items()}
            for engine, stages in findings.nodes.items()
        },
        "gate_vox": limit_vox,
        "results": results,
    }


def write(path: Path, report: dict[str, Any]) -> None:
    """Write a report, whole or not at all.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    with all_or_none(path.parent, [path.name], "--report") as folder:
        text = json.dumps(jsonable(report), indent=1, allow_nan=False)
        (folder / path.name).write_text(text + "\n")
