from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.alignment import starts
from rwcnet_runtime.alignment.coarse import coarse_pairs
from rwcnet_runtime.alignment.linear import as_affine, optimise, stretches
from rwcnet_runtime.alignment.similarity import overlap, similarity
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.volumes import Volume


@pytest.fixture(scope="module")
def pairs(look):
    return coarse_pairs(look(), look(spacing=(4, 6, 5), shape=(45, 34, 32), seed=1))


def test_coarse_copies_lie_where_the_image_does(pairs, sheared_grid, look):
    sheared = coarse_pairs(look.on(sheared_grid), look())
    point = (-14.0, -20.0, 12.0)  # LPS mm, inside a part of intensity 100
    for fixed, moving in pairs[2:] + sheared[2:]:
        for coarse in (fixed, moving):
            value = coarse.image.EvaluateAtPhysicalPoint(point, sitk.sitkLinear)
            assert value == pytest.approx(0.9, abs=0.08)  # of 0..1, the brightest is 110


def test_what_is_held_out_is_not_seen_and_the_rest_of_the_box_is(pairs):
    for coarse in pairs[-1]:
        box, seen, held_out = map(
            sitk.GetArrayFromImage, (coarse.box, coarse.seen, coarse.held_out)
        )
        np.testing.assert_array_equal(seen + held_out, box)
        assert 0.4 < seen.sum() / box.sum() < 0.6
        assert box[sitk.GetArrayFromImage(coarse.foreground) > 0].all()


def test_spacing_is_never_finer_than_the_images(look):
    spacings = [fixed.image.GetSpacing() for fixed, _ in coarse_pairs(look(), look(seed=1))]
    assert [spacing[0] for spacing in spacings] == pytest.approx([7.3, 5, 5], abs=0.1)  # mm
    assert all(spacing == (spacing[0],) * 3 for spacing in spacings)


@pytest.mark.parametrize("ratio", [10, 1000])
def test_copies_of_images_of_very_different_size_stay_small(ratio):
    def ball(side):
        return volume_of(
            lambda points: np.maximum(1 - np.linalg.norm(points, axis=-1) / (0.45 * side), 0),
            (40, 40, 40),
            side / 40,
        )

    sizes = [
        [max(x.image.GetSize()) for x in pair]
        for pair in coarse_pairs(ball(200), ball(200 / ratio))
    ]
    assert [large for large, _ in sizes] == [48, 96, 192]
    assert all(small <= 40 for _, small in sizes)


def test_overlap_is_of_the_smaller_image_on_any_grids(look):
    fixed = coarse_pairs(look(), look())[0][0]
    moving = coarse_pairs(look(), look(seed=1))[-1][1]
    away = sitk.TranslationTransform(3, [40.0, 0.0, 0.0])
    # Boxes of about 160 and 144 mm, since the margin is in voxels.
    for pair in ((fixed, moving), (moving, fixed)):
        assert overlap(*pair, away) == pytest.approx(1 - 32 / 144, abs=0.06)


def test_an_optimum_is_the_same_whatever_the_number_of_threads(look, motion):
    pair = coarse_pairs(look(), look(motion((0, 0, 1), 5, (6, -4, 3)), seed=1))[-1]
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = set()
    try:
        for threads in (8, 8, 3, 1):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.add(optimise(*pair, starts.header(pair[0])).GetParameters())
            assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert len(found) == 1


def test_similarity_is_highest_in_place_and_falls_with_the_overlap(pairs):
    fine = pairs[-1]
    steps = [sitk.TranslationTransform(3, [float(x), 0.0, 0.0]) for x in (0, 8, 40, 1000)]
    alike = [similarity(*fine, step) for step in steps]
    assert alike[0] > 1.5 * alike[1] > 1.5 * alike[2] > alike[3] == 0
    covers = [overlap(*fine, step) for step in steps]
    assert covers[0] == pytest.approx(1, abs=0.03)
    assert covers[2] == pytest.approx(1 - 40 / 140, abs=0.06)  # a box of about 140 mm
    assert covers[3] == 0


def test_moments_find_the_axes(look, motion, error_mm):
    true = motion((0, 0, 1), 90, (10, 0, -10))
    coarse = coarse_pairs(look(), look(true, shape=(48, 48, 38), seed=1))[0]
    closest = min(error_mm(start, true.GetInverse()) for start in starts.moments(*coarse))
    assert closest < 12  # mm: a start


def test_turns_are_about_the_centre_and_hold_the_start_itself(pairs):
    start = starts.centre(*pairs[0])
    turned = starts.turned(start)
    assert len(turned) == 27
    assert turned[0].GetMatrix() == start.GetMatrix()
    for turn in turned:
        np.testing.assert_allclose(
            turn.TransformPoint(start.GetCenter()),
            start.TransformPoint(start.GetCenter()),
            rtol=0,
            atol=1e-9,  # mm
        )


def test_an_affine_is_found_and_the_start_left_alone(look, error_mm):
    true = sitk.AffineTransform(3)
    true.SetMatrix([1.06, 0.05, 0, 0, 0.95, 0.03, 0, 0, 1.04])
    true.SetTranslation([4, -3, 2])
    fine = coarse_pairs(look(), look(true, shape=(40, 43, 36), seed=1))[-1]
    start = as_affine(starts.header(fine[0]))
    before = start.GetParameters()
    found = optimise(*fine, start)
    assert error_mm(found, true.GetInverse()) < 0.8  # mm
    assert start.GetParameters() == before
    np.testing.assert_allclose(
        stretches(found), stretches(sitk.AffineTransform(true.GetInverse())), rtol=0, atol=0.02
    )


def test_images_that_do_not_meet_give_nothing(pairs):
    start = starts.header(pairs[0][0])
    start.SetTranslation((1e4, 0, 0))
    assert optimise(*pairs[0], start) is None


def volume_of(function, shape, spacing):
    """Sample a function of world points; the middle of the field of view is the origin."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    grid = ImageGrid(shape, affine)
    points = grid.world_from_voxel(np.moveaxis(np.indices(shape), 0, -1))
    return Volume(function(points).astype(np.float32), grid, grid, Path("scan.nii"))


def test_averaging_moves_nothing():
    ramp = volume_of(lambda points: points @ (1.0, 0.5, 0.25), (100, 104, 96), 1.0)
    for fixed, _ in coarse_pairs(ramp, ramp):
        middle = fixed.image.EvaluateAtPhysicalPoint((0.0, 0.0, 0.0), sitk.sitkLinear)
        assert middle == pytest.approx(0.5, abs=0.001)  # of 0..1, which is some 150 mm


def test_points_that_leave_the_image_tell_nothing():
    waves = volume_of(lambda points: np.sin(points / 4).sum(axis=-1), (40, 40, 40), 2.0)
    fixed, moving = coarse_pairs(waves, waves)[-1]
    period = sitk.TranslationTransform(3, [8 * np.pi, 0.0, 0.0])  # inside, all is as before
    share = similarity(fixed, moving, period) / similarity(fixed, moving, sitk.Transform())
    assert share == pytest.approx(1 - 8 * np.pi / 80, abs=0.15)
    assert share < 0.75
