from dataclasses import replace

import pytest
import torch

from rwcnet_ref.config import THESIS, TINY, ModelConfig, StageConfig
from rwcnet_ref.losses import total_loss
from rwcnet_ref.pair import Pair
from rwcnet_ref.pairs import SyntheticSource
from rwcnet_ref.training.step import batch_loss, predict, seed_of

SIZES = {"radius": 1, "features": 2, "projected": 2, "encoder": 3, "motion": 5, "hidden": 4}
# Two stages; the finer one runs 2 x 2 x 2 patches, once without and once with a halo.
PARTS = ModelConfig("parts", (StageConfig(2, 2, **SIZES), StageConfig(1, 2, **SIZES, parts=2)))
HALO = ModelConfig(
    "halo", (StageConfig(2, 2, **SIZES), StageConfig(1, 1, **SIZES, patch=16, halo=4))
)


def images(random, size=(16, 12, 8)):
    fixed, moving = torch.rand((2, 1, 1, *size), generator=random)
    return Pair(fixed=fixed, moving=moving, mm_from_voxel=torch.eye(3))


def draw(count=1, size=8, seed=0):
    random = torch.Generator().manual_seed(seed)
    source = SyntheticSource((size,) * 3, 1, 2.0)
    return [source.draw(random) for _ in range(count)]


def test_positions_have_seeds_of_their_own():
    positions = [(seed, stage, step) for seed in (0, 1) for stage in (0, 1) for step in (0, 1, 2)]
    assert len({seed_of(*position) for position in positions}) == len(positions)
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("index", range(3))
def test_training_sees_what_inference_sees(random, lively, index, velocity):
    config = replace(TINY, stages=tuple(replace(s, velocity=velocity) for s in TINY.stages))
    cascade, pair = lively(config), images(random)
    factor = TINY.stages[index].resolution
    coarse = replace(
        pair, fixed=cascade.reduce(pair.fixed, factor), moving=cascade.reduce(pair.moving, factor)
    )
    ((*_, last),) = predict(cascade, index, [coarse], random)
    expected, _ = list(cascade.totals(pair.fixed, pair.moving))[index]
    torch.testing.assert_close(last.flow, expected, rtol=0, atol=1e-4)  # voxels


def test_velocities_and_flows_differ(random, lively):
    pair = images(random)
    plain, integrated = (
        predict(
            lively(replace(TINY, stages=tuple(replace(s, velocity=velocity) for s in TINY.stages))),
            2,
            [pair],
            random,
        )[0][-1].flow
        for velocity in (False, True)
    )
    assert (plain - integrated).abs().max() > 0.01  # voxels


@pytest.mark.parametrize("size", [(16, 12, 8), (4, 4, 4)], ids=str)
@pytest.mark.parametrize("steps", [1, None])
def test_there_is_a_prediction_a_recurrent_step(random, lively, size, steps):
    (predictions,) = predict(lively(TINY), 0, [images(random, size)], random, steps)
    assert len(predictions) == (steps or TINY.stages[0].steps)
    assert all(p.flow.shape == (1, 3, *size) for p in predictions)


def patch_of(whole, place):
    return whole[:, :, *place]


@pytest.mark.parametrize("config", [PARTS, HALO], ids=lambda config: config.name)
def test_a_patch_says_what_the_whole_says_there(random, lively, config):
    cascade, pair = lively(config), images(random, (40, 24, 24))
    whole = cascade(pair.fixed, pair.moving)
    seen = set()
    for _ in range(12):
        ((*_, last),) = predict(cascade, 1, [pair], random)
        seen.add(tuple((axis.start, axis.stop) for axis in last.place))
        torch.testing.assert_close(
            last.flow, patch_of(whole, last.place), rtol=0, atol=1e-4
        )  # voxels
    assert len(seen) > 2


def test_each_pair_of_a_batch_has_a_patch_of_its_own(random, lively):
    pair = images(random)
    found = predict(lively(PARTS), 1, [pair] * 8, random)
    assert len({str(predictions[-1].place) for predictions in found}) > 1


def test_a_batch_of_pairs_costs_the_mean_of_them(random, lively):
    cascade, pairs = lively(TINY), draw(2)
    weights = {"error": 1.0, "dice": 0.5, "gradient": 0.1}
    together = batch_loss(cascade, 2, pairs, random, weights, 0.8)
    alone = torch.stack([batch_loss(cascade, 2, [pair], random, weights, 0.8) for pair in pairs])
    torch.testing.assert_close(together, alone.mean(), rtol=0, atol=1e-4)
    assert (alone[0] - alone[1]).abs() > 1e-2


def test_pairs_of_different_sizes_can_be_one_batch(random, lively):
    cascade = lively(TINY)
    pairs = [*draw(1), *draw(1, size=12), *draw(1, seed=1)]
    weights = {"error": 1.0}
    together = batch_loss(cascade, 2, pairs, random, weights, 0.8)
    alone = [batch_loss(cascade, 2, [pair], random, weights, 0.8) for pair in pairs]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=0, atol=1e-4)


def test_every_recurrent_step_counts_with_its_decay(random, lively):
    cascade, pairs = lively(TINY), draw()
    first, last = (
        total_loss([prediction], {"error": 1.0}, 1.0)[0]
        for prediction in predict(cascade, 0, pairs, random)[0]
    )
    found = batch_loss(cascade, 0, pairs, random, {"error": 1.0}, 0.8)
    torch.testing.assert_close(found, (0.8 * first + last) / 1.8, rtol=0, atol=1e-5)  # voxels
    assert (first - last).abs() > 1e-3


def test_the_stages_below_get_no_gradient(random, lively):
    cascade = lively(TINY).requires_grad_(True)
    batch_loss(cascade, 2, draw(), random, {"error": 1.0}, 0.8).backward()
    held = {name for name, p in cascade.named_parameters() if p.grad is not None}
    assert held
    assert all(name.startswith("stages.2.") for name in held)
    assert "stages.2.inherit.weight" in held


def test_the_published_network_unrolls_on_a_patch(random, lively):
    pytest.importorskip("monai", reason="the published network needs MONAI")
    cascade = lively(replace(THESIS, stages=tuple(replace(s, steps=2) for s in THESIS.stages)))
    ((*_, last),) = predict(cascade, 1, [images(random, (16, 16, 16))], random)
    assert last.flow.shape == (1, 3, 8, 8, 8)
    assert last.flow.isfinite().all()
