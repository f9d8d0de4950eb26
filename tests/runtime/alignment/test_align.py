import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.alignment import INITS, align
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.overlap import dice_per_label
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.labels import warp_labels
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.volumes import read_labels, read_volume

DATA = Path(os.environ.get("RWCNET_DATA", "../shared/data"))


@pytest.fixture(scope="module")
def turned(motion):
    """Points of the moving scan to points of the head: 24 degrees and 38 mm."""
    return motion((1, 2, -1), 24, (25, -20, 20))


@pytest.fixture(scope="module")
def fixed(look):
    return look()


@pytest.fixture(scope="module")
def moving(look, turned):
    return look(turned, shape=(45, 48, 45), seed=1)


@pytest.fixture(scope="module")
def undone(fixed, moving):
    return align(fixed, moving)


def test_a_rotation_and_a_shift_are_undone(undone, turned, error_mm):
    found = undone
    assert error_mm(None, turned.GetInverse()) > 30  # mm, by the headers
    assert error_mm(found.transform, turned.GetInverse()) < 1.0  # mm
    assert found.numbers["rotation_degrees"] == pytest.approx(24, abs=1.5)
    assert found.numbers["similarity"][found.method] > found.numbers["similarity"]["header"]


def test_an_inverted_contrast_on_another_grid_is_aligned(look, motion, error_mm):
    true = motion((0, 1, 1), -20, (0, 30, -15))
    fixed = look(spacing=(5, 5, 6), shape=(34, 40, 27))
    moving = look(true, shape=(45, 48, 45), contrast=lambda x: 130 - x, seed=1)
    assert error_mm(align(fixed, moving).transform, true.GetInverse()) < 2.0  # mm


def test_images_in_place_stay_where_their_headers_say(look):
    found = align(look(), look(spacing=(4, 6, 5), shape=(45, 34, 32), seed=1))
    assert found.transform is None
    assert found.method == "header"
    assert found.numbers["shift_mm"] == 0
    assert "affine" in found.reason


def test_frames_that_overlap_by_accident_are_noticed(look, motion, error_mm):
    true = motion((1, 0, 0), 0, (-34, 0, 0))
    found = align(look(), look(true, shape=(48, 39, 32), seed=1))
    assert found.numbers["overlap"]["before"] > 0.5
    assert error_mm(found.transform, true.GetInverse()) < 1.0  # mm


@pytest.mark.slow
def test_frames_that_do_not_meet_are_brought_together(look, motion, error_mm):
    true = motion((1, 0, 0), 0, (500, 0, 0))
    found = align(look(), look(true, centre=(500, 0, 0), seed=1))
    assert "the headers overlap by 0% only" in found.reason
    assert error_mm(found.transform, true.GetInverse()) < 1.0  # mm


@pytest.mark.slow
def test_a_sheared_grid_is_aligned(look, motion, error_mm):
    true = motion((0, 0, 1), 10, (10, 5, 0))
    affine = np.array([[-5.0, 0.8, 0, 81], [0, 5, 0.4, -104], [0, 0, 5, -78], [0, 0, 0, 1]])
    found = align(look.on(ImageGrid((34, 42, 32), affine)), look(true, shape=(40, 43, 36), seed=1))
    assert error_mm(found.transform, true.GetInverse()) < 1.0  # mm


def test_a_crop_without_background_is_aligned(look, motion):
    true = motion((1, 1, 0), 8, (4, -3, 2))
    spacing, shape = (1.5, 1.5, 1.5), (31, 40, 24)
    found = align(
        look(spacing=spacing, shape=shape, centre=(10, 15, 8)),
        look(true, spacing=spacing, shape=shape, centre=(10, 15, 8), seed=1),
    )
    middle = [-10.0, -15.0, 8.0]
    gap = np.subtract(
        found.transform.TransformPoint(middle), true.GetInverse().TransformPoint(middle)
    )
    assert np.linalg.norm(gap) < 1.0  # mm


@pytest.mark.slow
def test_an_affine_that_stretches_too_much_is_not_taken(look):
    squeeze = sitk.AffineTransform(3)
    squeeze.SetMatrix([1, 0, 0, 0, 1.9, 0, 0, 0, 1])
    found = align(look(), look(squeeze, seed=1))
    assert "too much" in found.reason
    assert found.method != "affine"


def test_the_same_pair_gives_the_same_transform(fixed, moving, undone):
    again = align(fixed, moving)
    assert again.transform.GetParameters() == undone.transform.GetParameters()
    assert again.numbers["similarity"] == undone.numbers["similarity"]


@pytest.mark.parametrize("init", [init for init in INITS if init != "auto"])
def test_what_is_asked_for_is_done(fixed, moving, turned, error_mm, init):
    found = align(fixed, moving, init)
    assert found.method == found.numbers["asked"] == init
    assert found.reason.startswith("asked for")
    assert (found.transform is None) == (init == "header")
    most = {"header": 60, "centre": 60, "moments": 12, "rigid": 1, "affine": 1}[init]
    assert error_mm(found.transform, turned.GetInverse()) < most  # mm
    if init == "rigid":
        assert found.numbers["stretch"] == [1, 1]


def test_headers_are_believed_whatever_the_intensities(fixed):
    mask = replace(fixed, data=np.float32(fixed.data > 0), path=Path("mask.nii"))
    found = align(fixed, mask, "header")
    assert (found.transform, found.method, found.reason) == (None, "header", "asked for")
    assert found.numbers == {"asked": "header"}


def test_centre_lays_the_middles_on_each_other(look):
    found = align(look(), look(centre=(30, -20, 10), seed=1), "centre")
    moved = found.transform.TransformPoint([0.0, 0.0, 0.0])
    np.testing.assert_allclose(moved, [-30, 20, 10], rtol=0, atol=1e-3)  # LPS mm


def test_an_unknown_init_is_refused(fixed):
    with pytest.raises(InputError, match="'best'; choose one of auto, header"):
        align(fixed, fixed, "best")


def test_a_mask_is_refused_by_name(fixed):
    mask = replace(fixed, data=np.float32(fixed.data > 0), path=Path("mask.nii"))
    with pytest.raises(InputError, match=r"^mask\.nii: The image has \(almost\) one intensity"):
        align(fixed, mask)


@pytest.mark.parametrize("shape", [(2, 3, 4), (9, 8, 1), (60, 50, 40)])
def test_images_with_next_to_nothing_in_them_break_nothing(fixed, shape):
    data = np.zeros(shape, np.float32)
    data[tuple(size // 2 for size in shape)] = 1
    data[0, 0, 0] = 0.5
    grid = ImageGrid(shape, np.diag([4.0, 4, 4, 1]))
    speck = replace(fixed, data=data, grid=grid, stored_grid=grid)
    found = align(speck, speck)
    assert found.method in INITS


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the development data in {DATA}")
def test_two_people_are_aligned_straight_from_their_files():
    folders = [DATA / f"brain_trt/subject_{n}" for n in (1, 2)]
    fixed, moving = (read_volume(folder / "t1.nii.gz") for folder in folders)
    labels = [read_labels(folder / "labels.nii.gz") for folder in folders]
    found = align(fixed, moving)
    for transform, low, high in ((None, 0, 0.05), (found.transform, 0.35, 1)):
        displacement = Mapping(fixed.grid, moving.grid, transform).displacement_mm()
        dice = dice_per_label(labels[0].data, warp_labels(labels[1], displacement, fixed.grid))
        assert low <= np.mean(list(dice.values())) <= high
