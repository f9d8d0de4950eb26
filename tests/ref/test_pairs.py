import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwcnet_ref.appearance import _stretched, paint, random_contrast, random_labels, scan
from rwcnet_ref.grid import Warp, identity
from rwcnet_ref.heads import LabelMap, centroids_of
from rwcnet_ref.pairs import SyntheticSource

SHAPES = SyntheticSource((16, 12, 20), 1, 3.0)
HEADS = SyntheticSource((20, 20, 16), 1, 3.0, shapes=0.0)
warp = Warp()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["shapes", "head", "head, 2 mm", "head, larger than the map"])
def source(request, head):
    return {
        "shapes": SHAPES,
        "head": replace(HEADS, maps=[head]),
        "head, 2 mm": replace(HEADS, maps=[head], resolution=2),
        "head, larger than the map": replace(HEADS, maps=[head], resolution=4),
    }[request.param]


def inside(flow):
    points = identity(flow) + flow
    return torch.stack(
        [(x >= 0) & (x <= n - 1) for x, n in zip(points[0], flow.shape[2:], strict=True)]
    ).all(0)


def dice(a, b):
    return float(2 * torch.minimum(a, b).sum() / (a + b).sum())


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_pairs_lie_on_one_grid_within_0_and_1(source):
    pair = source.draw(seeded(0))
    structures = pair.fixed_labels.shape[1]
    assert 1 <= structures <= 6
    for values, channels in (
        (pair.fixed, 1),
        (pair.moving, 1),
        (pair.flow, 3),
        (pair.fixed_labels, structures),
        (pair.moving_labels, structures),
    ):
        assert values.shape == (1, channels, *source.size)
        assert values.dtype == torch.float32
    for values in (pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels):
        assert values.min() >= 0
        assert values.max() <= 1 + 1e-6
        assert values.std() > 0.01


def test_a_seed_is_a_pair(source):
    first, same, other = (source.draw(seeded(n)) for n in (1, 1, 2))
    torch.testing.assert_close(first.fixed, same.fixed, rtol=0, atol=0)
    torch.testing.assert_close(first.flow, same.flow, rtol=0, atol=0)
    assert (first.fixed - other.fixed).abs().max() > 0.1


# With seed 0 next to nothing moves.
@pytest.mark.parametrize("seed", range(1, 4))
def test_the_truth_brings_the_moving_structures_onto_the_fixed_ones(source, seed):
    pair = source.draw(seeded(seed))
    there = inside(pair.flow)
    assert there.float().mean() > 0.3
    warped, fixed, moving = (
        x[..., there]
        for x in (warp(pair.moving_labels, pair.flow), pair.fixed_labels, pair.moving_labels)
    )
    torch.testing.assert_close(warped, fixed, rtol=0, atol=1e-4)
    assert dice(warped, fixed) > 0.97
    assert dice(moving, fixed) < 0.99  # and there was something to do


def test_the_truth_points_from_the_fixed_structure_to_the_moving_one():
    # Without `Warp`: places alone. Deforming a ball moves its centre a little off its image.
    size = (40, 40, 40)
    places = identity(torch.zeros(1, 3, *size))
    ball = ((places - 19.5).square().sum(1)[0] < 25).long()
    brain = torch.tensor([False, True])
    unknown = torch.full((2,), math.nan)
    head = LabelMap(ball, torch.arange(2), brain, unknown, centroids_of(ball, brain))
    source = SyntheticSource(size, 1, 4.0, [head], shapes=0.0)
    moved = []
    for seed in range(6):
        pair = source.draw(seeded(seed))

        def centre(weights, points):
            return (weights * points).sum((0, 2, 3, 4)) / weights.sum()

        target = centre(pair.fixed_labels, places + pair.flow)
        torch.testing.assert_close(
            target, centre(pair.moving_labels, places), rtol=0, atol=0.4
        )  # voxels
        moved.append((target - centre(pair.fixed_labels, places)).abs().max())
    assert max(moved) > 2  # voxels


