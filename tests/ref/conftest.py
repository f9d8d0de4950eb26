"""What the tests share: models that move things, a head of a few ellipsoids, a small training."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rwcnet_ref.build import build
from rwcnet_ref.config import TINY, ModelConfig
from rwcnet_ref.heads import LabelMap, centroids_of
from rwcnet_ref.model import Cascade
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.loop import Training
from rwcnet_ref.training.settings import Settings
from rwcnet_ref.training.sources import open_data

# Background, left and right white matter, left and right ventricle, skull.
CLASSES = [0, 1, 1, 2, 2, 3]
BRAIN = [False, True, True, True, True, False]
T1 = [math.nan, 0.85, 0.12, math.nan]

TRAINING: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "data": {"kind": "synthetic", "validation": 2},
    "losses": {"error": 1.0, "gradient": 0.05, "dice": {"weight": 0.5, "after": 0.5}},
    "training": {
        "size": 8,
        "small": 0.0,
        "steps": 4,
        "batch": 2,
        "learning_rate": 1e-3,
        "ema": 0.9,
        "validate_every": 3,
        "save_every": 2,
    },
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are too small to share, and one thread always sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def own_global_random() -> Iterator[None]:
    """Training seeds torch's global generator; other tests are to see nothing of it."""
    with torch.random.fork_rng():
        yield


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

    labels = torch.zeros(size, dtype=torch.uint8)
    labels[ellipsoid((23.5, 21.5, 19.5), (22, 20, 18))] = 5
    inside = ellipsoid((23.5, 21.5, 19.5), (18, 16, 14))
    left = points[..., 0] < 23.5
    labels[inside & left], labels[inside & ~left] = 1, 2
    labels[ellipsoid((16, 23, 20), (5, 7, 5))] = 3
    labels[ellipsoid((31, 23, 20), (5, 7, 5))] = 4
    brain = torch.tensor(BRAIN)
    return LabelMap(
        labels, torch.tensor(CLASSES), brain, torch.tensor(T1), centroids_of(labels, brain)
    )


@pytest.fixture
def settings() -> Callable[..., Settings]:
    """Make the settings of a training of seconds."""

    def make(
        model: Mapping[str, Any] | None = None,
        losses: Mapping[str, Any] | None = None,
        **training: Any,
    ) -> Settings:
        model = model or {}
        return Settings.from_dict(
            {
                **TRAINING,
                "model": model if "weights" in model else {**TRAINING["model"], **model},
                "losses": losses or TRAINING["losses"],
                "training": {**TRAINING["training"], **training},
            }
        )

    return make


@pytest.fixture
def fresh() -> Callable[..., Cascade]:
    """Make untrained models to train."""

    def make(config: ModelConfig = TINY, seed: int = 0) -> Cascade:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(config)

    return make


@pytest.fixture
def begin(tmp_path: Path, settings: Callable[..., Settings]) -> Callable[..., Training]:
    """Begin or resume the training of a stage."""

    def make(
        cascade: Cascade, index: int = 1, told: Settings | None = None, folder: str = "run"
    ) -> Training:
        told = told or settings()
        place = RunFolder(tmp_path / folder)
        place.path.mkdir(exist_ok=True)
        data = open_data(told, torch.device("cpu"))
        return Training(cascade, index, told, data(cascade, index), place)

    return make


class Quiet:
    """Listens to a training and says nothing."""

    def begin(self, training: Training) -> None:
        """Say nothing."""

    def progress(self, step: int, loss: float) -> None:
        """Say nothing."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Say nothing."""


@pytest.fixture
def quiet() -> Quiet:
    """Return a listener that says nothing."""
    return Quiet()


@pytest.fixture
def moved() -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], set[str]]:
    """Name the tensors that differ between two state dicts."""
    return lambda before, after: {n for n in before if not torch.equal(before[n], after[n])}
