"""The training of one stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rwcnet_ref.losses import REGULARISERS
from rwcnet_ref.model import Cascade
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.log import Log
from rwcnet_ref.training.settings import Settings
from rwcnet_ref.training.sources import StageData
from rwcnet_ref.training.step import NotFiniteError, batch_loss, pair_loss, seed_of
from rwcnet_ref.training.validation import choose, measures, still, validate
from rwcnet_runtime.errors import InputError

# Recurrent steps while the recurrence is cut short.
_SHORT_STEPS = 2
# Validation pairs looked at before the first step.
_REHEARSED = 8

_OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Training:
    """One stage's training: everything that goes into its checkpoint.

    Goes on from the checkpoint in the folder, if there is one.

    Parameters
    ----------
    cascade
        The model on its device, the stages below already trained; they stay as they are.
    index
        The stage to train, 0 is the coarsest.
    settings
        Of the whole training.
    data
        Pairs at this stage's resolution.
    folder
        Where everything is written.

    Raises
    ------
    InputError
        If the checkpoint is damaged.
    """

    def __init__(
        self,
        cascade: Cascade,
        index: int,
        settings: Settings,
        data: StageData,
        folder: RunFolder,
    ) -> None:
        self.cascade, self.index, self.settings = cascade, index, settings
        self.data, self.folder = data, folder
        self.plan = settings.stages[index]
        self.device = next(cascade.parameters()).device
        cascade.eval().requires_grad_(False)
        self.stage = cascade.stage(index).requires_grad_(True)
        self.optimiser = _OPTIMISERS[settings.run.optimiser](
            self.stage.parameters(), lr=self.plan.learning_rate
        )
        self.averaged = AveragedModel(cascade, avg_fn=_averaging(settings.run.ema))
        self.step, self.seconds = 0, 0.0
        self.best = math.inf
        self.losses: list[float] = []  # since the last validation
        state = folder.load_state(index)
        if state is not None:
            try:
                self._restore(state)
            except torch.OutOfMemoryError:
                raise
            except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                raise folder.damaged(index) from error

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, float], None] = lambda step, loss: None,
        report: Callable[[dict[str, float]], None] = lambda metrics: None,
    ) -> bool:
        """Train to the last step, validating and saving every so many steps.

        Parameters
        ----------
        stop
            Asked before every step; when it says so, the state is saved.
        progress
            Told the number and the loss of every step.
        report
            Told the metrics of every validation.

        Returns
        -------
        bool
            Whether the stage is trained; False if it was stopped.

        Raises
        ------
        InputError
            Before the first step, if the data cannot give what losses or `best` need.
        NotFiniteError
            If the loss, its gradient, or the measure that chooses the weights is no number.
        """
        if self.step == self.plan.steps:
            return True
        self._rehearse()
        self.folder.claim(self.settings.given)
        every = self.settings.run
        log = Log(self.folder.log(self.index), self.folder.events(self.index), self.step)
        began = time.monotonic() - self.seconds
        try:
            while self.step < self.plan.steps:
                if stop():
                    self.save()
                    return False
                loss = self._advance()
                last = self.step == self.plan.steps
                self.seconds = time.monotonic() - began
                metrics = None
                if last or self.step % every.validate_every == 0:
                    metrics = self._validate()
                    log.write(self.step, metrics)
                if last or self.step % every.save_every == 0:
                    self.save()
                progress(self.step, loss)
                if metrics is not None:
                    report({"step": self.step, **metrics})
        finally:
            log.close()
        return True

    def save(self) -> None:
        """Write the checkpoint; an interruption leaves the one before."""
        state = {
            "cascade": self.cascade.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "losses": self.losses,
        }
        self.folder.save_state(self.index, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.cascade.load_state_dict(state["cascade"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.best, self.losses = state["best"], state["losses"]

    def _rehearse(self) -> None:
        """Find out before the first step what could not work at a later one."""
        random = torch.Generator(self.device).manual_seed(0)
        weights = self.plan.weights()
        first = list(islice(self.data.validation(), _REHEARSED))
        judged: set[str] = set()
        for pair in [*self.data.batch(1.0, random), *first]:
            judged |= pair_loss([still(pair)], weights, 1.0)[1].keys()
        try:
            for pair in self.data.batch(0.0, random):
                pair_loss([still(pair)], self.plan.weights(0.0), 1.0)
        except InputError as error:
            late = [
                name for name in weights if name not in REGULARISERS | self.plan.weights(0.0).keys()
            ]
            sooner = (
                f", or let {' or '.join(late)} count from the start (after = 0)" if late else ""
            )
            raise InputError(f"at the first step {error}{sooner}") from error
        validate(self._shown(), self.index, first[:1], weights)
        if weights.keys() - judged:
            raise InputError(
                f"no pair seen at the start has what the losses "
                f"{', '.join(sorted(weights.keys() - judged))} need: leave them out, or give other "
                "data"
            )
        best = self.settings.run.best
        can = {"validation_loss"}.union(*(measures(still(pair)) for pair in first))
        if best is not None and best not in can:
            raise InputError(
                f"training.best is {best}, which these validation pairs cannot give: choose "
                "another, or leave it out"
            )

    def _advance(self) -> float:
        """Do one step of the optimiser and return its loss."""
        plan, share = self.plan, self.step / self.plan.steps
        seed = seed_of(self.settings.run.seed, self.index, self.step + 1)
        random = torch.Generator(self.device).manual_seed(seed)
        torch.manual_seed(seed)  # dropout, where a network has it
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self._training_mode(averages=share < plan.frozen_averages)
        pairs = self.data.batch(share, random)
        steps = self.stage.config.steps
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.settings.run.precision == "bf16"
        ):
            loss = batch_loss(
                self.cascade,
                self.index,
                pairs,
                random,
                plan.weights(share),
                plan.decay,
                min(_SHORT_STEPS, steps) if share < plan.short else steps,
            )
        self.optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.stage.parameters(), plan.clip or math.inf)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            path = self.folder.save_batch(
                self.index, pairs, step=self.step, seed=seed, loss=loss.item()
            )
            raise NotFiniteError(
                f"the loss is {loss.item()} and the norm of its gradient {norm.item()} at step "
                f"{self.step} of stage {self.index + 1}: {path} holds the batch; lower the "
                "learning rate or set training.clip, in a new folder"
            )
        self.optimiser.step()
        self.averaged.update_parameters(self.cascade)
        self.step += 1
        self.losses.append(loss.item())
        return self.losses[-1]

    def _learning_rate(self) -> float:
        plan = self.plan
        rate = plan.learning_rate * min(1.0, (self.step + 1) / max(1, plan.warm_up))
        if plan.rate == "cosine":
            rate *= (1 + math.cos(math.pi * self.step / plan.steps)) / 2
        return rate

    def _training_mode(self, averages: bool) -> None:
        self.stage.train()
        if not averages:
            for module in self.stage.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.eval()

    def _shown(self) -> Cascade:
        """Return the cascade with averaged weights, as it is validated and kept."""
        cascade = self.averaged.module.eval()
        assert isinstance(cascade, Cascade)
        return cascade

    def _validate(self) -> dict[str, float]:
        """Measure the averaged weights, and keep them if they are the best so far.

        After a kill the file of the best can be of a later step than the checkpoint. Training goes
        by the checkpoint alone: the file may be replaced by worse weights, never by worse ones than
        the best that the checkpoint knows of.
        """
        cascade = self._shown()
        metrics = validate(cascade, self.index, self.data.validation(), self.plan.weights())
        name, value = choose(metrics, self.settings.run.best)
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{name} is {metrics[name]} in the validation at step {self.step} of stage "
                f"{self.index + 1}: lower the learning rate or set training.clip, in a new folder"
            )
        if value < self.best:
            self.best = value
            self.folder.save_weights(self.folder.best(self.index), cascade, self.settings.about)
        loss = sum(self.losses) / len(self.losses)
        self.losses = []
        return {"seconds": round(self.seconds, 1), "loss": loss, **metrics}


def _averaging(largest: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the rule of an exponential moving average that follows quickly at the start.

    It holds for weights; the averages stored in batch normalisations are those of the live weights.
    """

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        decay = min(largest, (1 + int(count)) / (10 + int(count)))
        return torch.lerp(averaged, current, 1 - decay)

    return average
