"""Measure what each precision of the shipped weights changes on two real pairs.

    python runtime/benchmarks/precisions.py -o runtime/benchmarks/results/DATE-precisions.json
    python runtime/benchmarks/readme.py

Whole images, from the same start as in the table of peers (data in ``RWCNET_DATA``): the flow in
voxels against fp32 torch, and Dice or TRE. Low precisions are rounded as `rwcnet_export.rounding`
does; no GPU is needed and none is measured. Needs the `export` extra.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from draw_cases import CASES, DATA

from rwcnet_export import gate
from rwcnet_export.bundle import weights_sha256
from rwcnet_export.cases import Case, read_pair
from rwcnet_export.graphs import stage_graph
from rwcnet_export.precision import LOW_TYPES, count, lower
from rwcnet_export.weights import find_weights
from rwcnet_ref.model import Cascade
from rwcnet_runtime import evaluation
from rwcnet_runtime.backends.interface import Array
from rwcnet_runtime.evaluation.summary import environment
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.preprocess import Padding
from rwcnet_runtime.volumes import read_volume

# The only pair with landmarks in a brain, and the first with labels.
PAIRS = {"brain_templates": "colin27-to-mni", "hippocampus_mr": "hippocampus-01"}


class Judge:
    """Measures flows on the padded grid of a case, whose files are read once."""

    def __init__(self, case: evaluation.Case, multiple: int) -> None:
        self._case = case
        self._fixed, self._moving = read_volume(case.fixed), read_volume(case.moving)
        initial = case.initial_transform
        self._initial = None if initial is None else read_initial_transform(initial)
        self._padding = Padding.to_multiple(self._fixed.grid.shape, multiple)

    def accuracy(self, flow: Array) -> dict[str, float]:
        """Return Dice or TRE of a flow (1, 3, i, j, k) in voxels."""
        inner = self._padding.remove(flow[0])
        mapping = Mapping(self._fixed.grid, self._moving.grid, self._initial, inner)
        displacement_mm = mapping.displacement_mm()
        found = evaluation.measure(self._case, self._fixed, self._moving, displacement_mm)
        return {name: found[name] for name in ("dice_after", "tre_mm_after") if name in found}


@torch.inference_mode()
def compare(
    cascade: Cascade, engines: dict[str, gate.Graphs], case: evaluation.Case
) -> dict[str, Any]:
    """Return what torch and each precision find on one case."""
    multiple = cascade.config.multiple
    images = read_pair(case.fixed, case.moving, multiple, None, case.initial_transform)
    pair = Case(case.name, *images, None)
    expected = cascade(pair.fixed, pair.moving).numpy()
    judge = Judge(case, multiple)
    rows: dict[str, Any] = {"torch": judge.accuracy(expected)}
    for engine, graphs in engines.items():
        flow = gate.rounded_flow(cascade, graphs, pair)
        row = asdict(gate.FlowDifference.between(engine, case.name, flow, expected))
        rows[engine] = row | judge.accuracy(flow)
        print(json.dumps(rows[engine]), flush=True)
    return rows


def main() -> None:
    """Measure all and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    options = parser.parse_args()
    cascade, _ = find_weights(None)
    stages = dict(enumerate(stage_graph(cascade, n) for n in range(len(cascade.config.stages))))
    lowered = {e: {n: lower(model, e) for n, model in stages.items()} for e in LOW_TYPES}
    results = {}
    for name in options.pairs:
        cases = evaluation.read_cases(CASES / f"{name}.csv", DATA)
        (case,) = (case for case in cases if case.name == PAIRS[name])
        results[name] = compare(cascade, {"fp32": stages} | lowered, case)
    report = {
        "weights": {"name": cascade.config.name, "sha256": weights_sha256(cascade)},
        "environment": environment(),
        "nodes": {e: [asdict(count(m)) for m in graphs.values()] for e, graphs in lowered.items()},
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
