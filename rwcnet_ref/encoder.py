"""The two encoders of a stage: features to correlate, and where the recurrence starts from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _convolution(
    channels_in: int, channels_out: int, dilation: int = 1, stride: int = 1
) -> nn.Sequential:
    # With a stride of 2 the window has an even edge: its middle is the middle of a block of voxels,
    # where half-pixel resizing puts the coarser grid.
    size = 3 if stride == 1 else 4
    return nn.Sequential(
        nn.Conv3d(
            channels_in,
            channels_out,
            size,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            bias=False,
        ),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(),
    )


class UnitVoxels(nn.Module):
    """Scale the channel vector of each voxel to length one, very short ones to less.

    Dot products then lie within -1..1: they compare directions, and the edge of a bright structure
    no longer outshouts a match.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, i, j, k) to the same."""
        return features * (features.square().sum(1, keepdim=True) + 0.01).rsqrt()


class FeatureEncoder(nn.Sequential):
    """Image (b, 1, i, j, k) to centred features of unit length (b, features, i, j, k).

    With a stride of 2 the features lie on the grid of half as many voxels along each axis.

    The last normalisation has no affine part: features with a common offset correlate everywhere,
    and the recurrence learns nothing from that. At inference all normalisations use the stored
    averages, so that a patch gives what the whole image gives.
    """

    def __init__(self, width: int, features: int, stride: int = 1) -> None:
        super().__init__(
            _convolution(1, width, stride=stride),
            _convolution(width, width),
            _convolution(width, width, dilation=2),
            nn.Conv3d(width, features, 1, bias=False),
            nn.BatchNorm3d(features, affine=False),
            UnitVoxels(),
        )


class ContextEncoder(nn.Sequential):
    """Fixed image (b, 1, i, j, k) to the first hidden state, within -1..1, (b, hidden, i, j, k).

    Strides are those of `FeatureEncoder`.
    """

    def __init__(self, width: int, hidden: int, stride: int = 1) -> None:
        super().__init__(
            _convolution(1, width, stride=stride), nn.Conv3d(width, hidden, 3, padding=1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Encode."""
        return torch.tanh(super().forward(image))  # type: ignore[no-untyped-call]