@pytest.mark.parametrize("seed", range(1, 4))
def test_images_of_one_contrast_match_where_the_truth_says(source, seed):
    alike = {"same_contrast": 1.0, "same_texture": 1.0, "texture": 0.3, "scanner": 0.1}
    pair = replace(source, **alike).draw(seeded(seed))
    there = inside(pair.flow)
    before = correlation(pair.moving[..., there], pair.fixed[..., there])
    after = correlation(warp(pair.moving, pair.flow)[..., there], pair.fixed[..., there])
    assert after > 0.95  # interpolation and a little of the scanners remain
    assert 1 - after < (1 - before) / 2


def test_contrasts_may_differ():
    source = replace(SHAPES, same_contrast=0.0)
    found = []
    for seed in range(8):
        pair = source.draw(seeded(seed))
        there = inside(pair.flow)
        found.append(correlation(warp(pair.moving, pair.flow)[..., there], pair.fixed[..., there]))
    assert min(found) < 0.3


def test_two_heads_have_no_truth(head):
    other = replace(head, labels=head.labels.roll(3, dims=1))
    source = replace(HEADS, maps=[head, other], two_heads=1.0)
    pair = source.draw(seeded(0))
    assert pair.flow is None
    assert pair.fixed.shape == pair.moving.shape == (1, 1, *source.size)
    assert pair.fixed_labels.shape == pair.moving_labels.shape
    assert dice(pair.fixed_labels, pair.moving_labels) > 0.3  # they are heads in one place


def test_two_heads_are_put_on_each_other_before_they_are_cut(head):
    # Somewhere else in its image, and a tenth larger.
    labels = F.interpolate(head.labels[None, None].float(), scale_factor=1.1, mode="nearest")
    labels = F.pad(labels[0, 0].byte(), (0, 0, 18, 0, 11, 0))
    other = replace(head, labels=labels, centroids=centroids_of(labels, head.brain))
    source = replace(HEADS, maps=[head, other], amplitude=0.01, two_heads=1.0)
    found = []
    for seed in range(12):
        pair = source.draw(seeded(seed))
        assert pair.flow is None
        found.append(dice(pair.fixed_labels, pair.moving_labels))
    # What is left is the random affine of `random_flow`; apart they have next to nothing in common.
    assert np.median(found) > 0.75
    assert min(found) > 0.15


@pytest.mark.parametrize(("resolution", "parts"), [(1, 1), (2, 8), (4, 8)])
def test_coarse_voxels_hold_parts_of_structures(head, resolution, parts):
    source = replace(HEADS, maps=[head], resolution=resolution)
    fills = parts * source.draw(seeded(0)).moving_labels
    torch.testing.assert_close(fills, fills.round(), rtol=0, atol=1e-5)
    assert len(fills.round().unique()) == parts + 1


@pytest.mark.parametrize(("shapes", "two_heads"), [(1.0, 1.0), (0.0, 1.0), (0.0, 0.0)])
def test_shares_are_kept(head, shapes, two_heads):
    source = replace(HEADS, maps=[head], shapes=shapes, two_heads=two_heads)
    expected_none = shapes == 0 and two_heads == 1
    assert all((source.draw(seeded(n)).flow is None) == expected_none for n in range(4))


@pytest.mark.parametrize("resolution", [1, 2, 4])
def test_displacements_are_in_voxels_of_the_pair(head, resolution):
    source = replace(HEADS, maps=[head], resolution=resolution, amplitude=8.0)
    flows = torch.cat([source.draw(seeded(n)).flow for n in range(6)])
    size = float(flows.square().sum(1).mean().sqrt()) * resolution
    assert 2 < size < 10  # voxels of the label map
    edges = source.draw(seeded(0)).mm_from_voxel
    torch.testing.assert_close(edges, resolution * torch.eye(3), rtol=0, atol=0)  # mm


