"""The step's written-out gradient is autograd's, and what it descends is what it says."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rwcnet_ref.losses.images import mind_ssc_descriptor
from rwcnet_ref.refine import RefinementStep, refinement_loss, smooth
from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.bundle import Bundle, RefinementEntry
from rwcnet_runtime.refinement import Refiner

SIZE = (9, 11, 8)  # no axis like another
# Half the points lie on the wrong side of a border, and none on one, where a slope has two values.
LARGE = 4.0


def _random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _inputs(dtype: torch.dtype, spread: float) -> dict[str, Tensor]:
    flows, features = (1, 3, *SIZE), (1, 5, *SIZE)
    return {
        "change": _random(*flows, seed=1, dtype=dtype),
        "start": spread * _random(*flows, seed=2, dtype=dtype),
        "fixed": _random(*features, seed=3, dtype=dtype),
        "moving": _random(*features, seed=4, dtype=dtype),
        "weight": _random(1, 1, *SIZE, seed=5, dtype=dtype).abs(),
    }


def _step(
    inputs: dict[str, Tensor], regularisation: float, rate: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Take a first step: returns the change, the gradient and the loss."""
    change, dtype = inputs["change"], inputs["change"].dtype
    nothing = torch.zeros_like(change)
    after, mean, _, loss = RefinementStep()(
        change,
        nothing,
        nothing,
        torch.ones(1, dtype=dtype),
        inputs["start"],
        inputs["fixed"].permute(0, 2, 3, 4, 1).contiguous(),
        inputs["moving"].permute(0, 2, 3, 4, 1).contiguous(),
        inputs["weight"],
        torch.tensor([regularisation], dtype=dtype),
        torch.tensor([rate], dtype=dtype),
    )
    return after, mean / 0.1, loss


@pytest.mark.parametrize("spread", [0.7, LARGE])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gradient_is_that_of_autograd(dtype: torch.dtype, tolerance: float, spread: float) -> None:
    inputs = _inputs(dtype, spread)
    inputs["change"].requires_grad_(True)
    expected = refinement_loss(**inputs, regularisation=1.3)
    (gradient,) = torch.autograd.grad(expected, inputs["change"])
    with torch.no_grad():
        _, found, loss = _step(inputs, regularisation=1.3)
    assert float((found - gradient).abs().max() / gradient.abs().max()) < tolerance
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)


def test_smoothing_is_three_means_with_zeros_around() -> None:
    change = _random(1, 3, *SIZE, seed=1)
    expected = change
    for _ in range(3):
        expected = F.avg_pool3d(expected, 3, stride=1, padding=1)
    torch.testing.assert_close(smooth(change), expected, rtol=0, atol=1e-12)


def test_smoothing_is_its_own_adjoint() -> None:
    one, other = (_random(1, 3, *SIZE, seed=seed) for seed in (1, 2))
    assert (smooth(one) * other).sum().item() == pytest.approx((one * smooth(other)).sum().item())


def test_identical_images_stay_where_they_are() -> None:
    inputs = _inputs(torch.float64, 0.0)
    inputs |= {"moving": inputs["fixed"], "change": torch.zeros(1, 3, *SIZE, dtype=torch.float64)}
    after, gradient, loss = _step(inputs, regularisation=1.0)
    assert loss.item() == 0
    assert not gradient.any()
    assert not after.any()  # and no 0 / 0 of Adam's


def test_what_does_not_count_has_no_say() -> None:
    inputs = _inputs(torch.float64, 0.7)
    inputs["weight"][:, :, 4:] = 0
    _, gradient, loss = _step(inputs, regularisation=0.0)
    inputs["fixed"][:, :, 4:] += 1
    _, again, loss_again = _step(inputs, regularisation=0.0)
    torch.testing.assert_close(again, gradient, rtol=0, atol=0)
    assert loss_again.item() == loss.item() > 0


def test_regularised_is_the_change_and_not_the_flow() -> None:
    inputs = _inputs(torch.float64, 0.7)
    inputs["change"] = torch.zeros_like(inputs["change"])
    _, gradient, loss = _step(inputs, regularisation=0.0)
    _, same, same_loss = _step(inputs, regularisation=100.0)
    torch.testing.assert_close(same, gradient, rtol=0, atol=0)
    assert same_loss.item() == loss.item()


def test_the_runtime_takes_these_steps() -> None:
    """From images to flow: features, the grid halved and doubled, and the count of steps."""
    settings = RefinementEntry("mind", steps=10, regularisation=1.3, rate=0.2)
    fixed, moving = (
        F.avg_pool3d(_random(1, 1, 24, 28, 20, seed=seed, dtype=torch.float32), 5, 1, 2)
        for seed in (1, 2)
    )
    start = 3 * F.avg_pool3d(_random(1, 3, 24, 28, 20, seed=3, dtype=torch.float32), 5, 1, 2)
    weight = torch.ones(1, 1, 24, 28, 20)
    refiner = Refiner(Bundle.open(), settings, OnnxRuntimeCpu(1))
    found, losses = refiner.run(*(x.numpy() for x in (start, fixed, moving, weight)))

    pair = {
        "start": F.avg_pool3d(start, 2) / 2,
        "fixed": F.avg_pool3d(mind_ssc_descriptor(fixed), 2),
        "moving": F.avg_pool3d(mind_ssc_descriptor(moving), 2),
        "weight": F.avg_pool3d(weight, 2),
    }
    change = torch.zeros_like(pair["start"]).requires_grad_(True)
    adam = torch.optim.Adam([change], lr=settings.rate)
    for _ in range(settings.steps):
        adam.zero_grad()
        loss = refinement_loss(change, **pair, regularisation=settings.regularisation)
        loss.backward()
        adam.step()
    added = F.interpolate(smooth(change.detach()), scale_factor=2.0, mode="trilinear")
    assert losses[-1] == pytest.approx(loss.item(), rel=1e-3)
    assert added.abs().max() > 0.2  # or the comparison would mean little
    torch.testing.assert_close(
        torch.from_numpy(found), start + 2 * added, rtol=0, atol=0.01
    )  # voxels
