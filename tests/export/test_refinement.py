"""The graphs of the refinement: exact gradient, Adam step by step, any size and features."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rwcnet_export.refinement import mind_graph, refine_graph
from rwcnet_ref.losses.images import mind_ssc_descriptor
from rwcnet_ref.refine import refinement_loss
from rwcnet_runtime.backends.onnxruntime_cpu import Session

REGULARISATION, RATE, STEPS = 1.3, 0.2, 50
# Two sizes and numbers of channels, neither those of tracing.
SIZES = [((9, 12, 7), 4), ((5, 3, 11), 13)]

Array = NDArray[np.floating]


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=str)
def step(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Session, torch.dtype]:
    """`refine.onnx`, and the dtype it is in."""
    path = tmp_path_factory.mktemp("refine") / "refine.onnx"
    onnx.save(refine_graph(request.param), path)
    return Session(path), request.param


def _random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _pair(size: tuple[int, ...], channels: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return features as smooth as those of images, and a start that is nowhere on the grid."""
    fixed, moving = (
        F.avg_pool3d(_random(1, channels, *size, seed=seed, dtype=dtype), 3, 1, 1)
        for seed in (1, 2)
    )
    start = 4 * _random(1, 3, *size, seed=3, dtype=dtype) - 2
    return {
        "start": start,
        "fixed": fixed,
        "moving": moving,
        "weight": _random(1, 1, *size, seed=4, dtype=dtype),
    }


def _run(session: Session, pair: dict[str, Tensor], steps: int) -> list[list[Array]]:
    """Return the outputs of each step."""
    dtype = pair["start"].numpy().dtype
    given = {name: value.numpy() for name, value in pair.items()}
    for name in ("fixed", "moving"):
        given[name] = np.ascontiguousarray(given[name].transpose(0, 2, 3, 4, 1))
    given |= {
        "regularisation": np.array([REGULARISATION], dtype),
        "rate": np.array([RATE], dtype),
    }
    found: list[list[Array]] = [[np.zeros_like(given["start"])] * 3]
    for n in range(1, steps + 1):
        change, mean, square = found[-1][:3]
        counter = np.array([n], dtype)
        found.append(
            session.run(change=change, mean=mean, square=square, step=counter, **given)  # type: ignore[arg-type]
        )
    return found[1:]


@pytest.mark.parametrize(("size", "channels"), SIZES)
def test_gradient_is_that_of_autograd(
    step: tuple[Session, torch.dtype], size: tuple[int, ...], channels: int
) -> None:
    session, dtype = step
    pair = _pair(size, channels, dtype)
    change = torch.zeros_like(pair["start"]).requires_grad_(True)
    loss = refinement_loss(change, **pair, regularisation=REGULARISATION)
    (expected,) = torch.autograd.grad(loss, change)
    ((_, mean, _, found),) = _run(session, pair, 1)
    worst = float(np.abs(mean / 0.1 - expected.numpy()).max() / expected.abs().max())
    assert worst < {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert found[0] == pytest.approx(loss.item(), rel=1e-5)


def test_steps_are_those_of_torch(step: tuple[Session, torch.dtype]) -> None:
    session, dtype = step
    pair = _pair(*SIZES[0], dtype)
    change = torch.zeros_like(pair["start"]).requires_grad_(True)
    adam = torch.optim.Adam([change], lr=RATE)
    for _ in range(STEPS):
        adam.zero_grad()
        refinement_loss(change, **pair, regularisation=REGULARISATION).backward()
        adam.step()
    found = _run(session, pair, STEPS)[-1][0]
    apart = np.abs(found - change.detach().numpy())  # voxels of the grid of the steps
    assert change.detach().abs().max() > 0.5  # or the comparison would mean little
    if dtype == torch.float64:
        assert apart.max() < 1e-6
    else:
        assert apart.mean() < 0.02
        assert np.percentile(apart, 99) < 0.1


def test_mind_is_the_descriptor_averaged(tmp_path: Path) -> None:
    onnx.save(mind_graph(), tmp_path / "mind.onnx")
    session = Session(tmp_path / "mind.onnx")
    for batch, size in ((1, (10, 6, 14)), (2, (4, 16, 8))):
        image = _random(batch, 1, *size, seed=batch, dtype=torch.float32)
        expected = F.avg_pool3d(mind_ssc_descriptor(image), 2)
        (found,) = session.run(image=image.numpy())
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
