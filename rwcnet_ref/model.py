"""A stage (one resolution, N recurrent steps) and the coarse-to-fine cascade of stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from rwcnet_ref.config import ModelConfig, StageConfig
from rwcnet_ref.correlation import LocalCorrelation, StackedFeatures
from rwcnet_ref.encoder import ContextEncoder, FeatureEncoder
from rwcnet_ref.grid import Warp, compose, downsample, exponential, upsample
from rwcnet_ref.patches import Patch, in_patches, lay_out
from rwcnet_ref.update import ConvGRU, FlowHead, MotionEncoder


class RecurrentStage(nn.Module):
    """What chain, training and export know of the recurrent network of one resolution.

    Besides the methods: `features`, the encoder alone, (b, 1, i, j, k) to (b, features, i, j, k).

    Parameters
    ----------
    config
        Sizes.
    hidden_below
        Channels of the hidden state of the stage below (its own at the first stage).
    """

    def __init__(self, config: StageConfig, hidden_below: int) -> None:
        super().__init__()
        self.config = config
        self.warp = Warp()

    def unroll(
        self, fixed: Tensor, moving: Tensor, hidden: Tensor | None = None, steps: int | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Run the recurrent steps and keep the flow after each.

        Parameters
        ----------
        fixed, moving
            (b, 1, i, j, k), intensities within 0..1; the moving image is already warped by the
            flow of the stage below.
        hidden
            (b, hidden, i, j, k), what `Cascade.enter` made of the stage below, each axis divided by
            the stage's stride; None where nothing is inherited.
        steps
            Fewer than the configured steps, as early training wants; None for all.

        Returns
        -------
        flows
            A tensor (b, 3, i, j, k) float32 a step: this stage's own flow in its voxels.
        hidden
            (b, hidden, i, j, k), the state after the last step.
        """
        raise NotImplementedError

    def integrate(self, found: Tensor) -> Tensor:
        """Return the flow of what the steps added up: itself, or the exponential of a velocity."""
        return exponential(self.warp, found) if self.config.velocity else found

    def enlarge(self, flow: Tensor) -> Tensor:
        """Bring a flow from the grid of the features to the grid of the images."""
        return 2 * upsample(flow) if self.config.stride == 2 else flow

    def forward(
        self, fixed: Tensor, moving: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the last flow and the hidden state; see `unroll`."""
        flows, hidden = self.unroll(fixed, moving, hidden)
        return flows[-1], hidden


class Stage(RecurrentStage):
    """The recurrent network of one resolution, as this toolkit has it."""

    def __init__(self, config: StageConfig, hidden_below: int) -> None:
        super().__init__(config, hidden_below)
        self.features = FeatureEncoder(config.encoder, config.features, config.stride)
        self.context = ContextEncoder(config.encoder, config.hidden, config.stride)
        self.inherit = (
            nn.Identity()
            if hidden_below == config.hidden or not config.inherit
            else nn.Conv3d(hidden_below, config.hidden, 1)
        )
        self.correlation = (
            LocalCorrelation(config.projected, config.radius)
            if config.correlate
            else StackedFeatures(config.features, config.projected)
        )
        self.motion = MotionEncoder(config.projected, config.motion)
        self.gru = ConvGRU(config.hidden, config.motion + config.features)
        self.head = FlowHead(config.hidden)

    def unroll(
        self, fixed: Tensor, moving: Tensor, hidden: Tensor | None = None, steps: int | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Run the recurrent steps and keep the flow after each."""
        # One pass for both images: they share the encoder, and its statistics while training.
        both = self.features(torch.cat([fixed, moving]))
        batch = fixed.shape[0]  # not len(): that would fix the batch size when traced
        fixed_features, moving_features = both[:batch], both[batch:]
        context = self.context(fixed)
        hidden = context if hidden is None else context + hidden
        flow = torch.zeros_like(hidden[:, :1], dtype=torch.float32).expand(-1, 3, -1, -1, -1)
        warped = moving_features
        flows: list[Tensor] = []  # on the grid of the features, in its voxels
        for step in range(steps or self.config.steps):
            # As in RAFT, a step learns its own change, not how to repair the steps before it.
            flow = flow.detach()
            if step:
                # Always from the originals by the whole flow: warping a warped map blurs it.
                warped = self.warp(moving_features, flows[-1].detach())
            motion = self.motion(self.correlation(fixed_features, warped), flow)
            hidden = self.gru(hidden, torch.cat([motion, warped], dim=1))
            flow = flow + self.head(hidden).float()
            flows.append(self.integrate(flow))
        return [self.enlarge(flow) for flow in flows], hidden


class Cascade(nn.Module):
    """All stages, coarse to fine. Forward keeps no state.

    What another chain of stages does differently (`rwcnet_ref.published`) are the methods `reduce`,
    `enter` and `compose`, and the stage's class.

    Parameters
    ----------
    config
        The model's sizes.
    """

    stage_class: type[RecurrentStage] = Stage

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        below = [config.stages[0], *config.stages[:-1]]
        self.stages = nn.ModuleList(
            self.stage_class(stage, under.hidden)
            for stage, under in zip(config.stages, below, strict=True)
        )
        self.warp = Warp()

    def stage(self, index: int) -> RecurrentStage:
        """Return stage `index` (0 is the coarsest)."""
        stage = self.stages[index]
        assert isinstance(stage, RecurrentStage)
        return stage

    def reduce(self, image: Tensor, factor: int) -> Tensor:
        """Bring an image (b, c, i, j, k) to a coarser grid; axes are multiples of the factor."""
        return downsample(image, factor)

    def enter(
        self, moving: Tensor, below: tuple[Tensor, Tensor] | None, index: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Bring what the stage below found onto the grid of stage `index`.

        Parameters
        ----------
        moving
            Moving image at this stage's resolution, (b, 1, i, j, k), not warped.
        below
            Total flow and hidden state of the stage below, or None for the first stage.
        index
            The stage about to run.

        Returns
        -------
        moving, flow, hidden
            Moving image warped by the flow below, that flow on this grid (None at the first
            stage), and the hidden state on this grid in this stage's channels (None where the
            stage inherits nothing).
        """
        if below is None:
            return moving, None, None
        stage, under = self.stages[index], self.config.stages[index - 1]
        finer = under.resolution > self.config.stages[index].resolution
        flow = 2 * upsample(below[0]) if finer else below[0]
        if not self.config.inherits(index):
            return self.warp(moving, flow), flow, None
        assert isinstance(stage, Stage)
        # A 1x1x1 convolution and an interpolation commute: the small grid is the cheaper place.
        return self.warp(moving, flow), flow, upsample(stage.inherit(below[1]))

    def compose(self, step: Tensor, below: Tensor) -> Tensor:
        """Put the flow of a stage on top of the flow below it, both on its grid."""
        return compose(self.warp, step, below)

    def patches(self, index: int, shape: Sequence[int]) -> list[Patch]:
        """Return the patches that stage `index` runs a grid (i, j, k) of its own in."""
        config = self.config.stages[index]
        return lay_out(shape, patch=config.patch, halo=config.halo, parts=config.parts)

    def totals(
        self, fixed: Tensor, moving: Tensor, finest: int = -1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield after each stage the total flow so far on its images' grid, and its hidden state.

        Parameters
        ----------
        fixed, moving
            (b, 1, i, j, k), one grid, within 0..1, at the resolution of the stage `finest`. Each
            axis is such that the full one is a multiple of `config.multiple`.
        finest
            The last stage to run.
        """
        stages = self.config.stages[: finest % len(self.config.stages) + 1]
        unit = stages[-1].resolution
        multiple = self.config.multiple // unit
        if fixed.shape != moving.shape or fixed.ndim != 5 or fixed.shape[1] != 1:
            raise ValueError(
                f"fixed {tuple(fixed.shape)} and moving {tuple(moving.shape)} must both be "
                "(b, 1, i, j, k) on one grid"
            )
        if any(n % multiple for n in fixed.shape[2:]):
            raise ValueError(
                f"size {tuple(fixed.shape[2:])} must be a multiple of {multiple} on "
                "every axis; pad the images"
            )
        below: tuple[Tensor, Tensor] | None = None
        for index, config in enumerate(stages):
            still = self.reduce(fixed, config.resolution // unit)
            # The whole moving image is warped before patches are cut: a patch may need tissue
            # from outside it.
            warped, flow_below, hidden = self.enter(
                self.reduce(moving, config.resolution // unit), below, index
            )
            places = self.patches(index, still.shape[2:])
            inherited = [] if hidden is None else [hidden]
            flow, hidden = in_patches(self.stage(index), places, still, warped, *inherited)
            below = (flow if flow_below is None else self.compose(flow, flow_below), hidden)
            yield below

    def entering(
        self, fixed: Tensor, moving: Tensor, index: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run the stages below `index`, without gradients, and return what `enter` gives it.

        Parameters
        ----------
        fixed, moving
            As `totals` takes them, at the resolution of stage `index`.
        index
            The stage about to run.
        """
        below: tuple[Tensor, Tensor] | None = None
        with torch.no_grad():
            for total in islice(self.totals(fixed, moving, index), index):
                below = total
        return self.enter(moving, below, index)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """Return the total flow on the full grid, (b, 3, i, j, k) float32 in voxels."""
        *_, (flow, _) = self.totals(fixed, moving)
        return flow
