import itertools

import pytest
import torch
from torch import nn

from rwcnet_ref.encoder import ContextEncoder, FeatureEncoder, UnitVoxels

# How far each encoder sees in points of its own grid: its convolutions' radii, added.
REACH = {FeatureEncoder: 4, ContextEncoder: 2}

strides = pytest.mark.parametrize("stride", [1, 2])


def made(encoder, stride=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = encoder(5, 4, stride)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return network.requires_grad_(False)


@strides
@pytest.mark.parametrize("encoder", REACH)
def test_a_crop_gives_what_the_whole_image_gives(random, encoder, stride):
    network = made(encoder, stride).eval()
    image = torch.rand((1, 1, 24 * stride, 16, 16), generator=random)
    image[:, :, 12 * stride :] *= 5  # statistics over the extent would differ
    reach = REACH[encoder]
    whole, crop = network(image), network(image[:, :, : 13 * stride])
    assert whole.shape == (1, 4, 24, 16 // stride, 16 // stride)
    torch.testing.assert_close(
        crop[:, :, : 13 - reach], whole[:, :, : 13 - reach], rtol=0, atol=1e-6
    )
    # One voxel closer to the cut they differ: the reach is not overstated.
    assert (crop - whole[:, :, :13])[:, :, 13 - reach].abs().max() > 1e-4


@pytest.mark.parametrize("encoder", REACH)
def test_while_training_the_extent_matters(random, encoder):
    network = made(encoder).train()
    image = torch.rand((1, 1, 24, 16, 16), generator=random)
    image[:, :, 12:] *= 5
    whole, crop = network(image), network(image[:, :, :13])
    assert (crop - whole[:, :, :13])[:, :, :9].abs().max() > 1e-2


@strides
@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("encoder", REACH)
def test_a_mirrored_encoder_gives_mirrored_features_of_the_mirrored_image(
    random, encoder, axis, stride
):
    network = made(encoder, stride).eval()
    image = torch.rand((1, 1, 12, 16, 20), generator=random)
    expected = network(image).flip(axis)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.flip(axis)
    # So no point of its grid lies to one side of the voxels that it stands for.
    torch.testing.assert_close(network(image.flip(axis)), expected, rtol=0, atol=1e-5)
    assert (expected - expected.flip(axis)).abs().max() > 0.1


@strides
@pytest.mark.parametrize("encoder", REACH)
def test_every_voxel_is_seen(random, encoder, stride):
    network = made(encoder, stride).eval()
    image = torch.rand((1, 1, 8, 8, 8), generator=random)
    before = network(image)
    for place in itertools.product((3, 4), repeat=3):
        changed = image.clone()
        changed[0, 0][place] += 1
        assert (network(changed) - before).abs().max() > 1e-3


def test_features_are_of_unit_length_and_centred_while_training(random):
    network = made(FeatureEncoder).train()
    image = torch.rand((2, 1, 12, 12, 12), generator=random)
    centred, features = nn.Sequential(*list(network)[:-1])(image), network(image)
    assert centred.mean((0, 2, 3, 4)).abs().max() < 1e-5
    assert features.shape == (2, 4, 12, 12, 12)
    length = features.square().sum(1).sqrt()
    assert length.max() < 1
    assert length.median() > 0.95


def test_short_vectors_stay_short():
    features = torch.tensor([1e-3, 0.0, 10.0, 0.0]).view(2, 2, 1, 1, 1)
    length = UnitVoxels()(features).square().sum(1).sqrt().flatten()
    torch.testing.assert_close(length, torch.tensor([0.01, 1.0]), rtol=1e-3, atol=0)


def test_context_lies_within_one(random):
    state = made(ContextEncoder).eval()(20 * torch.rand((1, 1, 8, 8, 8), generator=random))
    assert state.shape == (1, 4, 8, 8, 8)
    assert 0.9 < state.abs().max() <= 1
