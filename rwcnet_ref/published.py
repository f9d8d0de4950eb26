"""The published network and its chain of stages, peculiarities included (Sivan 2022).

The names of the parts are those of the published checkpoints, so that their keys fit; two of the
parts have weights that nothing uses. What this toolkit's own presets do otherwise is listed in
rwcnet_ref/README.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rwcnet_ref.config import StageConfig
from rwcnet_ref.correlation import StackedFeatures, local_correlation
from rwcnet_ref.model import Cascade, RecurrentStage


def _encoder(width: int, channels_in: int, channels_out: int) -> nn.Module:
    """Return MONAI's SegResNet; each axis must be a multiple of 8."""
    try:
        # Only who builds this network needs it.
        from monai.networks.nets.segresnet import SegResNet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the published network needs MONAI, and there is no module {error.name}: "
            "pip install monai"
        ) from error
    return SegResNet(init_filters=width, in_channels=channels_in, out_channels=channels_out)


class AbsoluteDifference(nn.Module):
    """`local_correlation` by absolute difference, weights laid out as in the checkpoints.

    Parameters
    ----------
    projected
        Output channels o.
    radius
        Search radius in voxels.
    """

    def __init__(self, projected: int, radius: int) -> None:
        super().__init__()
        self.radius = radius
        convolution = nn.Conv3d((2 * radius + 1) ** 3, projected, 1)
        assert convolution.bias is not None
        self.weight, self.bias = convolution.weight, convolution.bias

    def kernel(self) -> Tensor:
        """Return the weights as `local_correlation` takes them, (o, 1, n, n, n)."""
        n = 2 * self.radius + 1
        # The offset along i runs fastest in the checkpoints.
        return self.weight.view(-1, 1, n, n, n).permute(0, 1, 4, 3, 2)

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        """(b, c, i, j, k) twice to (b, o, i, j, k); no gradient reaches the features."""
        return local_correlation(
            fixed.detach(),
            moving.detach(),
            self.kernel(),
            self.bias,
            radius=self.radius,
            metric="absolute_difference",
        )


class MotionEncoder(nn.Module):
    """Features (b, c, ...) twice and the last change of flow to motion (b, motion, ...)."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        width = config.projected
        self.convc1 = (
            AbsoluteDifference(width, config.radius)
            if config.correlate
            else StackedFeatures(config.features, width)
        )
        self.convc2 = nn.Conv3d(width, width, 3, padding=1)
        self.convf1 = nn.Conv3d(3, width // 2, 7, padding=3)
        self.convf2 = nn.Conv3d(width // 2, width, 3, padding=1)
        self.conv = nn.Conv3d(2 * width, config.motion - 3, 3, padding=1)

    def forward(self, fixed: Tensor, moving: Tensor, delta: Tensor) -> Tensor:
        """Encode."""
        cost = self.convc2(self.convc1(fixed, moving).relu()).relu()
        flow = self.convf2(self.convf1(delta).relu()).relu()
        return torch.cat([self.conv(torch.cat([cost, flow], dim=1)).relu(), delta], dim=1)


class ConvGRU(nn.Module):
    """A gated recurrent unit whose reset gate is its update gate; `convr` is never used."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        self.convz, self.convr, self.convq = (
            nn.Conv3d(hidden + inputs, hidden, 3, padding=1) for _ in range(3)
        )

    def forward(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """(b, hidden, i, j, k) and (b, inputs, i, j, k) to the next (b, hidden, i, j, k)."""
        gate = self.convz(torch.cat([hidden, inputs], dim=1)).sigmoid()
        candidate = self.convq(torch.cat([gate * hidden, inputs], dim=1)).tanh()
        mixed: Tensor = (1 - gate) * hidden + gate * candidate
        return mixed


class Update(nn.Module):
    """The parts of one recurrent step."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.encoder = MotionEncoder(config)
        self.gru = ConvGRU(config.hidden, config.motion + config.features)
        self.flowhead = nn.Sequential(
            nn.Conv3d(config.hidden, 2 * config.hidden, 3, padding=1),
            nn.LeakyReLU(0.01),
            nn.Conv3d(2 * config.hidden, 3, 3, padding=1),
        )


class PublishedStage(RecurrentStage):
    """The published recurrent network of one resolution; see `RecurrentStage`."""

    def __init__(self, config: StageConfig, hidden_below: int) -> None:
        super().__init__(config, hidden_below)
        if hidden_below != config.hidden:
            raise ValueError(
                f"hidden is {config.hidden} above {hidden_below}; the published stages have the "
                "same number of channels"
            )
        self.feature_extractor = _encoder(config.encoder, 1, config.features)
        self.context = _encoder(config.encoder, 4, config.hidden)
        self.update = Update(config)
        self.flow_upsample = nn.Sequential(  # never used
            nn.Conv3d(3, 3, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(3, 3, 3, padding=1)
        )

    @property
    def features(self) -> nn.Module:
        """The encoder alone."""
        return self.feature_extractor

    @property
    def head(self) -> nn.Sequential:
        """From hidden state to a change of the flow."""
        return self.update.flowhead

    def unroll(
        self, fixed: Tensor, moving: Tensor, hidden: Tensor | None = None, steps: int | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Run the recurrent steps and keep the flow after each."""
        both = self.feature_extractor(torch.cat([fixed, moving]))
        batch = fixed.shape[0]  # not len(): that would fix the batch size when traced
        fixed_features, warped = both[:batch], both[batch:]
        flow = torch.zeros_like(fixed, dtype=torch.float32).expand(-1, 3, -1, -1, -1)
        context = torch.tanh(self.context(torch.cat([flow, moving], dim=1)))
        hidden = context if hidden is None else context + hidden
        delta = flow
        flows: list[Tensor] = []
        for step in range(steps or self.config.steps):
            if step:
                warped = self.warp(warped, delta)
            motion = self.update.encoder(fixed_features, warped, delta)
            hidden = self.update.gru(hidden, torch.cat([motion, warped], dim=1))
            delta = self.update.flowhead(hidden).float()
            flow = flow + delta
            flows.append(self.integrate(flow))
        return flows, hidden


class PublishedCascade(Cascade):
    """The published chain: nearest neighbours between grids, zeros outside when flows compose."""

    stage_class = PublishedStage

    def reduce(self, image: Tensor, factor: int) -> Tensor:
        """Keep every factor-th voxel along each axis, the first one on."""
        return image[:, :, ::factor, ::factor, ::factor]

    def enter(
        self, moving: Tensor, below: tuple[Tensor, Tensor] | None, index: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Repeat each voxel of flow and hidden state; see `Cascade.enter`."""
        if below is None:
            return super().enter(moving, below, index)
        flow, hidden = (F.interpolate(x, scale_factor=2.0, mode="nearest") for x in below)
        return self.warp(moving, 2 * flow), 2 * flow, hidden

    def compose(self, step: Tensor, below: Tensor) -> Tensor:
        """Put the flow of a stage on top of the flow below it, zero outside the grid."""
        moved: Tensor = self.warp(below, step)
        return step + moved
