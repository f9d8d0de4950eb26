"""The published network and chain: its golden file, and each of its peculiarities."""

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwcnet_ref.build import build
from rwcnet_ref.config import BASE, THESIS, TINY, ModelConfig
from rwcnet_ref.grid import Warp
from rwcnet_ref.published import AbsoluteDifference, ConvGRU, MotionEncoder

LAST = replace(THESIS.stages[2], steps=3, radius=1, features=8, hidden=8, parts=1)
ONE = ModelConfig("one", (LAST,), published=True)
TWO = ModelConfig("two", (replace(LAST, resolution=2), replace(LAST, parts=2)), published=True)


@pytest.fixture(scope="module")
def golden(golden_folder):
    """What the published code computes from `golden_weights`, and its keys."""
    keys = json.loads((golden_folder / "rwcnet_published_keys.json").read_text())
    with np.load(golden_folder / "rwcnet_published_golden.npz") as arrays:
        return dict(arrays), [keys["stage1_and_2"], keys["stage1_and_2"], keys["stage3"]]


def images(random, size, batch=1):
    return torch.rand((2, batch, 1, *size), generator=random).unbind()


def blank(batch=1, size=(16, 16, 24)):
    return torch.zeros(batch, LAST.hidden, *size)


@pytest.mark.parametrize("index", range(3))
def test_keys_and_shapes_are_the_published_ones(golden, index):
    state = build(THESIS).stage(index).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == golden[1][index]
    assert len(state) == 190


