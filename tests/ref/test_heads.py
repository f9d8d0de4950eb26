import math
import os
from dataclasses import fields, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rwcnet_ref.deformation import random_affine
from rwcnet_ref.heads import (
    _LEFT_FROM_RIGHT,
    _T1,
    View,
    between,
    centroids_of,
    cut,
    random_view,
    read_label_maps,
)
from rwcnet_runtime.errors import InputError

STRAIGHT = torch.eye(3)
# Of a crop of 20 x 16 x 12 points that begins at voxel (14, 12, 15) of the head.
SIZE = (20, 16, 12)
PLACE = (slice(14, 34), slice(12, 28), slice(15, 27))
MIDDLE = torch.tensor([14 + 9.5, 12 + 7.5, 15 + 5.5])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_a_straight_view_is_a_slice(head):
    found = cut(head, View(STRAIGHT, MIDDLE), SIZE, 1.0, stripped=False)
    assert found.dtype == torch.uint8
    assert torch.equal(found, head.labels[PLACE])
    assert len(found.unique()) == 4


@pytest.mark.parametrize("off", [-0.4, 0.4])
def test_between_voxels_the_nearest_is_taken(head, off):
    found = cut(head, View(STRAIGHT, MIDDLE + off), SIZE, 1.0, stripped=False)
    assert torch.equal(found, head.labels[PLACE])


def test_outside_the_head_is_background(head):
    view = View(STRAIGHT, torch.tensor([9.5, 7.5, 5.5]) - torch.tensor([5, 0, 3]))
    full = replace(head, labels=head.labels.clamp(min=5))
    found = cut(full, view, SIZE, 1.0, stripped=False)
    assert torch.equal(found[5:, :, 3:], full.labels[:15, :16, :9])
    assert found[:5].max() == found[..., :3].max() == 0
    far = cut(full, View(STRAIGHT, torch.tensor([48.0 + 20, 8, 6])), SIZE, 1.0, stripped=False)
    assert far.max() == 0


@pytest.mark.parametrize("axis", range(3))
def test_a_mirrored_view_is_a_flipped_slice(head, axis):
    mirror = STRAIGHT.clone()
    mirror[axis, axis] = -1
    found = cut(head, View(mirror, MIDDLE), SIZE, 1.0, stripped=False)
    assert torch.equal(found, head.labels[PLACE].flip(axis))
    assert not torch.equal(found, head.labels[PLACE])


def test_a_turned_view_swaps_axes(head):
    # The first axis of the crop runs along the second of the head, the second back along its first.
    turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    found = cut(head, View(turn, MIDDLE), (16, 20, 12), 1.0, stripped=False)
    assert torch.equal(found, head.labels[PLACE].flip(0).transpose(0, 1))


def test_a_step_of_two_takes_every_other_voxel(head):
    # The middle of 10 x 8 x 6 points two voxels apart, the first at (14, 12, 15).
    middle = torch.tensor([14 + 9.0, 12 + 7, 15 + 5])
    found = cut(head, View(STRAIGHT, middle), (10, 8, 6), 2.0, stripped=False)
    assert torch.equal(found, head.labels[PLACE][::2, ::2, ::2])


def test_a_stripped_head_keeps_its_brain_alone(head):
    view = View(STRAIGHT, torch.tensor(head.labels.shape) / 2 - 0.5)
    whole = cut(head, view, head.labels.shape, 1.0, stripped=False)
    found = cut(head, view, head.labels.shape, 1.0, stripped=True)
    assert found.unique().tolist() == [0, 1, 2, 3, 4]
    assert whole.unique().tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(found, torch.where(whole == 5, 0, whole))


def test_a_view_goes_on_by_an_affine(random):
    view = View(random_affine(random, 1.0), torch.tensor([10.0, 20, 30]))
    matrix, shift = random_affine(random, 2.0), torch.tensor([3.0, -4, 5])
    points = 20 * torch.randn((9, 3), generator=random)
    first = points @ view.matrix.T + view.middle
    after = view.then(matrix, shift)
    found = points @ after.matrix.T + after.middle
    torch.testing.assert_close(found, first @ matrix.T + shift, rtol=0, atol=1e-4)  # voxels


