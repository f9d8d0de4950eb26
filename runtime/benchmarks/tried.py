"""Train the coarsest stage of `base` on for one small budget, in many ways, to see their worth.

    python runtime/benchmarks/tried.py -o runtime/benchmarks/results/DATE-tried.json

Each variant changes one thing of the first, or what goes with it, and gets the same steps on pairs
from SynthSeg's label maps (``RWCNET_DATA``, by default ``../shared/data``) and shapes. All start
from the shipped weights, where these fit, since from nothing so few steps teach next to nothing:
whatever these were not trained with is at a disadvantage. All are judged on the same pairs of
held-out heads and shapes. What is there already in the output file is not done again. Needs the
`train` extra.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from draw_cases import DATA
from torch import Tensor, nn
from torch.nn import functional

from rwcnet_ref.augment import swapped
from rwcnet_ref.build import build
from rwcnet_ref.checkpoint import load_weights, shipped
from rwcnet_ref.config import BASE
from rwcnet_ref.encoder import UnitVoxels
from rwcnet_ref.grid import Warp, clamp_to_grid
from rwcnet_ref.losses.images import mind_ssc_descriptor
from rwcnet_ref.model import Cascade, Stage
from rwcnet_ref.pair import Pair
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.loop import Training
from rwcnet_ref.training.settings import Settings
from rwcnet_ref.training.sources import StageData, open_data
from rwcnet_runtime.evaluation.summary import environment

STEPS = 300
LOSSES = {"error": 1.0, "gradient": 0.1, "dice": 1.0}
# What a variant changes: sizes of the stage, settings of the stage, the built network, the pairs.
Change = dict[str, Any]


class MindInput(nn.Module):
    """An encoder's first convolution on MIND-SSC descriptors instead of intensities."""

    def __init__(self, first: nn.Conv3d) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(12, first.out_channels, 4, stride=2, padding=1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """(b, 1, i, j, k) to (b, c, i/2, j/2, k/2)."""
        found: Tensor = self.convolution(mind_ssc_descriptor(image.float()))
        return found


def mind(stage: Stage) -> None:
    """Let both encoders see descriptors."""
    for encoder in (stage.features, stage.context):
        block = encoder[0]
        assert isinstance(block, nn.Sequential)
        assert isinstance(block[0], nn.Conv3d)
        block[0] = MindInput(block[0])


def any_length(stage: Stage) -> None:
    """Leave features as long as the normalisation over the batch makes them."""
    assert isinstance(stage.features[-1], UnitVoxels)
    stage.features[-1] = nn.Identity()


def inverse(flow: Tensor) -> Tensor:
    """Invert a flow by fixed-point iteration: ``w(x) = -u(x + w(x))``."""
    warp, found = Warp(), torch.zeros_like(flow)
    for _ in range(15):
        found = -warp(flow, clamp_to_grid(found))
    return found


def both_ways(pairs: list[Pair]) -> list[Pair]:
    """Turn every second pair round, so that no direction is the usual one."""
    return [
        replace(swapped(pair), flow=None if pair.flow is None else inverse(pair.flow))
        if n % 2
        else pair
        for n, pair in enumerate(pairs)
    ]


class Judged:
    """Training pairs of a variant, and the pairs that all variants are judged by."""

    def __init__(
        self, data: StageData, change: Callable[[list[Pair]], list[Pair]], judges: list[Pair]
    ) -> None:
        self._data, self._change, self._judges = data, change, judges

    def batch(self, share: float, random: torch.Generator) -> list[Pair]:
        """Draw pairs."""
        return self._change(self._data.batch(share, random))

    def validation(self) -> Iterator[Pair]:
        """Yield the pairs to judge by."""
        yield from self._judges


VARIANTS: dict[str, Change] = {
    "unchanged": {},
    "Dice-led: two heads only, no known displacement": {
        "stage": {
            "two_heads": 1.0,
            "shapes": 0.0,
            "losses": {"dice": 1.0, "gradient": 0.5},
        }
    },
    # A little Dice has to stay: pairs without a known displacement are judged, too.
    "known displacements only, hardly any Dice": {
        "stage": {"two_heads": 0.0, "losses": {"error": 1.0, "gradient": 0.1, "dice": 1e-3}}
    },
    "2 steps": {"sizes": {"steps": 2}},
    "6 steps": {"sizes": {"steps": 6}},
    "radius 1": {"sizes": {"radius": 1}},
    "radius 3": {"sizes": {"radius": 3}},
    "loss on the last step only": {"stage": {"decay": 1e-6}},
    "features of any length": {"network": any_length},
    "MIND-SSC instead of intensities": {"network": mind},
    "one contrast": {"stage": {"same_contrast": 1.0}},
    "two contrasts": {"stage": {"same_contrast": 0.0}},
    "pairs turned round": {"pairs": both_ways},
    "velocity integrated": {"sizes": {"velocity": True}},
    "displacements half as large": {"stage": {"amplitude": 7.0}},
    "half-size crops first": {"stage": {"small": 0.5}},
}


def settings(change: Change) -> Settings:
    """Return what one variant is trained with."""
    stage: dict[str, Any] = {
        "steps": STEPS,
        "batch": 3,
        "size": 32,
        "amplitude": 14.0,
        "two_heads": 0.45,
        "losses": LOSSES,
    }
    plan = Settings.from_dict(
        {
            "data": {
                "kind": "synthetic",
                "maps": str((DATA / "synthseg_label_maps").resolve()),
                "validation": 24,
            },
            "losses": LOSSES,
            "training": {
                "optimiser": "adamw",
                "learning_rate": 1e-3,
                "rate": "cosine",
                "warm_up": 40,
                "clip": 1.0,
                "precision": "bf16",
                "ema": 0.98,
                "frozen_averages": 0.7,
                "validate_every": STEPS,
                "save_every": STEPS,
            },
            "stages": [stage | change.get("stage", {}), {}, {}],
        }
    )
    sizes = tuple(replace(config, **change.get("sizes", {})) for config in BASE.stages)
    return replace(plan, model=replace(BASE, stages=sizes))


def judging_pairs() -> list[Pair]:
    """Return what all variants are judged by, whatever they train on."""
    plan = settings({})
    data = open_data(plan, torch.device("cpu"))(build(plan.model), 0)
    return list(data.validation())


def take_shipped(stage: Stage) -> None:
    """Start from the shipped weights, where a variant has a place for them."""
    shipped_stage = load_weights(shipped(BASE.name))[0].stage(0)
    places = stage.state_dict()
    for name, weight in shipped_stage.state_dict().items():
        place = places.get(name)
        if place is None:
            continue
        if place.shape != weight.shape and name == "correlation.weight":
            # Another radius: the same weights around the middle, or as many of them as fit.
            more = (place.shape[-1] - weight.shape[-1]) // 2
            weight = functional.pad(weight, (more,) * 6)
        if place.shape == weight.shape:
            place.copy_(weight)


def run(change: Change, judges: list[Pair]) -> dict[str, float]:
    """Train one variant and return its metrics."""
    start = time.perf_counter()
    plan = settings(change)
    torch.manual_seed(0)
    cascade: Cascade = build(plan.model)
    stage = cascade.stage(0)
    assert isinstance(stage, Stage)
    change.get("network", lambda stage: None)(stage)
    take_shipped(stage)
    data = open_data(plan, torch.device("cpu"))(cascade, 0)
    data = Judged(data, change.get("pairs", list), judges)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        training = Training(cascade, 0, plan, data, RunFolder(Path(name)))
        training.run(report=found.update)
    keep = ("error_start", "error", "dice_start", "dice", "folded_percent")
    return {name: found[name] for name in keep} | {
        "parameters": sum(p.numel() for p in stage.parameters()),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Train all variants and write one JSON, after each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    weights = hashlib.sha256(shipped(BASE.name).read_bytes()).hexdigest()
    recipe = {"steps": STEPS, "losses": LOSSES, "weights": weights}
    report: dict[str, Any] = {"recipe": recipe, "results": {}}
    if options.output.is_file():
        report = json.loads(options.output.read_text())
        if report["recipe"] != recipe:
            raise SystemExit(f"{options.output} holds results of another recipe: choose another -o")
    threads = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    report["environment"] = environment() | threads
    judges = judging_pairs()
    for name in options.variants:
        if name not in report["results"]:
            report["results"][name] = run(VARIANTS[name], judges)
            print(name, report["results"][name], flush=True)
            options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