def assert_golden(found, expected, step, place):
    """Compare a part of a grid of which every `step`-th voxel is in the golden file."""
    part = (slice(None), *(slice(s.start // step, s.stop // step) for s in place))
    here = found[0, : len(expected), ::step, ::step, ::step][part]
    expected = torch.from_numpy(expected[part])
    torch.testing.assert_close(here, expected, rtol=0, atol=1e-3)  # voxels; hidden states: none


@torch.no_grad()
def run_golden(arrays, weights, last_patches):
    """Compare after each stage; of the last one only some patches are run."""
    cascade = build(THESIS).eval()
    for stage in cascade.stages:
        stage.load_state_dict(weights(stage.state_dict()))
    lay_out = cascade.patches
    cascade.patches = lambda index, shape: (
        [lay_out(index, shape)[n] for n in last_patches] if index == 2 else lay_out(index, shape)
    )
    pair = (torch.from_numpy(arrays[name])[None, None] for name in ("fixed", "moving"))
    for index, (flow, hidden) in enumerate(cascade.totals(*pair)):
        for patch in cascade.patches(index, flow.shape[2:]):
            step = 1 if index == 0 else 2
            assert_golden(flow, arrays[f"flow{index + 1}"], step, patch.own)
            assert_golden(hidden, arrays[f"hidden{index + 1}"], 4, patch.own)
    return flow


def test_the_chain_computes_what_the_published_code_does(golden, golden_weights):
    run_golden(golden[0], golden_weights, last_patches=(0, 7))  # two corners, for time


@pytest.mark.slow
def test_all_of_the_last_stage_is_what_the_published_code_computes(golden, golden_weights):
    flow = run_golden(golden[0], golden_weights, last_patches=range(8))
    assert flow.abs().mean() == pytest.approx(0.885, abs=1e-3)  # voxels
    assert flow.abs().max() == pytest.approx(4.00, abs=1e-2)  # voxels


@pytest.mark.parametrize("config", [ONE, TWO], ids=lambda config: config.name)
def test_a_batch_of_two_is_two_of_one(random, lively, config):
    cascade = lively(config)
    fixed, moving = images(random, (32, 16, 48), batch=2)
    both = cascade(fixed, moving)
    for n in range(2):
        one = cascade(fixed[n : n + 1], moving[n : n + 1])
        torch.testing.assert_close(both[n : n + 1], one, rtol=0, atol=1e-3)  # voxels
    assert (both[0] - both[1]).abs().max() > 0.1  # voxels


def test_the_reset_gate_is_the_update_gate(random):
    gru = ConvGRU(4, 3).requires_grad_(False)
    hidden = torch.randn((2, 4, 5, 6, 7), generator=random)
    inputs = torch.randn((2, 3, 5, 6, 7), generator=random)
    found = gru(hidden, inputs)
    z = gru.convz(torch.cat([hidden, inputs], 1)).sigmoid()
    q = gru.convq(torch.cat([z * hidden, inputs], 1)).tanh()
    torch.testing.assert_close(found, (1 - z) * hidden + z * q, rtol=0, atol=1e-6)
    gru.convr.weight += 1
    torch.testing.assert_close(gru(hidden, inputs), found, rtol=0, atol=0)


@pytest.mark.parametrize("offset", list(itertools.product((-1, 0, 1), repeat=3)), ids=str)
def test_the_offset_along_i_runs_fastest_in_the_weights(random, offset):
    fixed = torch.rand((1, 3, 7, 8, 9), generator=random)
    moving = torch.roll(fixed, offset, dims=(2, 3, 4))
    correlation = AbsoluteDifference(1, radius=1).requires_grad_(False)
    correlation.bias.zero_()
    correlation.weight.zero_()
    a, b, c = (n + 1 for n in offset)
    correlation.weight[0, a + 3 * b + 9 * c] = 1
    # What is at x in the fixed features is at x + offset in the moving ones: no difference.
    inside = (..., *[slice(2, -2)] * 3)
    assert correlation(fixed, moving)[inside].abs().max() < 1e-6
    assert correlation(fixed, torch.roll(moving, 1, dims=2))[inside].abs().min() > 0.1


def test_no_gradient_reaches_the_features_through_the_correlation(random):
    fixed, moving = torch.rand((2, 1, 8, 5, 6, 7), generator=random)
    fixed.requires_grad_()
    moving.requires_grad_()
    encoder = MotionEncoder(LAST)
    encoder(fixed, moving, torch.zeros(1, 3, 5, 6, 7)).sum().backward()
    assert fixed.grad is None
    assert moving.grad is None
    assert encoder.convc1.weight.grad.abs().max() > 0


def test_warped_features_are_warped_again_by_the_last_change(random, lively):
    stage = lively(ONE).stage(0)
    warped, encoded = [], []
    stage.warp.register_forward_hook(lambda module, inputs, output: warped.append((inputs, output)))
    stage.update.encoder.register_forward_hook(lambda module, inputs, _: encoded.append(inputs))
    fixed, moving = images(random, (16, 16, 24))
    flows, _ = stage.unroll(fixed, moving, blank())
    changes = [b - a for a, b in itertools.pairwise([torch.zeros_like(flows[0]), *flows])]
    features = stage.features(moving)
    assert len(warped) == LAST.steps - 1
    for n, ((image, delta), result) in enumerate(warped):
        torch.testing.assert_close(image, features, rtol=0, atol=1e-5)
        torch.testing.assert_close(delta, changes[n], rtol=0, atol=1e-5)  # voxels
        features = result
    # The motion encoder is told the last change too, not the flow so far.
    for (_, _, delta), change in zip(encoded[1:], changes, strict=False):
        torch.testing.assert_close(delta, change, rtol=0, atol=1e-5)  # voxels
    assert (flows[1] - changes[1]).abs().max() > 0.1  # voxels


def test_the_recurrence_starts_from_the_moving_image(random, lively):
    stage = lively(ONE).stage(0)
    starts = []
    stage.update.gru.register_forward_hook(lambda module, inputs, output: starts.append(inputs[0]))
    fixed, moving = images(random, (16, 16, 24))
    below = torch.randn(blank().shape, generator=random)
    stage.unroll(fixed, moving, below, steps=1)
    context = stage.context(torch.cat([torch.zeros(1, 3, 16, 16, 24), moving], 1))
    torch.testing.assert_close(starts[0], context.tanh() + below, rtol=0, atol=1e-5)


def test_what_is_never_used_changes_nothing(random, lively):
    stage = lively(ONE).stage(0)
    fixed, moving = images(random, (16, 16, 24))
    flow, _ = stage(fixed, moving, blank())
    for unused in (stage.update.gru.convr, stage.flow_upsample[0], stage.flow_upsample[2]):
        unused.weight += 1
    torch.testing.assert_close(stage(fixed, moving, blank())[0], flow, rtol=0, atol=0)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_images_are_reduced_to_the_nearest_voxel(random, lively, factor):
    image, _ = images(random, (16, 24, 32), batch=2)
    size = [n // factor for n in image.shape[2:]]
    expected = F.interpolate(image, size)  # nearest is the default
    torch.testing.assert_close(lively(ONE).reduce(image, factor), expected, rtol=0, atol=0)


def test_flow_and_hidden_state_are_repeated_on_the_finer_grid(random, lively):
    moving = torch.rand((1, 1, 16, 16, 24), generator=random)
    flow = torch.randn((1, 3, 8, 8, 12), generator=random)
    state = torch.randn((1, LAST.hidden, 8, 8, 12), generator=random)
    warped, lifted, hidden = lively(TWO).enter(moving, (flow, state), 1)
    for x in itertools.product(range(2), repeat=3):
        part = (..., *(slice(start, None, 2) for start in x))
        torch.testing.assert_close(lifted[part], 2 * flow, rtol=0, atol=0)  # voxels
        torch.testing.assert_close(hidden[part], state, rtol=0, atol=0)
    torch.testing.assert_close(warped, Warp()(moving, lifted), rtol=0, atol=0)


def test_flows_compose_with_zeros_outside(lively):
    step, below = torch.zeros(2, 1, 3, 6, 5, 4)
    step[:, 0] = 2
    below[:, 1] = 3
    total = lively(ONE).compose(step, below)
    assert total[:, 0].unique() == 2
    assert total[:, 1, :4].unique() == 3
    assert total[:, 1, 4:].unique() == 0  # where a border value would be 3


def test_patches_know_nothing_of_each_other(random, lively):
    cascade = lively(TWO)
    fixed, moving = images(random, (32, 32, 32))
    still, other = (cascade.reduce(x, 1) for x in (fixed, moving))
    warped, below, hidden = cascade.entering(still, other, 1)
    corner = (..., *[slice(16)] * 3)
    alone, state = cascade.stage(1)(still[corner], warped[corner], hidden[corner])
    *_, (total, joined) = cascade.totals(fixed, moving)
    torch.testing.assert_close(joined[corner], state, rtol=0, atol=1e-5)
    whole, _ = cascade.stage(1)(still, warped, hidden)
    assert (whole[corner] - alone).abs().max() > 0.1  # voxels: norms see the patch only
    flow = torch.zeros_like(total)
    flow[corner] = alone
    expected = cascade.compose(flow, below)
    torch.testing.assert_close(total[corner], expected[corner], rtol=0, atol=1e-4)  # voxels


def test_without_correlation_features_are_stacked(random, lively):
    cascade = lively(ModelConfig("ablation", (replace(LAST, correlate=False),), published=True))
    weight = cascade.stage(0).update.encoder.convc1.projection.weight
    assert weight.shape == (LAST.projected, 2 * LAST.features, 1, 1, 1)
    flow = cascade(*images(random, (16, 16, 24)))
    assert flow.isfinite().all()
    assert (flow - lively(ONE)(*images(random, (16, 16, 24)))).abs().max() > 0.1  # voxels


def test_base_starts_from_the_fixed_image(random, lively):
    stage = lively(TINY).stage(2)
    starts = []
    stage.gru.register_forward_hook(lambda module, inputs, output: starts.append(inputs[0]))
    fixed, moving = images(random, (8, 6, 10))
    below = torch.randn((1, TINY.stages[2].hidden, 8, 6, 10), generator=random)
    stage.unroll(fixed, moving, below, steps=1)
    torch.testing.assert_close(starts[0], stage.context(fixed) + below, rtol=0, atol=1e-6)


def test_base_is_told_the_flow_so_far(random, lively):
    stage = lively(TINY).stage(0)
    told = []
    stage.motion.register_forward_hook(lambda module, inputs, output: told.append(inputs[1]))
    fixed, moving = images(random, (8, 6, 10))
    hidden = torch.zeros((1, TINY.stages[0].hidden, 8, 6, 10))
    flows, _ = stage.unroll(fixed, moving, hidden, steps=3)
    for flow, so_far in zip(told[1:], flows, strict=False):
        torch.testing.assert_close(flow, so_far, rtol=0, atol=0)  # voxels
    assert len(told) == 3


@pytest.mark.parametrize("config", [ONE, TINY], ids=lambda config: config.name)
def test_only_base_stops_gradients_between_steps(random, lively, config):
    stage = lively(config).stage(0).requires_grad_(True)
    fixed, moving = images(random, (16, 16, 24))
    hidden = torch.zeros((1, config.stages[0].hidden, 16, 16, 24))
    flows, _ = stage.unroll(fixed, moving, hidden, steps=2)
    (gradient,) = torch.autograd.grad(flows[1].sum(), flows[0], allow_unused=True)
    assert (gradient is None) == (config is TINY)


def test_base_uses_all_its_weights(random):
    cascade = build(TINY)
    fixed, moving = images(random, (16, 16, 24))
    cascade(fixed, moving).square().sum().backward()
    idle = [name for name, weights in cascade.named_parameters() if weights.grad is None]
    assert idle == []


@pytest.mark.parametrize("config", [BASE, ONE], ids=lambda config: config.name)
def test_there_is_no_dropout(config):
    kinds = {type(module).__name__ for module in build(config).modules()}
    assert not [kind for kind in kinds if "Dropout" in kind]


def test_the_list_in_the_readme_names_tests_that_exist():
    tests = Path(__file__).parents[1]
    text = (tests.parent / "rwcnet_ref" / "README.md").read_text()
    ids = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(ids) > 30
    missing = [
        (file, name) for file, name in ids if f"\ndef {name}(" not in (tests / file).read_text()
    ]
    assert missing == []


def test_stages_of_other_widths_are_refused():
    stages = (replace(LAST, resolution=2, hidden=16), LAST)
    with pytest.raises(ValueError, match="hidden is 8 above 16"):
        build(ModelConfig("any", stages, published=True))


def test_missing_monai_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets.segresnet", None)
    with pytest.raises(ModuleNotFoundError, match="pip install monai"):
        build(ONE)
