"""What the tests of the model share: models that move things, and a head of a few ellipsoids."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from rwcnet_ref.build import build
from rwcnet_ref.config import ModelConfig
from rwcnet_ref.model import Cascade
from rwcnet_ref.pairs import LabelMap

# Background, left and right white matter, left and right ventricle, skull.
CLASSES = [0, 1, 1, 2, 2, 3]
BRAIN = [False, True, True, True, True, False]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are too small to share, and one thread always sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def random() -> torch.Generator:
    """Return a source of randomness, always the same."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def lively() -> Callable[[ModelConfig], Cascade]:
    """Make untrained models to evaluate: stored averages matter and flows reach voxels."""

    def make(config: ModelConfig) -> Cascade:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            cascade = build(config).eval().requires_grad_(False)
            for module in cascade.modules():
                if isinstance(module, nn.BatchNorm3d):
                    module.running_mean.uniform_(-0.2, 0.2)
                    module.running_var.uniform_(0.5, 1.5)
            for stage in cascade.stages:
                last = stage.head[-1]
                nn.init.normal_(last.weight, std=5 / math.sqrt(last.weight[0].numel()))
        return cascade

    return make


@pytest.fixture
def head() -> LabelMap:
    """Return two hemispheres with a ventricle each in a skull, 48 x 44 x 40."""
    size = (48, 44, 40)
    points = torch.stack(torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij"), -1)

    def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> Tensor:
        return ((points - torch.tensor(centre)) / torch.tensor(radii)).square().sum(-1) < 1

    labels = torch.zeros(size, dtype=torch.int64)
    labels[ellipsoid((23.5, 21.5, 19.5), (22, 20, 18))] = 5
    brain = ellipsoid((23.5, 21.5, 19.5), (18, 16, 14))
    left = points[..., 0] < 23.5
    labels[brain & left], labels[brain & ~left] = 1, 2
    labels[ellipsoid((16, 23, 20), (5, 7, 5))] = 3
    labels[ellipsoid((31, 23, 20), (5, 7, 5))] = 4
    return LabelMap(labels, torch.tensor(CLASSES), torch.tensor(BRAIN), (23.5, 21.5, 19.5))
