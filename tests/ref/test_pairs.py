import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwcnet_ref.appearance import paint, random_contrast, random_labels, scan
from rwcnet_ref.grid import Warp, identity
from rwcnet_ref.pairs import _LEFT_FROM_RIGHT, LabelMap, SyntheticSource, read_label_maps

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


@pytest.mark.parametrize("seed", range(3))
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
    head = LabelMap(ball, torch.arange(2), torch.tensor([False, True]), (19.5, 19.5, 19.5))
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


@pytest.mark.parametrize("seed", range(3))
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


@pytest.fixture
def synthseg(tmp_path):
    """Return a folder like SynthSeg's, with one map of 2 x 3 x 4 voxels."""
    values = np.array([0, 2, 41, 4, 43, 502, 41, 41, 999, 2, 2, 0] + [0] * 12, np.int32)
    nib.save(nib.Nifti1Image(values.reshape(2, 3, 4), np.eye(4)), tmp_path / "seg_01.nii.gz")
    np.save(tmp_path / "generation_labels.npy", np.array([0, 502, 2, 4, 41, 43]))
    return tmp_path


def test_label_maps_are_read_with_their_classes(synthseg):
    (head,) = read_label_maps(synthseg)
    known = [0, 502, 2, 4, 41, 43]
    expected = [0, 2, 41, 4, 43, 502, 41, 41, 0, 2, 2, 0] + [0] * 12  # 999 is unknown
    assert [known[n] for n in head.labels.flatten()] == expected
    assert head.labels.shape == (2, 3, 4)
    assert head.classes[2] == head.classes[4]  # white matter
    assert head.classes[3] == head.classes[5]  # ventricles
    assert head.classes[0] == 0
    assert len(head.classes.unique()) == 4
    assert head.brain.tolist() == [False, False, True, True, True, True]
    inside_skull = np.argwhere(np.isin(np.reshape(expected, (2, 3, 4)), [2, 4, 41, 43]))
    assert head.centre == pytest.approx(inside_skull.mean(0), abs=1e-4)  # voxels


def test_right_structures_have_one_left_twin_each():
    assert len(set(_LEFT_FROM_RIGHT.values())) == len(_LEFT_FROM_RIGHT)
    assert not set(_LEFT_FROM_RIGHT) & set(_LEFT_FROM_RIGHT.values())


def test_real_label_maps_are_read(tmp_path):
    beside = Path(__file__).parents[3] / "shared/data"
    folder = Path(os.environ.get("RWCNET_DATA", beside)) / "synthseg_label_maps"
    if not (folder / "seg_01.nii.gz").is_file():
        pytest.skip(f"no label maps in {folder}; RWCNET_DATA names another folder")
    for name in ("generation_labels.npy", "seg_01.nii.gz"):
        (tmp_path / name).symlink_to(folder / name)
    (head,) = read_label_maps(tmp_path)
    known = np.load(folder / "generation_labels.npy").tolist()
    for right, left in _LEFT_FROM_RIGHT.items():
        if right in known:
            assert head.classes[known.index(right)] == head.classes[known.index(left)]
    assert head.classes[0] == 0
    brain = head.brain[head.labels].float().mean()
    assert 0.05 < brain < 0.5
    for centre, n in zip(head.centre, head.labels.shape, strict=True):
        assert 0.3 < centre / n < 0.7
    # Left is on the left: RAS+ axes.
    left, right = ((head.labels == known.index(n)).nonzero()[:, 0].float().mean() for n in (10, 49))
    assert left < right