def test_drawn_shapes_use_several_classes(random):
    labels = random_labels((24, 24, 24), random, classes=5)
    assert labels.shape == (24, 24, 24)
    assert labels.unique().tolist() == [0, 1, 2, 3, 4]
    # Shapes, not noise: most neighbours are alike.
    assert (labels.diff(dim=0) == 0).float().mean() > 0.6


def test_left_and_right_share_an_intensity(head, random):
    image = paint(head.labels, random_contrast(head.classes, random), random, 1, texture=0.0)[0, 0]
    seen = {n: image[head.labels == n].unique() for n in range(6)}
    assert all(len(values) == 1 for values in seen.values())
    assert seen[1] == seen[2]
    assert seen[3] == seen[4]
    assert len({float(seen[n]) for n in (1, 3, 5)}) == 3


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_coarse_images_are_averages(head, factor, contrast):
    fine = paint(head.labels, contrast, seeded(0), 1, texture=0.0)
    coarse = paint(head.labels, contrast, seeded(0), factor, texture=0.0)
    torch.testing.assert_close(coarse, F.avg_pool3d(fine, factor), rtol=0, atol=1e-6)


def test_background_is_dark_in_four_of_five_images():
    labels = torch.zeros(4, 4, 4, dtype=torch.int64)
    contrasts = [random_contrast(torch.tensor([0, 1]), seeded(n)) for n in range(200)]
    dark = [
        float(paint(labels, contrast, seeded(0), 1, texture=0.5).abs().max()) == 0
        for contrast in contrasts
    ]
    assert 0.7 < np.mean(dark) < 0.9


def test_contrasts_can_be_those_of_t1(head):
    found = torch.stack(
        [random_contrast(torch.arange(4), seeded(n), head.t1, 1.0) for n in range(90)]
    )
    white, fluid = found[:, 1], found[:, 2]
    # Noise of 0.05, and nothing that is known is drawn anew.
    upright = white > 0.5
    assert 45 < upright.sum() < 75  # a third is inverted
    expected = torch.where(upright, 0.85, 0.15)
    assert (white - expected).abs().max() < 0.25
    assert ((fluid - torch.where(upright, 0.12, 0.88)).abs() < 0.25).all()
    assert (white - fluid).std() > 0.1
    # What is unknown is anything, and background mostly dark.
    assert found[:, 3].min() < 0.1
    assert found[:, 3].max() > 0.9
    assert 0.7 < (found[:, 0] == 0).float().mean() < 0.9
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_share_of_known_contrasts_is_kept(head):
    def drawn(seed, *known):
        return random_contrast(torch.arange(4), seeded(seed), *known)

    differ = [
        [not torch.equal(drawn(n), drawn(n, head.t1, share)) for n in range(60)]
        for share in (0.0, 0.4, 1.0)
    ]
    assert not any(differ[0])
    assert 12 < sum(differ[1]) < 36
    assert all(differ[2])


def test_pairs_of_heads_have_known_contrasts(head):
    # Without texture and scanner: the values of the tissues alone.
    plain = {"texture": 0.0, "scanner": 0.0, "same_contrast": 0.0, "known_contrast": 1.0}
    dull = replace(head, t1=torch.full((4,), 0.5))
    for two_heads in (0.0, 1.0):
        source = replace(HEADS, maps=[dull], two_heads=two_heads, **plain)
        for seed in range(3):
            pair = source.draw(seeded(seed))
            for image in (pair.fixed, pair.moving):
                assert 0.25 < image.median() < 0.75
                assert image.max() < 0.75


