"""Cases of the local correlation, and what the torch definition makes of them."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rwcnet_ref.correlation import local_correlation
from rwcnet_runtime.kernels.local_correlation import CorrelationKernel

# Channels, outputs, radius, metric, half precision: small and odd ones, those of `base`, those of
# `thesis` at its coarse stages, and more channels than a thread takes at once.
KERNELS = [
    CorrelationKernel(3, 2, 1, "dot", False),
    CorrelationKernel(3, 5, 1, "absolute_difference", True),
    CorrelationKernel(8, 8, 2, "dot", True),
    CorrelationKernel(16, 8, 3, "dot", False),
    CorrelationKernel(16, 8, 3, "absolute_difference", False),
    CorrelationKernel(34, 1, 0, "dot", False),
    CorrelationKernel(20, 3, 2, "absolute_difference", False),
]


@dataclass
class Case:
    """One call of a kernel: its arrays, what they must become, and how close."""

    kernel: CorrelationKernel
    inputs: list[Tensor]
    expected: Tensor
    tolerance: float


def _make(kernel: CorrelationKernel, grid: tuple[int, int, int], batch: int = 2) -> Case:
    generator = torch.Generator().manual_seed(0)
    n = 2 * kernel.radius + 1
    maps = (batch, kernel.channels, *grid)
    shapes = [maps, maps, (kernel.outputs, 1, n, n, n), (kernel.outputs,)]
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    # As a model starts: outputs of order one, so that a tolerance means something.
    inputs[2] /= math.sqrt(kernel.channels * n**3)
    if kernel.half:
        inputs = [x.half() for x in inputs]
    exact = (x.float() for x in inputs)
    expected = local_correlation(*exact, radius=kernel.radius, metric=kernel.metric)
    # In half precision only the result is rounded, to 11 bits.
    tolerance = 2**-11 * float(expected.abs().max()) + 1e-4 if kernel.half else 1e-4
    return Case(kernel, inputs, expected, tolerance)


@pytest.fixture
def make_case():
    """Make a case of a kernel on a grid (i, j, k), a batch of two."""
    return _make


@pytest.fixture
def kernels():
    """Return all kernels that tests run."""
    return KERNELS


@pytest.fixture(params=KERNELS, ids=str)
def kernel(request):
    """Each kernel in turn."""
    return request.param
