"""One recurrent update: motion encoder, ConvGRU, flow head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# With plain ReLUs most of the flow head dies in the first hundred steps, while its gradients are
# still noise, and takes one or two axes of the flow with it for good.
LEAK = 0.1


class MotionEncoder(nn.Module):
    """Projected correlation (b, projected, ...) and flow (b, 3, ...) to motion (b, motion, ...).

    The flow itself is kept as the last three channels, as in RAFT.
    """

    def __init__(self, projected: int, motion: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(projected + 3, motion - 3, 3, padding=1)
        self.activation = nn.LeakyReLU(LEAK)

    def forward(self, correlation: Tensor, flow: Tensor) -> Tensor:
        """Encode."""
        flow = flow.to(correlation.dtype)
        mixed = self.convolution(torch.cat([self.activation(correlation), flow], dim=1))
        return torch.cat([self.activation(mixed), flow], dim=1)


class ConvGRU(nn.Module):
    """Convolutional gated recurrent unit (Ballas et al. 2016), 3x3x3, both gates in one."""

    def __init__(self, hidden: int, inputs: int) -> None:
        super().__init__()
        self.gates = nn.Conv3d(hidden + inputs, 2 * hidden, 3, padding=1)
        self.candidate = nn.Conv3d(hidden + inputs, hidden, 3, padding=1)

    def forward(self, hidden: Tensor, inputs: Tensor) -> Tensor:
        """(b, hidden, i, j, k) and (b, inputs, i, j, k) to the next (b, hidden, i, j, k)."""
        update, reset = self.gates(torch.cat([hidden, inputs], dim=1)).sigmoid().chunk(2, dim=1)
        candidate: Tensor = self.candidate(torch.cat([reset * hidden, inputs], dim=1)).tanh()
        # Not torch.lerp, which refuses mixed types under autocast.
        mixed: Tensor = hidden + update * (candidate - hidden)
        return mixed


class FlowHead(nn.Sequential):
    """Hidden state (b, hidden, i, j, k) to a change of the flow (b, 3, i, j, k) in voxels."""

    def __init__(self, hidden: int) -> None:
        last = nn.Conv3d(hidden, 3, 3, padding=1)
        # Start close to "nothing moves": a random first flow would warp the features to noise.
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        super().__init__(nn.Conv3d(hidden, hidden, 3, padding=1), nn.LeakyReLU(LEAK), last)
