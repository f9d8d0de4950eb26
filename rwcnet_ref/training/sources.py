"""Where the pairs of a stage come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from rwcnet_ref.datasets import CaseSource, Files, read_learn2reg
from rwcnet_ref.heads import LabelMap, read_label_maps
from rwcnet_ref.model import Cascade
from rwcnet_ref.pair import CountedPairs, Pair, PairSource
from rwcnet_ref.pairs import SyntheticSource
from rwcnet_ref.training.sections import Learn2RegData, PairsData, StageSettings, SyntheticData
from rwcnet_ref.training.settings import Settings
from rwcnet_ref.training.step import seed_of
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation import read_cases

# Losses that no pair of two heads, whose displacement nobody knows, can be judged by.
_UNJUDGED = {"error", "gradient", "bending", "folds"}


class StageData(Protocol):
    """Pairs at the resolution of one stage."""

    def batch(self, share: float, random: torch.Generator) -> list[Pair]:
        """Draw the pairs of a step when `share` of the steps are done, on the generator's device.

        Nothing else is random, and nothing is remembered.
        """
        ...

    def validation(self) -> Iterator[Pair]:
        """Yield the pairs to validate on, always the same, on the same device."""
        ...


class SyntheticStage:
    """Pairs from heads and shapes.

    Parameters
    ----------
    plan
        Of the stage.
    resolution
        Of the stage.
    first
        Whether the stage is the coarsest; only its pairs start easy.
    heads, held_out
        Heads to train and to validate on, on the device; none for shapes alone.
    unseen
        Source of the validation pairs.
    count
        Number of the validation pairs.
    """

    def __init__(
        self,
        plan: StageSettings,
        resolution: int,
        first: bool,
        heads: Sequence[LabelMap],
        held_out: Sequence[LabelMap],
        unseen: torch.Generator,
        count: int,
    ) -> None:
        self.plan, self.resolution, self.first = plan, resolution, first
        self.heads = heads
        source = self.source(1.0, held_out)
        self._validation = [source.draw(unseen) for _ in range(count)]

    def source(self, share: float, heads: Sequence[LabelMap]) -> SyntheticSource:
        """Return what pairs are drawn from when `share` of the steps are done.

        The first stage's start easy: shapes alone, textured, of one contrast and one scanner. Two
        heads come with the first loss that can judge them.
        """
        plan = self.plan
        easy = max(0.0, 1 - share / plan.easy) if plan.easy and self.first else 0.0
        return SyntheticSource(
            (plan.size,) * 3,
            self.resolution,
            plan.amplitude,
            heads,
            1.0 if easy else plan.shapes,
            plan.two_heads if plan.weights(share).keys() - _UNJUDGED else 0.0,
            same_contrast=plan.same_contrast + (1 - plan.same_contrast) * easy,
            texture=0.06 + 0.3 * easy,
            same_texture=easy,
            scanner=1 - 0.9 * easy,
        )

    def batch(self, share: float, random: torch.Generator) -> list[Pair]:
        """Draw pairs; in some steps smaller ones, and twice as many; in some, finer ones."""
        source, count = self.source(share, self.heads), self.plan.batch
        chance = torch.rand(3, generator=random, device=random.device)
        if chance[0] < self.plan.small:
            source, count = replace(source, size=(self.plan.size // 2,) * 3), 2 * count
        if chance[1] < self.plan.finer and self.resolution > 1:
            halvings = 1 + int(chance[2] * math.log2(self.resolution))
            source = replace(
                source,
                resolution=self.resolution >> halvings,
                amplitude=source.amplitude / 2**halvings,
                # Without the stages below, two heads are too far apart for a fine one.
                two_heads=0.0,
            )
        return [source.draw(random) for _ in range(count)]

    def validation(self) -> Iterator[Pair]:
        """Yield pairs of the held-out heads and of shapes."""
        yield from self._validation


class CaseStage:
    """Pairs from files.

    Parameters
    ----------
    training, held_out
        What is drawn from, and what is validated on, in order.
    count
        Pairs a step.
    device
        Of the validation pairs.
    """

    def __init__(
        self, training: PairSource, held_out: CountedPairs, count: int, device: torch.device
    ) -> None:
        self._training, self._held_out = training, held_out
        self._count, self._device = count, device

    def batch(self, share: float, random: torch.Generator) -> list[Pair]:
        """Draw pairs, augmented; they are the same kind from the first step to the last."""
        return [self._training.draw(random) for _ in range(self._count)]

    def validation(self) -> Iterator[Pair]:
        """Yield the pairs held out, as they are."""
        for n in range(len(self._held_out)):
            yield self._held_out.pair(n, self._device)


def open_data(settings: Settings, device: torch.device) -> Callable[[Cascade, int], StageData]:
    """Read what all stages share, and return what makes the pairs of one stage.

    Raises
    ------
    InputError
        If files are missing, or too few.
    """
    if isinstance(settings.data, SyntheticData):
        return _synthetic(settings, settings.data, device)
    return _cases(settings, settings.data, device)


def _cases(
    settings: Settings, data: Learn2RegData | PairsData, device: torch.device
) -> Callable[[Cascade, int], StageData]:
    if isinstance(data, Learn2RegData):
        dataset = read_learn2reg(data.file)
        training, held_out, labels = dataset.training, dataset.validation, dataset.labels
    else:
        training = read_cases(data.file, data.folder)
        held_out, labels = read_cases(data.validation_file, data.folder), ()
    if not held_out:
        raise InputError(f"{data.file} names no pairs to validate on: add them")
    files = Files(data.intensity, data.cache_gb)

    def stage(cascade: Cascade, index: int) -> StageData:
        source = CaseSource(
            training,
            files,
            cascade.config.stages[index].resolution,
            cascade.config.multiple,
            cascade.reduce,
            labels,
            shared_grid=isinstance(data, Learn2RegData),
            augmentation=settings.augmentation,
        )
        unchanged = replace(source, cases=held_out[: data.validation])
        return CaseStage(source, unchanged, settings.stages[index].batch, device)

    return stage


def _synthetic(
    settings: Settings, data: SyntheticData, device: torch.device
) -> Callable[[Cascade, int], StageData]:
    heads: list[LabelMap] = []
    if data.maps is not None:
        try:
            heads = [head.to(device) for head in read_label_maps(data.maps)]
        except FileNotFoundError as error:
            raise InputError(f"{error}: give another folder as data.maps") from error
        if len(heads) < data.held_out + 2:
            raise InputError(
                f"{data.maps} holds {len(heads)} label maps, too few to hold {data.held_out} out: "
                "give at least two more"
            )

    def stage(cascade: Cascade, index: int) -> StageData:
        seed = seed_of(settings.run.seed, index, 0)  # training counts from 1
        cut = len(heads) - data.held_out if heads else 0
        return SyntheticStage(
            settings.stages[index],
            cascade.config.stages[index].resolution,
            index == 0,
            heads[:cut],
            heads[cut:],
            torch.Generator(device).manual_seed(seed),
            data.validation,
        )

    return stage