def test_views_are_mirrored_in_one_of_two_cases_and_near_the_brain(head):
    views = [random_view(head, (16, 16, 16), seeded(n)) for n in range(80)]
    turned = torch.stack([view.matrix.diag().sign() for view in views])
    # Left to right alone.
    assert 24 < (turned[:, 0] < 0).sum() < 56
    assert (turned[:, 1:] > 0).all()
    # Half of the head less half of the crop.
    away = torch.stack([view.middle - head.centre for view in views]).abs().amax(0)
    reach = torch.tensor([16.0, 14, 12])
    assert (away <= reach).all()  # voxels
    assert (away > 0.8 * reach).all()  # voxels


def test_a_crop_larger_than_the_head_may_still_move(head):
    views = [random_view(head, (96, 96, 96), seeded(n)) for n in range(20)]
    away = torch.stack([view.middle - head.centre for view in views]).abs().amax(0)
    assert (away <= 8).all()  # voxels
    assert (away > 4).all()  # voxels


@pytest.mark.parametrize("seed", range(3))
def test_the_affine_between_two_heads_is_found(head, seed):
    random = seeded(seed)
    matrix, shift = random_affine(random, 1.5), 10 * torch.randn(3, generator=random)
    here = 60 + 30 * torch.randn((20, 3), generator=random)
    there = here @ matrix.T + shift
    # A structure that one of them lacks tells nothing.
    here[3], there[7] = math.nan, math.nan
    found = between(replace(head, centroids=here), replace(head, centroids=there))
    points = 60 + 30 * torch.randn((50, 3), generator=random)
    expected = points @ matrix.T + shift
    # The pull towards a mere shift leaves a thousandth of what it is more than that.
    torch.testing.assert_close(points @ found[0].T + found[1], expected, rtol=0, atol=0.1)  # voxels
    assert (expected - points - (expected - points).mean(0)).abs().max() > 5  # voxels


def test_heads_that_are_only_apart_are_shifted(head):
    apart = torch.tensor([4.0, -2, 7])
    matrix, shift = between(head, replace(head, centroids=head.centroids + apart))
    torch.testing.assert_close(matrix, STRAIGHT, rtol=0, atol=1e-6)
    torch.testing.assert_close(shift, apart, rtol=0, atol=1e-4)  # voxels


def test_one_structure_gives_a_shift(head):
    here, there = head.centroids.clone(), head.centroids + 3
    here[2:] = math.nan
    matrix, shift = between(replace(head, centroids=here), replace(head, centroids=there))
    torch.testing.assert_close(matrix, STRAIGHT, rtol=0, atol=0)
    torch.testing.assert_close(shift, torch.full((3,), 3.0), rtol=0, atol=1e-4)  # voxels


