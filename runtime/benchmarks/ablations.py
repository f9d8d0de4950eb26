"""Train the ablations of Sivan 2022, table 3.3, for one small budget, on small and large motion.

    python runtime/benchmarks/ablations.py -o runtime/benchmarks/results/DATE-ablations.json

Small motion: hippocampus MR crops of two people (``RWCNET_DATA``, by default ``../shared/data``),
judged by Dice. Large motion: procedural shapes, displaced by several voxels of their small crops,
judged by the distance to the known displacement; with nothing to compare but shapes it takes more
steps to learn. Every variant of `base` gets the same number of optimiser steps, split over its
stages. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from draw_cases import DATA

from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.loop import Training
from rwcnet_ref.training.settings import Settings
from rwcnet_ref.training.stages import train
from rwcnet_runtime.evaluation.summary import environment

# Of the one stage that has to do without the others; the thesis gives full resolution four.
SINGLE_STEPS = 4
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "single resolution": {"resolutions": [1], "steps": SINGLE_STEPS},
    "no correlation": {"correlate": False},
    "2 steps": {"steps": 2},
}
# How the budget of steps is split over 1/4, 1/2 and full resolution.
SHARES = (0.6, 0.25, 0.15)
STEPS = {"small": 300, "large": 600}  # of the optimiser
EDGE, AMPLITUDE_MM = 32, 6.0  # of a synthetic crop, in voxels of the full grid, and of its motion
HELD_OUT = 20  # hippocampi kept for validation
PAIRS = {"train": 400, "validate": 12}


def write_pairs(folder: Path) -> tuple[Path, Path]:
    """Draw pairs of hippocampi, no person in both files, and return the two CSV files."""
    names = sorted(path.name for path in (DATA / "hippocampus_mr/images").glob("*.nii.gz"))
    if len(names) <= HELD_OUT:
        raise SystemExit(f"{DATA} holds no hippocampus_mr: set RWCNET_DATA to the data folder")
    random = np.random.default_rng(0)
    order = random.permutation(names)
    people = {"train": order[HELD_OUT:], "validate": order[:HELD_OUT]}
    files = []
    for use, count in PAIRS.items():
        path = folder / f"{use}.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("case", "fixed", "moving", "fixed_labels", "moving_labels"))
            for n in range(count):
                pair = random.choice(people[use], 2, replace=False)
                images, labels = (
                    [f"hippocampus_mr/{kind}/{name}" for name in pair]
                    for kind in ("images", "labels")
                )
                writer.writerow((f"{use}-{n + 1}", *images, *labels))
        files.append(path)
    return files[0], files[1]


def settings(variant: dict[str, Any], motion: str, folder: Path) -> Settings:
    """Return what one variant is trained with."""
    steps = STEPS[motion]
    count = len(variant.get("resolutions", SHARES))
    shares = SHARES if count == len(SHARES) else (1.0,)
    stages: list[dict[str, Any]] = [{"steps": round(steps * share)} for share in shares]
    if motion == "large":
        factors = (4, 2, 1)[-count:]
        for stage, factor in zip(stages, factors, strict=True):
            stage |= {"size": EDGE // factor, "batch": factor, "amplitude": AMPLITUDE_MM}
        stages[0] |= {"easy": 0.4, "short": 0.2}
        data: dict[str, Any] = {"kind": "synthetic", "validation": 12}
        losses = {"error": 1.0, "gradient": 0.05}
    else:
        train_file, validation_file = write_pairs(folder)
        data = {
            "kind": "pairs",
            "file": str(train_file),
            "validation_file": str(validation_file),
            "folder": str(DATA.resolve()),
        }
        losses = {"ncc": 1.0, "dice": 1.0, "gradient": 0.5}
    return Settings.from_dict(
        {
            "model": {"preset": "base", **variant},
            "data": data,
            "losses": losses,
            "training": {
                "optimiser": "adamw",
                "learning_rate": 2e-3,
                "rate": "cosine",
                "warm_up": 20,
                "clip": 1.0,
                "precision": "bf16",
                "ema": 0.98,
                "frozen_averages": 0.7,
                "validate_every": steps,
                "save_every": steps,
            },
            "stages": stages,
        },
        folder,
    )


class Silent:
    """Keeps the last metrics of each stage."""

    def __init__(self) -> None:
        self.metrics: list[Mapping[str, float]] = []

    def begin(self, training: Training) -> None:
        """Say nothing."""

    def progress(self, step: int, loss: float) -> None:
        """Say nothing."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Keep them."""
        self.metrics.append(metrics)


def run(variant: dict[str, Any], motion: str) -> dict[str, Any]:
    """Train one variant and return its metrics at the end, on the full grid."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        listener = Silent()
        plan = settings(variant, motion, Path(name))
        train(plan, RunFolder(Path(name) / "run"), listener)
    return {**listener.metrics[-1], "seconds_in_all": time.perf_counter() - start}


def share_lost(results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return what each ablation costs: the share of the full network's gain that is lost.

    The gain is what registration adds to the Dice, or takes off the error.
    """
    lost: dict[str, dict[str, float]] = {}
    for motion, measure, sign in (("small", "dice", 1), ("large", "error", -1)):
        gains = {
            name: sign * (values[measure] - values[f"{measure}_start"])
            for name, values in results[motion].items()
        }
        if gains["full"] <= 0:
            raise SystemExit(
                f"the full network gained nothing on {motion} motion: it needs more steps"
            )
        lost[motion] = {
            name: 1 - gain / gains["full"] for name, gain in gains.items() if name != "full"
        }
    return lost


def shows(lost: dict[str, dict[str, float]]) -> dict[str, bool]:
    """Return whether the thesis's finding shows: what is left out matters more to large motion."""
    return {name: lost["large"][name] > lost["small"][name] for name in lost["large"]}


def main() -> None:
    """Train all variants on both kinds of motion and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)  # before the work
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for motion in ("small", "large"):
        results[motion] = {}
        for name, variant in VARIANTS.items():
            results[motion][name] = run(variant, motion)
            print(motion, name, results[motion][name], flush=True)
    report = {
        "environment": environment()
        | {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "steps": STEPS,
        "variants": VARIANTS,
        "results": results,
    }
    lost = share_lost(results)
    report |= {"share_of_gain_lost": lost, "matters_more_to_large_motion": shows(lost)}
    print(json.dumps({name: report[name] for name in list(report)[-2:]}, indent=2))
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
