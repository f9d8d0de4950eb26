from dataclasses import fields, replace

import pytest
import torch

from rwcnet_ref.augment import Augmentation, augment
from rwcnet_ref.deformation import smooth_noise
from rwcnet_ref.grid import Warp, identity, sample
from rwcnet_ref.pair import Pair

SIZE = (24, 20, 22)
INNER = (..., *[slice(6, -6)] * 3)
# Centres of blobs well inside, in the fixed image; the moving ones lie further by `TRUTH`.
POINTS = torch.tensor([[8.0, 9.0, 9.0], [14.0, 8.0, 12.0], [11.5, 12.25, 7.5]])
TRUTH = torch.tensor([1.0, -2.0, 0.5])
EVERYTHING = Augmentation(flip=0.5, swap=0.5, deform_mm=4.0, affine=0.5, intensity=1.0)
warp = Warp()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def waves(offset):
    """Return a smooth image within 0..1 whose every voxel is unlike its neighbours."""
    here = identity(torch.zeros(1, 3, *SIZE)) - offset.view(1, 3, 1, 1, 1)
    parts = [(here[:, n : n + 1] / (2.5 + n)).sin() for n in range(3)]
    return (sum(parts) / 3 + 1) / 2


@pytest.fixture
def pair():
    """Return a pair of waves, with labels, points and the displacement known."""
    fixed, moving = waves(torch.zeros(3)), waves(TRUTH)
    return Pair(
        fixed=fixed,
        moving=moving,
        mm_from_voxel=torch.diag(torch.tensor([2.0, 1.0, 1.5])),
        flow=TRUTH.view(1, 3, 1, 1, 1).expand(1, 3, *SIZE).contiguous(),
        fixed_labels=torch.cat([fixed, 1 - fixed], 1),
        moving_labels=torch.cat([moving, 1 - moving], 1),
        fixed_points=POINTS,
        moving_points=POINTS + TRUTH,
    )


def at(image, points):
    return sample(image, points.T[None, :, :, None, None]).flatten()


def test_no_augmentation_is_the_pair_itself(pair):
    same = augment(pair, seeded(0), Augmentation())
    for field in fields(Pair):
        assert getattr(same, field.name) is getattr(pair, field.name)


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_is_an_augmentation_and_the_pair_stays_as_it_was(seed, pair):
    kept = replace(
        pair,
        **{f.name: x.clone() for f in fields(Pair) if (x := getattr(pair, f.name)) is not None},
    )
    first, same, other = (augment(pair, seeded(n), EVERYTHING) for n in (seed, seed, seed + 9))
    for field in fields(Pair):
        if getattr(pair, field.name) is not None:
            for a, b in ((first, same), (pair, kept)):
                torch.testing.assert_close(
                    getattr(a, field.name), getattr(b, field.name), rtol=0, atol=0
                )
    assert (first.moving - other.moving).abs().max() > 0.1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(flip=1.0),
        Augmentation(flip=0.5),
        Augmentation(deform_mm=4.0),
        Augmentation(affine=0.5),
        Augmentation(flip=0.5, deform_mm=4.0, affine=0.5),
    ],
    ids=str,
)
def test_what_is_known_stays_true(seed, settings, pair):
    changed = augment(pair, seeded(seed), settings)
    # Waves of amplitude 1/6 and slope up to 1/15: 0.01 is about a seventh of a voxel.
    warped = warp(changed.moving, changed.flow)
    torch.testing.assert_close(warped[INNER], changed.fixed[INNER], rtol=0, atol=0.02)
    labels = warp(changed.moving_labels, changed.flow)
    torch.testing.assert_close(labels[INNER], changed.fixed_labels[INNER], rtol=0, atol=0.02)
    assert len(changed.fixed_points) == len(changed.moving_points) > 0
    torch.testing.assert_close(
        at(changed.moving, changed.moving_points),
        at(changed.fixed, changed.fixed_points),
        rtol=0,
        atol=0.02,
    )
    # The displacement leads from fixed points to moving ones, and neither depends on the images.
    there = torch.stack([at(changed.flow[:, n : n + 1], changed.fixed_points) for n in range(3)], 1)
    torch.testing.assert_close(
        changed.fixed_points + there, changed.moving_points, rtol=0, atol=0.05
    )  # voxels
    assert (changed.moving - pair.moving).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [Augmentation(deform_mm=6.0), Augmentation(affine=1.0)])
def test_only_the_moving_image_is_deformed(settings, pair):
    changed = augment(pair, seeded(3), settings)
    assert changed.fixed is pair.fixed
    assert changed.fixed_labels is pair.fixed_labels
    moved = (changed.moving_points - pair.moving_points)[: len(changed.moving_points)]
    assert moved.norm(dim=1).max() > 0.3  # voxels