def test_flat_structures_leave_the_axis_across_them_alone(head, random):
    here = 30 * torch.randn((6, 3), generator=random)
    there = 1.1 * here + torch.randn((6, 3), generator=random)
    here[:, 2], there[:, 2] = 20, 25
    matrix, shift = between(replace(head, centroids=here), replace(head, centroids=there))
    torch.testing.assert_close(matrix[:, 2], STRAIGHT[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix[2], STRAIGHT[2], rtol=0, atol=1e-6)
    assert shift[2] == pytest.approx(5, abs=1e-4)  # voxels
    assert matrix[0, 0] > 1.02


def test_structures_in_one_place_do_not_turn_a_head(head, random):
    here, there = 0.1 * torch.randn((2, 4, 3), generator=random)
    matrix, _ = between(replace(head, centroids=here), replace(head, centroids=there))
    torch.testing.assert_close(matrix, STRAIGHT, rtol=0, atol=0.05)


def test_the_second_head_is_cut_where_the_first_one_is(head):
    bare = replace(head, labels=head.labels * head.brain[head.labels.int()])
    moved = F.pad(bare.labels, (3, 0, 9, 0, 0, 0))
    second = replace(bare, labels=moved, centroids=centroids_of(moved, head.brain))
    view = View(random_affine(seeded(0), 1.0), head.centre)
    there = view.then(*between(bare, second))
    found = cut(second, there, SIZE, 1.0, stripped=False)
    # Points that lie midway between two voxels may fall to either.
    assert (found == cut(bare, view, SIZE, 1.0, stripped=False)).float().mean() > 0.99
    assert (found == cut(second, view, SIZE, 1.0, stripped=False)).float().mean() < 0.8


def test_centroids_are_those_of_the_brain(head):
    assert head.centroids.isnan().all(1).tolist() == [True, False, False, False, False, True]
    labels = torch.zeros((6, 7, 8), dtype=torch.uint8)
    labels[1:4, 2, 3:5] = 1
    labels[5, 6, 7] = 3
    found = centroids_of(labels, torch.tensor([False, True, True, False]))
    torch.testing.assert_close(found[1], torch.tensor([2.0, 2, 3.5]), rtol=0, atol=1e-6)  # voxels
    assert found[[0, 2, 3]].isnan().all()
    middle = head.centroids[1:5].mean(0)
    torch.testing.assert_close(head.centre, middle, rtol=0, atol=1e-5)  # voxels


def test_a_head_goes_to_a_device_whole(head):
    moved = head.to(torch.device("meta"))
    assert {getattr(moved, field.name).device.type for field in fields(moved)} == {"meta"}


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
    assert head.labels.dtype == torch.uint8
    assert head.classes[2] == head.classes[4]  # white matter
    assert head.classes[3] == head.classes[5]  # ventricles
    assert head.classes[0] == 0
    assert len(head.classes.unique()) == 4
    assert head.brain.tolist() == [False, False, True, True, True, True]
    right = np.argwhere(np.reshape(expected, (2, 3, 4)) == 41).mean(0)
    assert head.centroids[4].tolist() == pytest.approx(right, abs=1e-4)  # voxels


def test_brightness_in_t1_goes_with_the_tissue(synthseg):
    (head,) = read_label_maps(synthseg)
    background, skull, white, fluid, *_ = head.t1[head.classes]
    assert background.isnan()
    assert skull.isnan()
    assert white == pytest.approx(_T1[2])
    assert fluid == pytest.approx(_T1[4])


def test_a_map_without_a_brain_gets_one_sentence(synthseg):
    values = np.full((2, 3, 4), 502, np.int32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), synthseg / "seg_02.nii.gz")
    with pytest.raises(InputError, match=r"seg_02.nii.gz holds no label of a brain: take it out"):
        read_label_maps(synthseg)


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_a_damaged_listing_gets_one_sentence(synthseg, content):
    path = synthseg / "generation_labels.npy"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"generation_labels.npy cannot be read as labels"
    ) as error:
        read_label_maps(synthseg)
    assert "\n" not in str(error.value)


def test_more_labels_than_a_byte_holds_are_refused(synthseg):
    np.save(synthseg / "generation_labels.npy", np.arange(257))
    with pytest.raises(InputError, match=r"lists 257 labels, at most 256 can be"):
        read_label_maps(synthseg)


def test_right_structures_have_one_left_twin_each():
    assert len(set(_LEFT_FROM_RIGHT.values())) == len(_LEFT_FROM_RIGHT)
    assert not set(_LEFT_FROM_RIGHT) & set(_LEFT_FROM_RIGHT.values())
    # Brightness is looked up by the left number.
    assert not set(_LEFT_FROM_RIGHT) & set(_T1)


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
    # Of every tissue of the brain it is known how bright it is.
    assert not head.t1[head.classes[head.brain]].isnan().any()
    brain = head.brain[head.labels.int()].float().mean()
    assert 0.05 < brain < 0.5
    for centre, n in zip(head.centre.tolist(), head.labels.shape, strict=True):
        assert 0.3 < centre / n < 0.7
    # Left is on the left: RAS+ axes.
    left, right = (head.centroids[known.index(n), 0] for n in (10, 49))
    assert left < right