def test_in_narrow_contrasts_most_tissues_are_nearly_alike():
    classes = torch.arange(40)
    for seed in range(8):
        narrow = random_contrast(classes, seeded(seed), narrow=1.0)
        plain = random_contrast(classes, seeded(seed))
        assert narrow.min() >= 0
        assert narrow.max() <= 1
        tissues = narrow[1:].sort().values
        middle = tissues[len(tissues) // 4 : -len(tissues) // 4]
        assert middle[-1] - middle[0] < 0.25
        # And some are far from the others.
        assert tissues[-1] - tissues[0] > 1.5 * (middle[-1] - middle[0])
        assert narrow[0] == plain[0]


def test_scanners_spare_narrow_contrasts(head, contrast):
    wide = paint(head.labels, contrast, seeded(0), 1, texture=0.0)
    narrow = torch.where(wide > 0.01, 0.5 + 0.1 * (wide - 0.5), wide)
    tissue = wide > 0.01
    for seed in range(4):
        scanned = scan(narrow, seeded(seed))
        assert correlation(scanned[tissue], narrow[tissue]) > 0.6


def test_texture_stays_off_the_background(head, contrast):
    plain = paint(head.labels, contrast, seeded(0), 1, texture=0.0)
    added = paint(head.labels, contrast, seeded(0), 1, texture=0.5) - plain
    assert added[plain <= 0.01].abs().max() == 0
    assert added[plain > 0.01].std() > 0.01


def test_scanners_differ_but_keep_the_anatomy(head, contrast):
    clean = paint(head.labels, contrast, seeded(0), 1, texture=0.0)
    scans = [scan(clean, seeded(n)) for n in (1, 2)]
    for image in scans:
        assert image.shape == clean.shape
        assert image.min() >= 0
        assert image.max() <= 1
        assert correlation(image, clean) > 0.8
    assert (scans[0] - scans[1]).abs().mean() > 0.01


def test_a_scanner_of_no_strength_changes_nothing(head, contrast):
    clean = paint(head.labels, contrast, seeded(0), 1, texture=0.0)
    torch.testing.assert_close(scan(clean, seeded(1), 0.0), clean, rtol=0, atol=1e-6)


@pytest.fixture
def contrast(head):
    """Return an intensity for each label of the head."""
    return random_contrast(head.classes, seeded(0))


def test_a_stretched_image_runs_from_0_to_1(random):
    image = 0.3 + 0.2 * torch.rand((1, 1, 24, 24, 24), generator=random)
    image[..., :6, :, :] = 0
    found = [_stretched(image, seeded(n)) for n in range(5)]
    for one in found:
        assert one[..., :6, :, :].max() == 0
        brain, before = one[..., 6:, :, :].flatten(), image[..., 6:, :, :].flatten()
        # Percentiles: a few voxels may lie beyond them, and end at 0 and 1.
        assert 0.0 <= (brain == 0).float().mean() < 0.04
        assert 0.0 <= (brain == 1).float().mean() < 0.05
        assert brain.min() < 0.02
        assert brain.max() > 0.98
        assert (brain[before.argsort()].diff() >= 0).all()
    # Not the same percentiles each time.
    middles = [float(one[0, 0, 15, 0, 0]) for one in found]
    assert max(middles) - min(middles) > 0.002


@pytest.mark.parametrize("bright", [0.0, 0.7])
def test_nearly_nothing_is_not_stretched_to_everything(random, bright):
    flat = bright + 1e-3 * torch.rand((1, 1, 12, 12, 12), generator=random)
    assert _stretched(flat, random).std() < 0.03
    empty = torch.full((1, 1, 12, 12, 12), bright)
    torch.testing.assert_close(_stretched(empty, random), empty, rtol=0, atol=0)


def test_half_of_the_scans_are_stretched():
    image = 0.4 + 0.05 * torch.rand((1, 1, 16, 16, 16), generator=seeded(0))
    spread = [float(scan(image, seeded(n)).std()) for n in range(60)]
    # Blur and noise leave a few hundredths, stretching a few tenths.
    assert 18 < sum(found > 0.1 for found in spread) < 42
