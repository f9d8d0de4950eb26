from dataclasses import replace

import pytest
import torch

from rwcnet_ref.config import TINY, ModelConfig, StageConfig
from rwcnet_ref.grid import Warp, compose, downsample, exponential, identity, upsample

FULL = StageConfig(1, steps=1, radius=1, features=2, projected=2, encoder=3, motion=5, hidden=4)
HALF = replace(FULL, resolution=2, hidden=3)
STRIDED = ModelConfig(
    "strided", tuple(replace(stage, stride=2, patch=None, halo=0) for stage in TINY.stages)
)
# As `base` has it: the last stage sees its images on the grid of its recurrence.
ENDING = ModelConfig(
    "ending",
    (
        replace(STRIDED.stages[0], resolution=2),
        replace(STRIDED.stages[1], resolution=1),
        TINY.stages[2],
    ),
)

with_and_without_stride = pytest.mark.parametrize(
    "config", [TINY, STRIDED, ENDING], ids=lambda config: config.name
)


# How far the flow of a stage with one step sees: encoder, correlation, motion, GRU, head.
REACH = 4 + 1 + 1 + 2 + 2


def images(random, size, batch=1):
    return torch.rand((2, batch, 1, *size), generator=random).unbind()


@with_and_without_stride
def test_forward_keeps_no_state(random, lively, config):
    cascade = lively(config)
    fixed, moving = images(random, (16, 8, 24))
    first = cascade(fixed, moving)
    cascade(*images(random, (8, 24, 16)))
    torch.testing.assert_close(cascade(fixed, moving), first, rtol=0, atol=0)


@with_and_without_stride
def test_a_batch_of_two_is_two_of_one(random, lively, config):
    cascade = lively(config)
    fixed, moving = images(random, (16, 8, 24), batch=2)
    both = cascade(fixed, moving)
    for n in range(2):
        one = cascade(fixed[n : n + 1], moving[n : n + 1])
        torch.testing.assert_close(both[n : n + 1], one, rtol=0, atol=1e-5)  # voxels
    assert (both[0] - both[1]).abs().max() > 0.1  # voxels


