"""What the graph passes of the export change in the stages of `base`, and what that is worth.

    python runtime/benchmarks/passes.py -o runtime/benchmarks/results/DATE-passes.json

Nodes and bytes of each stage's graph as the exporter writes it and after all passes, how often each
pass fired, and the time of both graphs in ONNX Runtime, run in turn. Needs the `export` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from sessions import open_session

from rwcnet_export.graphs import stage_graph, trace
from rwcnet_export.passes import optimise
from rwcnet_export.weights import DEFAULT_PRESET, find_weights
from rwcnet_ref.config import ModelConfig
from rwcnet_runtime.evaluation.summary import environment

SIZE = (64, 80, 96)  # of the stage's own images
REPEATS = 7


def inputs(config: ModelConfig, index: int) -> dict[str, np.ndarray]:
    """Return random inputs of one stage."""
    random, stage = np.random.default_rng(0), config.stages[index]
    found = {name: random.random((1, 1, *SIZE), dtype=np.float32) for name in ("fixed", "moving")}
    if config.inherits(index):
        coarse = (n // stage.stride for n in SIZE)
        found["hidden"] = random.random((1, stage.hidden, *coarse), dtype=np.float32)
    return found


def measure(before: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run all passes on a graph and compare it with what comes out."""
    after, outcomes = optimise(before)
    graphs = {"before": before, "after": after}
    sessions = {name: open_session(model) for name, model in graphs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    flows = {}
    for _ in range(REPEATS):
        for name, ready in sessions.items():
            start = time.perf_counter()
            flows[name] = ready.run(["flow"], feed)[0]
            seconds[name].append(time.perf_counter() - start)
    return {
        "nodes": {name: len(model.graph.node) for name, model in graphs.items()},
        "bytes": {name: model.ByteSize() for name, model in graphs.items()},
        "seconds_median": {name: statistics.median(times) for name, times in seconds.items()},
        "largest_difference_vox": float(np.abs(flows["before"] - flows["after"]).max()),
        "passes": [asdict(outcome) for outcome in outcomes],
    }


def main() -> None:
    """Measure all stages and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    cascade, _ = find_weights(DEFAULT_PRESET)
    rows = []
    for index in range(len(cascade.config.stages)):
        graph = stage_graph(cascade, index, trace)
        rows.append({"stage": index + 1, **measure(graph, inputs(cascade.config, index))})
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "preset": DEFAULT_PRESET,
        "size": SIZE,
        "repeats": REPEATS,
        "load_before": load,
        "stages": rows,
        "environment": environment(),
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