def test_deformations_are_in_mm(pair):
    fine = replace(pair, mm_from_voxel=0.5 * torch.eye(3))
    coarse = replace(pair, mm_from_voxel=2.0 * torch.eye(3))
    sizes = [
        sum(
            float(
                (augment(p, seeded(n), Augmentation(deform_mm=2.0)).flow - pair.flow)
                .square()
                .mean()
            )
            for n in range(8)
        )
        ** 0.5
        for p in (fine, coarse)
    ]
    assert 2 < sizes[0] / sizes[1] < 8  # voxels a mm: 2 and 0.5


def test_points_that_leave_the_image_are_left_out_on_both_sides(pair):
    here = identity(torch.zeros(1, 3, *SIZE))
    everywhere = here[0, :, ::4, ::4, ::4].flatten(1).T
    crowded = replace(pair, fixed_points=everywhere, moving_points=everywhere, flow=None)
    changed = augment(crowded, seeded(1), Augmentation(affine=1.0))
    assert 0 < len(changed.moving_points) < len(everywhere)
    assert changed.fixed_points.shape == changed.moving_points.shape
    last = torch.tensor(SIZE) - 1
    assert ((changed.moving_points >= 0) & (changed.moving_points <= last)).all()
    # Those that stay are the partners they were, seen where no zeros from outside are mixed in.
    seen = ((changed.moving_points >= 1) & (changed.moving_points <= last - 1)).all(1)
    assert seen.sum() > 50
    torch.testing.assert_close(
        at(changed.moving, changed.moving_points[seen]),
        at(pair.moving, changed.fixed_points[seen]),
        rtol=0,
        atol=0.02,
    )


def test_flips_reverse_everything_along_their_axes(pair):
    masked = replace(pair, fixed_mask=(pair.fixed > 0.5).float())
    changed = augment(masked, seeded(0), Augmentation(flip=1.0))
    for name in ("fixed", "moving", "fixed_labels", "moving_labels", "fixed_mask"):
        torch.testing.assert_close(
            getattr(changed, name), getattr(masked, name).flip(2, 3, 4), rtol=0, atol=0
        )
    torch.testing.assert_close(
        at(changed.fixed, changed.fixed_points), at(pair.fixed, POINTS), rtol=0, atol=1e-5
    )
    # In the world nothing changed: the same vectors between partners.
    before, after = (
        (p.moving_points - p.fixed_points) @ p.mm_from_voxel.T for p in (masked, changed)
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)  # mm


def test_images_change_places_unless_something_holds_for_the_fixed_one_alone(pair):
    settings = Augmentation(swap=1.0)
    free = replace(pair, flow=None)
    changed = augment(free, seeded(0), settings)
    assert changed.fixed is pair.moving
    assert changed.moving is pair.fixed
    assert changed.fixed_labels is pair.moving_labels
    assert changed.moving_labels is pair.fixed_labels
    assert changed.fixed_points is pair.moving_points
    assert changed.moving_points is pair.fixed_points
    for bound in (pair, replace(free, fixed_mask=torch.ones_like(pair.fixed))):
        assert augment(bound, seeded(0), settings).fixed is pair.fixed


def test_intensities_change_and_nothing_else_does(pair):
    changed = augment(pair, seeded(0), Augmentation(intensity=1.0))
    for name in ("fixed", "moving"):
        image, before = getattr(changed, name), getattr(pair, name)
        assert 0 <= image.min() <= image.max() <= 1
        assert 0.01 < (image - before).abs().mean() < 0.3
    for name in ("flow", "fixed_labels", "moving_labels", "fixed_points", "moving_points"):
        assert getattr(changed, name) is getattr(pair, name)


def test_pairs_of_images_alone_are_augmented(pair):
    bare = Pair(fixed=pair.fixed, moving=pair.moving, mm_from_voxel=pair.mm_from_voxel)
    changed = augment(bare, seeded(0), EVERYTHING)
    assert changed.fixed.shape == pair.fixed.shape
    assert changed.flow is changed.moving_labels is changed.moving_points is None


@pytest.mark.parametrize("values", [{"flip": 1.5}, {"swap": -0.1}, {"deform_mm": -1.0}], ids=str)
def test_impossible_strengths_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Augmentation(**values)


def test_small_grids_are_augmented(random):
    # The coarsest that padding leaves.
    image = smooth_noise((2, 2, 2), 1, 3.0, random).clamp(0, 1)
    pair = Pair(fixed=image, moving=image, mm_from_voxel=4 * torch.eye(3))
    assert augment(pair, random, EVERYTHING).moving.isfinite().all()


def test_intensities_change_within_the_range_of_the_image(pair):
    narrow = replace(pair, fixed=pair.fixed * 0.08 - 0.06, moving=pair.moving * 0.08 - 0.06)
    settings = Augmentation(intensity=0.3)
    plain, scaled = (augment(p, seeded(3), settings).fixed for p in (pair, narrow))
    torch.testing.assert_close(scaled, plain * 0.08 - 0.06, rtol=0, atol=2e-3)
    assert torch.corrcoef(torch.stack([scaled.flatten(), narrow.fixed.flatten()]))[0, 1] > 0.8