@pytest.mark.parametrize("size", [(4, 4, 4), (12, 20, 8), (36, 8, 40)], ids=str)
def test_any_multiple_of_four_works(random, lively, size):
    totals = list(lively(TINY).totals(*images(random, size)))
    for (flow, hidden), stage in zip(totals, TINY.stages, strict=True):
        grid = tuple(n // stage.resolution for n in size)
        assert flow.shape == (1, 3, *grid)
        assert hidden.shape == (1, stage.hidden, *grid)
        assert flow.dtype == torch.float32
        assert flow.isfinite().all()


@pytest.mark.parametrize("size", [(8, 8, 8), (24, 40, 16)], ids=str)
def test_with_a_stride_flows_lie_on_the_images_and_states_on_every_other_voxel(
    random, lively, size
):
    totals = list(lively(STRIDED).totals(*images(random, size)))
    for (flow, hidden), stage in zip(totals, STRIDED.stages, strict=True):
        grid = tuple(n // stage.resolution for n in size)
        assert flow.shape == (1, 3, *grid)
        assert hidden.shape == (1, stage.hidden, *(n // 2 for n in grid))
        assert flow.dtype == torch.float32
        assert flow.isfinite().all()


def test_with_a_stride_images_are_multiples_of_eight(random, lively):
    with pytest.raises(ValueError, match="must be a multiple of 8 on every axis"):
        lively(STRIDED)(*images(random, (8, 12, 8)))


def test_with_a_stride_there_is_no_state_at_first_and_then_it_is_brought_along(random, lively):
    cascade = lively(STRIDED)
    moving = torch.rand((2, 1, 8, 12, 16), generator=random)
    _, flow, hidden = cascade.enter(moving, None, 0)
    assert flow is None
    assert hidden is None
    below = torch.randn((2, 3, 4, 6, 8), generator=random)
    state = torch.randn((2, STRIDED.stages[1].hidden, 2, 3, 4), generator=random)
    warped, flow, hidden = cascade.enter(moving, (below, state), 2)
    torch.testing.assert_close(flow, 2 * upsample(below), rtol=0, atol=0)  # voxels
    torch.testing.assert_close(warped, Warp()(moving, flow), rtol=0, atol=0)
    expected = cascade.stage(2).inherit(upsample(state))
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


def test_where_a_stride_ends_the_flow_keeps_its_grid(random, lively):
    cascade = lively(ENDING)
    moving = torch.rand((1, 1, 8, 12, 16), generator=random)
    below = torch.randn((1, 3, 8, 12, 16), generator=random)
    state = torch.randn((1, ENDING.stages[1].hidden, 4, 6, 8), generator=random)
    warped, flow, hidden = cascade.enter(moving, (below, state), 2)
    torch.testing.assert_close(flow, below, rtol=0, atol=0)  # voxels
    torch.testing.assert_close(warped, Warp()(moving, below), rtol=0, atol=0)
    assert hidden.shape == (1, ENDING.stages[2].hidden, 8, 12, 16)


@with_and_without_stride
def test_a_head_that_says_nothing_moves_nothing(random, lively, config):
    cascade = lively(config)
    for stage in cascade.stages:
        stage.head[-1].weight.data.zero_()
        stage.head[-1].bias.data.zero_()
    fixed, moving = images(random, (16, 8, 24))
    for flow, hidden in cascade.totals(fixed, moving):
        assert flow.abs().max() == 0  # voxels
        assert hidden.abs().max() > 0.1


@pytest.mark.parametrize(("stride", "factor"), [(1, 1), (2, 2)])
def test_a_constant_flow_is_as_far_on_the_finer_grid(lively, stride, factor):
    stage = lively(ModelConfig("any", (replace(FULL, stride=stride),))).stage(0)
    flow = torch.tensor([1.0, -2, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, 4, 5, 6)
    found = stage.enlarge(flow)
    assert found.shape[2:] == tuple(n * factor for n in (4, 5, 6))
    expected = factor * flow[..., :1, :1, :1].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # voxels


def test_points_of_the_coarse_grid_lie_amid_the_voxels_they_stand_for(lively):
    stage = lively(ModelConfig("any", (replace(FULL, stride=2),))).stage(0)
    # What stretches an image about its corner by a tenth does so on every grid.
    corner = identity(torch.zeros(1, 3, 6, 5, 7)) + 0.5
    found = stage.enlarge(0.1 * corner)
    expected = 0.1 * (identity(found) + 0.5)
    inner = (..., *[slice(1, -1)] * 3)  # borders repeat
    torch.testing.assert_close(found[inner], expected[inner], rtol=0, atol=1e-5)  # voxels


@pytest.mark.parametrize(
    ("fixed", "moving", "message"),
    [
        ((1, 1, 8, 10, 8), (1, 1, 8, 10, 8), "multiple of 4"),
        ((1, 1, 8, 8, 8), (1, 1, 8, 8, 12), "on one grid"),
        ((1, 1, 8, 8, 8), (2, 1, 8, 8, 8), "on one grid"),
        ((1, 2, 8, 8, 8), (1, 2, 8, 8, 8), "on one grid"),
        ((1, 8, 8, 8), (1, 8, 8, 8), "on one grid"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused(lively, fixed, moving, message):
    with pytest.raises(ValueError, match=message):
        lively(TINY)(torch.zeros(fixed), torch.zeros(moving))


@pytest.mark.parametrize("halo", [REACH, 0])
def test_patches_equal_the_whole_when_the_halo_covers_what_a_stage_sees(random, lively, halo):
    whole = lively(ModelConfig("whole", (HALF, FULL)))
    cut = replace(FULL, patch=2 * REACH + 8, halo=halo)
    patches = lively(ModelConfig("patches", (HALF, cut)))
    patches.load_state_dict(whole.state_dict())
    fixed, moving = images(random, (48, 12, 32))
    *_, (flow, hidden) = whole.totals(fixed, moving)
    *_, (patch_flow, patch_hidden) = patches.totals(fixed, moving)
    same = (flow - patch_flow).abs().max() < 1e-5  # voxels
    assert same == (halo == REACH)
    assert ((hidden - patch_hidden).abs().max() < 1e-5) == (halo == REACH)


def test_the_whole_moving_image_is_warped_before_patches_are_cut(random, lively):
    cascade = lively(ModelConfig("any", (HALF, replace(FULL, patch=10, halo=1))))
    # From below come 8 voxels at half resolution, farther than a patch is wide.
    far = torch.tensor([8.0, 0, 0]).view(1, 3, 1, 1, 1).expand(1, 3, 20, 6, 6)
    cascade.stage(0).forward = lambda fixed, moving, hidden=None: (
        far,
        torch.zeros(1, 3, *far.shape[2:]),
    )
    # A stage that finds nothing and hands back what it was given.
    cascade.stage(1).forward = lambda fixed, moving, hidden=None: (
        torch.zeros(1, 3, *moving.shape[2:]),
        torch.cat([fixed, moving], 1),
    )
    fixed, moving = images(random, (40, 12, 12))
    *_, (flow, seen) = cascade.totals(fixed, moving)
    torch.testing.assert_close(seen[:, :1], fixed, rtol=0, atol=0)
    torch.testing.assert_close(seen[:, 1:, :24], moving[:, :, 16:], rtol=0, atol=1e-4)
    assert seen[:, 1:, 24:].abs().max() < 1e-4
    torch.testing.assert_close(flow, upsample(2 * far), rtol=0, atol=1e-5)  # voxels


def test_the_total_flow_composes_the_stages(random, lively):
    cascade = lively(ModelConfig("any", (HALF, FULL)))
    fixed, moving = images(random, (16, 12, 12))
    (below, state), (total, _) = cascade.totals(fixed, moving)
    up = 2 * upsample(below)
    hidden = upsample(cascade.stage(1).inherit(state))
    own, _ = cascade.stage(1)(fixed, Warp()(moving, up), hidden)
    torch.testing.assert_close(total, compose(Warp(), own, up), rtol=0, atol=1e-5)  # voxels
    assert (total - own - up).abs().max() > 0.1  # voxels: they do not add


def test_stages_work_on_averaged_images(random, lively):
    cascade = lively(ModelConfig("any", (HALF, FULL)))
    fixed, moving = images(random, (16, 12, 12))
    (flow, _), _ = cascade.totals(fixed, moving)
    alone, _ = cascade.stage(0)(downsample(fixed, 2), downsample(moving, 2))
    torch.testing.assert_close(flow, alone, rtol=0, atol=0)


def test_the_hidden_state_from_below_is_brought_along(random, lively):
    cascade = lively(ModelConfig("any", (HALF, FULL)))
    moving = torch.rand((1, 1, 16, 12, 12), generator=random)
    flow = torch.randn((1, 3, 8, 6, 6), generator=random)
    state = torch.randn((1, 3, 8, 6, 6), generator=random)
    _, _, hidden = cascade.enter(moving, (flow, state), 1)
    assert hidden.shape == (1, 4, 16, 12, 12)
    # A 1x1x1 convolution and an interpolation commute.
    other = cascade.stage(1).inherit(upsample(state))
    torch.testing.assert_close(hidden, other, rtol=0, atol=1e-5)
    with_state, _ = cascade.stage(1)(moving, moving, hidden)
    without, _ = cascade.stage(1)(moving, moving, torch.zeros_like(hidden))
    assert (with_state - without).abs().max() > 0.1  # voxels


def test_a_stage_that_inherits_nothing_starts_from_its_context(random, lively):
    cascade = lively(ModelConfig("any", (HALF, replace(FULL, inherit=False))))
    fixed, moving = images(random, (16, 12, 12))
    below, state = torch.randn((2, 1, 3, 8, 6, 6), generator=random)
    warped, flow, hidden = cascade.enter(moving, (below, state), 1)
    assert hidden is None
    torch.testing.assert_close(warped, Warp()(moving, flow), rtol=0, atol=0)
    own, _ = cascade.stage(1)(fixed, warped)
    blank, _ = cascade.stage(1)(fixed, warped, torch.zeros((1, FULL.hidden, 16, 12, 12)))
    torch.testing.assert_close(own, blank, rtol=0, atol=0)  # voxels
    assert own.abs().max() > 0.1  # voxels


def test_nothing_from_below_means_no_flow_and_no_state(random, lively):
    moving = torch.rand((2, 1, 4, 4, 4), generator=random)
    same, flow, hidden = lively(TINY).enter(moving, None, 0)
    assert same is moving
    assert flow is None
    assert hidden is None


@pytest.mark.parametrize(("steps", "expected"), [(None, 3), (2, 2)])
def test_fewer_steps_are_the_first_of_more(random, lively, steps, expected):
    stage = lively(ModelConfig("any", (replace(FULL, steps=3),))).stage(0)
    fixed, moving = images(random, (8, 8, 8))
    blank = torch.zeros(1, 4, 8, 8, 8)
    flows, _ = stage.unroll(fixed, moving, blank, steps)
    first, _ = stage.unroll(fixed, moving, blank, 1)
    assert len(flows) == expected
    torch.testing.assert_close(flows[0], first[0], rtol=0, atol=0)
    torch.testing.assert_close(
        stage(fixed, moving, blank)[0], stage.unroll(fixed, moving, blank)[0][-1], rtol=0, atol=0
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_step_warps_the_features_by_the_flow_so_far(random, lively, stride):
    stage = lively(ModelConfig("any", (replace(FULL, steps=3, stride=stride),))).stage(0)
    seen = []
    stage.warp.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    fixed, moving = images(random, (8, 8, 8))
    flows, _ = stage.unroll(fixed, moving, torch.zeros(1, 4, *[8 // stride] * 3))
    features = stage.features(moving)
    assert features.shape[2:] == (8 // stride,) * 3
    assert len(seen) == 2
    for (image, flow), so_far in zip(seen, flows, strict=False):
        torch.testing.assert_close(image, features, rtol=0, atol=1e-6)
        torch.testing.assert_close(stage.enlarge(flow), so_far, rtol=0, atol=0)


def test_a_velocity_is_integrated_in_the_chain_and_in_the_steps(random, lively):
    plain = lively(TINY)
    stages = tuple(replace(stage, velocity=True) for stage in TINY.stages)
    smooth = lively(replace(TINY, stages=stages))
    fixed, moving = torch.rand((2, 1, 1, 16, 12, 8), generator=random)
    flow, other = (next(iter(x.totals(fixed, moving)))[0] for x in (plain, smooth))
    assert (flow - other).abs().max() > 1e-2  # voxels
    # The first step correlates what was not moved yet: it finds the same in both.
    coarse = [downsample(x, 4) for x in (fixed, moving)]
    (step,), _ = plain.stage(0).unroll(*coarse, steps=1)
    (integrated,), _ = smooth.stage(0).unroll(*coarse, steps=1)
    expected = exponential(smooth.warp, step)
    torch.testing.assert_close(integrated, expected, rtol=0, atol=1e-6)  # voxels
    last, _ = smooth.stage(0)(*coarse)
    torch.testing.assert_close(other, last, rtol=0, atol=1e-6)  # voxels


def test_without_correlation_features_are_stacked(random, lively):
    stages = tuple(replace(stage, correlate=False) for stage in TINY.stages)
    cascade = lively(replace(TINY, stages=stages))
    assert not [name for name, _ in cascade.named_parameters() if "correlation.weight" in name]
    a, b = torch.rand((2, 2, 4, 5, 6, 7), generator=random)
    stacked = cascade.stage(0).correlation(a, b)
    alone = torch.cat([cascade.stage(0).correlation(a[n : n + 1], b[n : n + 1]) for n in (0, 1)])
    torch.testing.assert_close(stacked, alone, rtol=0, atol=1e-6)
    fixed, moving = torch.rand((2, 1, 1, 8, 8, 8), generator=random)
    assert cascade(fixed, moving).isfinite().all()


@with_and_without_stride
@pytest.mark.parametrize("index", range(3))
def test_what_enters_a_stage_is_what_the_stages_below_left(random, lively, index, config):
    cascade = lively(config)
    fixed, moving = torch.rand((2, 1, 1, 16, 24, 8), generator=random)
    factor = config.stages[index].resolution
    still, other = (downsample(x, factor) for x in (fixed, moving))
    warped, below, hidden = cascade.entering(still, other, index)
    flow, _ = cascade.stage(index)(still, warped, hidden)
    total = flow if below is None else cascade.compose(flow, below)
    expected, _ = list(cascade.totals(fixed, moving))[index]
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-4)  # voxels
