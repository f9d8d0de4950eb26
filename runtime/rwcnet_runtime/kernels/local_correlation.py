"""`LocalCorrelation3d` on a CUDA device: what its kernel is compiled for, and its launch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.kernels.nvrtc import compile_cuda

NAME = "local_correlation"
METRICS = ("dot", "absolute_difference")

# Of local_correlation.cu: voxels along k of a block, voxels along j of a thread.
_LINE, _STRIP = 32, 4
# What every GPU since compute capability 3.0 gives a block without being asked for more.
_SHARED_BYTES = 48 * 1024
# Feature channels of a thread's voxels are kept in registers, and more than 16 x 4 do not fit.
_MOST_CHANNELS = 16


def source() -> str:
    """Return the CUDA C++ source."""
    return (resources.files(__package__) / f"{NAME}.cu").read_text()


@dataclass(frozen=True)
class CorrelationKernel:
    """The kernel for given sizes; batch and grid are free at the launch.

    Attributes
    ----------
    channels
        Channels of the feature maps.
    outputs
        Channels they are projected to.
    radius
        Search radius in voxels.
    metric
        "dot" or "absolute_difference"; what they are is in `rwcnet_ref.correlation`.
    half
        Whether all arrays are float16 instead of float32. Sums are kept in float32.

    Raises
    ------
    BackendError
        If there is no such metric, or the weights do not fit into a block's shared memory.
    """

    channels: int
    outputs: int
    radius: int
    metric: str
    half: bool

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BackendError(
                f"LocalCorrelation3d has no metric {self.metric!r}, only {' and '.join(METRICS)}"
            )
        if self._bytes(1) > _SHARED_BYTES:
            raise BackendError(
                f"the CUDA kernel of LocalCorrelation3d needs {self._bytes(1)} bytes of shared "
                f"memory for radius {self.radius} and {self.outputs} outputs and has "
                f"{_SHARED_BYTES}; leave the plugin out, and TensorRT runs the function body"
            )

    @property
    def _computed(self) -> tuple[int, int, int]:
        """What a block computes, (i, j, k) in voxels: with neighbours to average a larger tile."""
        return (2, 8, _LINE) if self.metric == "dot" else (6, 8, _LINE)

    @property
    def tile(self) -> tuple[int, int, int]:
        """What a block writes, (i, j, k) in voxels: without the layer that is only averaged."""
        halo = 0 if self.metric == "dot" else 1
        i, j, k = (n - 2 * halo for n in self._computed)
        return i, j, k

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return math.prod(self._computed) // _STRIP

    def blocks(self, size: Sequence[int]) -> int:
        """Return the blocks of one image of size (i, j, k); a batch is the grid's second axis."""
        return math.prod(-(-n // t) for n, t in zip(size, self.tile, strict=True))

    @property
    def macros(self) -> dict[str, int]:
        """What the source wants defined."""
        # All channels at once if they fit, since the projection is repeated for every group.
        group = max(
            n
            for n in range(1, min(self.channels, _MOST_CHANNELS) + 1)
            if self.channels % n == 0 and self._bytes(n) <= _SHARED_BYTES
        )
        tile_i, tile_j, _ = self._computed
        return {
            "CHANNELS": self.channels,
            "OUTPUTS": self.outputs,
            "RADIUS": self.radius,
            "GROUP": group,
            "TILE_I": tile_i,
            "TILE_J": tile_j,
            "ABSOLUTE_DIFFERENCE": int(self.metric == "absolute_difference"),
            "HALF": int(self.half),
        }

    def _bytes(self, group: int) -> int:
        """Return the shared memory of a block that takes so many channels at once."""
        i, j, k = self._computed
        plane = group * (j + 2 * self.radius) * (k + 2 * self.radius)
        averaged = 0 if self.metric == "dot" else i * j * k
        return 4 * (max(plane, averaged) + self.outputs * (2 * self.radius + 1) ** 3)

    def compile(self, architecture: str = "compute_80") -> bytes:
        """Compile the kernel, by default to PTX for every GPU since 8.0; see `compile_cuda`."""
        return compile_cuda(f"{NAME}.cu", source(), self.macros, architecture)
