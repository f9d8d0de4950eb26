"""Train a preset on synthetic pairs, stage by stage, the stages below frozen.

    python -m rwcnet_ref.train --stage 1 --data LABEL_MAPS -o runs/base

Each stage writes ``stageN.ckpt`` (all it needs to go on; interrupted training resumes from it) and
a line of metrics in ``stageN.jsonl`` at each validation. Stage N starts from ``stageN-1.ckpt``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rwcnet_ref.config import PRESETS
from rwcnet_ref.losses import dice_loss, displacement_error, gradient_penalty
from rwcnet_ref.model import Cascade, integrate
from rwcnet_ref.pairs import LabelMap, Pair, PairSource, read_label_maps

# Heads kept for validation: the last of the sorted files.
HELD_OUT = 2
VALIDATION_PAIRS = 8
# Share of the steps after which the Dice loss counts: from scratch it moves nothing.
DICE_FROM = 0.3
# Share of the steps over which the first stage's pairs grow from easy to what they are to be.
EASY = 0.4
# Share of the steps in which the recurrence is cut short: following one match comes first.
SHORT, SHORT_STEPS = 0.2, 2


@dataclass(frozen=True)
class Schedule:
    """How one stage is trained.

    Attributes
    ----------
    size
        Edge of the cubic crops, in voxels of the stage.
    batch
        Pairs a step.
    steps
        Optimiser steps; the learning rate falls to zero over them as a cosine.
    amplitude
        Displacements in mm, see `PairSource`.
    small
        Share of the steps with crops of half the edge and twice the batch: images can be small.
    shapes, two_heads
        Shares of procedural shapes and of pairs of two heads, see `PairSource`.
    learning_rate
        Of AdamW, after a hundred steps of warm-up.
    dice, smooth
        Weights of the Dice loss (from `DICE_FROM` on) and of the gradient penalty.
    decay
        Weight of a recurrent step's error relative to that of the step after it.
    frozen_averages
        Share of the steps after which the normalisations use their stored averages, as they will
        at inference.
    """

    size: int
    batch: int
    steps: int
    amplitude: float
    shapes: float
    two_heads: float
    small: float = 0.3
    learning_rate: float = 2e-3
    dice: float = 0.5
    smooth: float = 0.05
    decay: float = 0.8
    frozen_averages: float = 0.7


# What the shipped `base` weights were trained with on two CPU cores.
SCHEDULES = {
    1: Schedule(size=24, batch=3, steps=1000, amplitude=8, shapes=0.3, two_heads=0.3),
    2: Schedule(
        size=48,
        batch=1,
        steps=750,
        amplitude=6,
        shapes=0.3,
        two_heads=0.5,
        small=0.6,
        learning_rate=1e-3,
        dice=1.5,
    ),
    3: Schedule(
        size=64, batch=1, steps=400, amplitude=4, shapes=0.2, two_heads=0.5, small=0.6, dice=1.5
    ),
}


def step_flows(
    cascade: Cascade, index: int, fixed: Tensor, moving: Tensor, steps: int | None = None
) -> list[Tensor]:
    """Return the total flow after each recurrent step of stage `index`, on its grid."""
    warped, below, hidden = cascade.entering(fixed, moving, index)
    flows, _ = cascade.stage(index).unroll(fixed, warped, hidden, steps)
    flows = [integrate(cascade.warp, flow, cascade.config.stages[index]) for flow in flows]
    return flows if below is None else [cascade.compose(flow, below) for flow in flows]


def loss_of(
    cascade: Cascade,
    index: int,
    pairs: list[Pair],
    plan: Schedule,
    dice: float,
    steps: int | None = None,
) -> Tensor:
    """Return the training loss of a batch of pairs, from so many recurrent steps."""
    fixed = torch.cat([pair.fixed for pair in pairs])
    moving = torch.cat([pair.moving for pair in pairs])
    flows = step_flows(cascade, index, fixed, moving, steps)
    weights = [plan.decay ** (len(flows) - 1 - n) for n in range(len(flows))]
    loss = plan.smooth * gradient_penalty(flows[-1])
    for n, pair in enumerate(pairs):
        if pair.flow is not None:
            errors = [displacement_error(flow[n : n + 1], pair.flow) for flow in flows]
            loss = loss + sum(w * e for w, e in zip(weights, errors, strict=True)) / (
                sum(weights) * len(pairs)
            )
        if dice:
            # Early steps as well: they are where two heads are far apart.
            for flow in (len(flows) // 2, len(flows) - 1):
                warped = cascade.warp(pair.moving_labels, flows[flow][n : n + 1])
                loss = loss + dice / 2 * dice_loss(warped, pair.fixed_labels) / len(pairs)
    return loss


@torch.no_grad()
def validate(cascade: Cascade, index: int, pairs: list[Pair]) -> dict[str, float]:
    """Return mean errors (voxels) and Dice at the start and after stage `index`."""
    cascade.eval()
    sums: dict[str, list[float]] = {}
    for pair in pairs:
        flow = step_flows(cascade, index, pair.fixed, pair.moving)[-1]
        values = {}
        if pair.fixed_labels.any():
            warped = cascade.warp(pair.moving_labels, flow)
            values["dice_start"] = 1 - dice_loss(pair.moving_labels, pair.fixed_labels)
            values["dice"] = 1 - dice_loss(warped, pair.fixed_labels)
        if pair.flow is not None:
            values["error_start"] = displacement_error(torch.zeros_like(flow), pair.flow)
            values["error"] = displacement_error(flow, pair.flow)
        for name, value in values.items():
            sums.setdefault(name, []).append(float(value))
    return {name: sum(v) / len(v) for name, v in sums.items()}


def _training_mode(stage: nn.Module, averages: bool) -> None:
    stage.train()
    if not averages:
        for module in stage.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()


class Training:
    """One stage's training: everything that goes into its checkpoint.

    Parameters
    ----------
    cascade
        The model, the stages below already trained.
    index
        The stage to train, 0 is the coarsest.
    plan
        How.
    maps
        Heads, the held-out ones included, on the device of the model.
    folder
        Where checkpoints and metrics go.
    """

    def __init__(
        self, cascade: Cascade, index: int, plan: Schedule, maps: list[LabelMap], folder: Path
    ) -> None:
        self.cascade, self.index, self.plan, self.folder = cascade, index, plan, folder
        if 0 < len(maps) < HELD_OUT + 2:
            raise ValueError(f"{len(maps)} label maps are too few: {HELD_OUT} are held out")
        self.heads, held_out = maps[:-HELD_OUT], maps[-HELD_OUT:]
        for parameter in cascade.parameters():
            parameter.requires_grad_(False)
        self.stage = cascade.stage(index)
        for parameter in self.stage.parameters():
            parameter.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self.stage.parameters(), lr=plan.learning_rate)
        self.device = next(cascade.parameters()).device
        self.random = torch.Generator(self.device).manual_seed(index)
        self.step = 0
        unseen = torch.Generator(self.device).manual_seed(1000)
        source = self._source(1.0, held_out)
        self.validation = [source.draw(unseen) for _ in range(VALIDATION_PAIRS)]

    def _source(self, share: float, maps: list[LabelMap]) -> PairSource:
        """Return the pairs of a point in training, `share` of the steps being done.

        The first stage's start easy: shapes alone, textured, of one contrast and one scanner.
        Two heads teach nothing before the Dice loss counts.
        """
        easy = max(0.0, 1 - share / EASY) if self.index == 0 else 0.0
        return PairSource(
            (self.plan.size,) * 3,
            self.cascade.config.stages[self.index].resolution,
            self.plan.amplitude,
            maps,
            1.0 if easy else self.plan.shapes,
            self.plan.two_heads if share > DICE_FROM else 0.0,
            same_contrast=0.75 + 0.25 * easy,
            texture=0.06 + 0.3 * easy,
            same_texture=easy,
            scanner=1 - 0.9 * easy,
        )

    def _steps(self, share: float) -> int:
        configured = self.cascade.config.stages[self.index].steps
        return min(SHORT_STEPS, configured) if share < SHORT else configured

    @property
    def checkpoint(self) -> Path:
        """Where this stage is saved."""
        return self.folder / f"stage{self.index + 1}.ckpt"

    def save(self) -> None:
        """Write the checkpoint; an interruption leaves the one before."""
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(
            {
                "model": self.cascade.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "random": self.random.get_state(),
                "step": self.step,
            },
            temporary,
        )
        temporary.replace(self.checkpoint)

    def resume(self) -> None:
        """Go on where the checkpoint stopped, if there is one."""
        if self.checkpoint.is_file():
            state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
            self.cascade.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.random.set_state(state["random"].cpu())
            self.step = state["step"]

    def run(self, every: int = 100) -> None:
        """Train to the end of the schedule, validating and saving every so many steps."""
        plan, began, losses = self.plan, time.monotonic(), []
        while self.step < plan.steps:
            share = self.step / plan.steps
            source, batch = self._source(share, self.heads), plan.batch
            if torch.rand((), generator=self.random, device=self.device) < plan.small:
                source, batch = replace(source, size=(plan.size // 2,) * 3), 2 * batch
            rate = min(1.0, (self.step + 1) / 100) * (1 + math.cos(math.pi * share)) / 2
            for group in self.optimiser.param_groups:
                group["lr"] = plan.learning_rate * rate
            self.cascade.eval()
            _training_mode(self.stage, averages=share < plan.frozen_averages)
            pairs = [source.draw(self.random) for _ in range(batch)]
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = loss_of(
                    self.cascade,
                    self.index,
                    pairs,
                    plan,
                    dice=plan.dice if share > DICE_FROM else 0.0,
                    steps=self._steps(share),
                )
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"the loss is {loss.item()} at step {self.step}")
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.stage.parameters(), 1.0)
            self.optimiser.step()
            losses.append(loss.item())
            self.step += 1
            if self.step % every == 0 or self.step == plan.steps:
                metrics = validate(self.cascade, self.index, self.validation)
                line = {
                    "step": self.step,
                    "seconds": round(time.monotonic() - began),
                    "loss": sum(losses) / len(losses),
                    **metrics,
                }
                losses.clear()
                with (self.folder / f"stage{self.index + 1}.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                self.save()


def main() -> None:
    """Train one stage from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="base", choices=sorted(PRESETS))
    parser.add_argument("--stage", type=int, required=True, choices=sorted(SCHEDULES))
    parser.add_argument("--data", type=Path, required=True, help="folder of SynthSeg's label maps")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.stage)
    cascade, index = Cascade(PRESETS[options.preset]), options.stage - 1
    if index:
        below = torch.load(
            options.output / f"stage{index}.ckpt", weights_only=True, map_location="cpu"
        )
        cascade.load_state_dict(below["model"])
        learned, start = (cascade.stage(n).state_dict() for n in (index - 1, index))
        if {n: x.shape for n, x in learned.items()} == {n: x.shape for n, x in start.items()}:
            # What registers at one resolution is a good start at the next.
            cascade.stage(index).load_state_dict(learned)
    cascade.to(options.device)
    maps = [head.to(options.device) for head in read_label_maps(options.data)]
    training = Training(cascade, index, SCHEDULES[options.stage], maps, options.output)
    training.resume()
    training.run()


if __name__ == "__main__":
    main()
