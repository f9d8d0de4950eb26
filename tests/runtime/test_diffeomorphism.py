"""Folds in every one-sided difference are seen, and smoothed away without touching the rest."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.ndimage import gaussian_filter

from rwcnet_runtime.diffeomorphism import least_determinant, remove_folds, without_folds
from rwcnet_runtime.evaluation.deformation import non_diffeomorphic_percent
from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.tetrahedra import CORNERS, determinants, offsets, planes_of_cubes

SHAPE = (24, 20, 28)
UNIT = ImageGrid(SHAPE, np.eye(4))


def _rough(grid, voxels):
    """Smooth noise of so many voxels."""
    noise = np.random.default_rng(0).standard_normal((*grid.shape, 3))
    smooth = gaussian_filter(noise, (1.5, 1.5, 1.5, 0))
    return (smooth / smooth.std() * voxels * grid.spacing.mean()).astype(np.float32)


def _pushed(voxel, by=(1.5, 0, 0)):
    """One voxel that is pushed over its neighbour."""
    field = np.zeros((*SHAPE, 3), np.float32)
    field[voxel] = by
    return field


def test_the_least_determinant_is_that_of_eight_differences_written_out(sheared_grid):
    field = _rough(sheared_grid, 0.5)
    matrix = sheared_grid.affine[:3, :3]
    derivatives = []
    for axis in range(3):
        forward = np.diff(field.astype(np.float64), axis=axis) + matrix[:, axis]
        ends = [(0, 1), (1, 0)]  # forward, then backward differences, on the voxels; NaN is none
        pads = [[(0, 0)] * axis + [end] + [(0, 0)] * (3 - axis) for end in ends]
        derivatives.append([np.pad(forward, pad, constant_values=np.nan) for pad in pads])
    of_voxel = np.full(sheared_grid.shape, np.inf)
    for columns in itertools.product(*derivatives):
        with np.errstate(invalid="ignore"):
            determinant = np.linalg.det(np.stack(columns, axis=-1)) / np.linalg.det(matrix)
        of_voxel = np.fmin(of_voxel, determinant)
    one_sided = np.full(sheared_grid.shape, np.inf)
    for cubes in planes_of_cubes(sheared_grid):
        # Those between the corners, which come last, are no differences at one voxel.
        for corner, found in zip(CORNERS, determinants(field, sheared_grid, cubes), strict=False):
            np.minimum.at(one_sided.reshape(-1), cubes + offsets(sheared_grid)[corner], found)
    np.testing.assert_allclose(one_sided, of_voxel, rtol=0, atol=1e-5)
    assert (of_voxel <= 0).sum() > 10
    assert (least_determinant(field, sheared_grid) <= one_sided).all()


def test_a_map_is_diffeomorphic_where_the_evaluation_finds_no_volume(make_grid):
    for voxels in (0.1, 0.5):
        grid = make_grid("oblique")
        field = _rough(grid, voxels)
        folded = bool((least_determinant(field, grid) <= 0).any())
        assert folded == (non_diffeomorphic_percent(field, grid) > 0) == (voxels == 0.5)


def test_a_voxel_that_central_differences_do_not_see():
    field = _pushed((7, 8, 9))
    assert (jacobian_determinant(field, UNIT)[7, 8, 9], least_determinant(field, UNIT).min()) == (
        1,
        pytest.approx(-0.5),
    )


@pytest.mark.parametrize("orientation", ["RAS", "anisotropic", "oblique"])
def test_no_fold_is_left(make_grid, orientation):
    grid = make_grid(orientation)
    field = _rough(grid, 0.5)
    kept = field.copy()
    smooth, removal = remove_folds(field, grid)
    np.testing.assert_array_equal(field, kept)
    assert removal.folded_before == (least_determinant(field, grid) <= 0).sum() > 10
    assert removal.folded_after == (least_determinant(smooth, grid) <= 0).sum() == 0
    assert (jacobian_determinant(smooth, grid) > 0).all()
    assert non_diffeomorphic_percent(smooth, grid) == 0
    length = np.linalg.norm(smooth - field, axis=-1)
    assert removal.changed == (length > 0).sum()
    assert removal.largest_change_mm == pytest.approx(length.max(), abs=1e-4)  # mm


@pytest.mark.parametrize(
    ("voxel", "by", "reach"),
    [
        ((7, 8, 9), (1.5, 0, 0), 1),
        ((0, 8, 9), (1.5, 0.4, 0), 2),
        # A corner itself has no neighbours on both sides of it, so that all others must give way.
        ((23, 19, 27), (-1.5, 0, 0.4), 8),
    ],
)
def test_what_does_not_fold_stays_as_it_is(voxel, by, reach):
    field = _pushed(voxel, by)
    smooth, removal = remove_folds(field, UNIT)
    assert removal.folded_before > 0
    assert (least_determinant(smooth, UNIT) > 0).all()
    far = np.abs(np.moveaxis(np.indices(SHAPE), 0, -1) - voxel).max(axis=-1) > reach
    np.testing.assert_array_equal(smooth[far], field[far])


def test_without_folds_nothing_happens():
    field = _rough(UNIT, 0.1)
    smooth, removal = remove_folds(field, UNIT)
    np.testing.assert_array_equal(smooth, field)
    assert (removal.folded_before, removal.changed, removal.rounds) == (0, 0, 0)
    mapping = Mapping(UNIT, UNIT, None, np.ascontiguousarray(np.moveaxis(field, -1, 0)))
    assert without_folds(mapping)[0] is mapping


def test_an_affine_part_is_not_smoothed_at_the_border_either():
    """What the initial transform brings is linear: only the fold on top of it may change."""
    matrix = np.array([[0.2, 0.1, 0], [-0.1, -0.15, 0.05], [0, 0.1, 0.25]])
    affine = (np.moveaxis(np.indices(SHAPE), 0, -1) @ matrix.T).astype(np.float32)
    for voxel in ((7, 8, 9), (0, 8, 9)):
        smooth, removal = remove_folds(_pushed(voxel) + affine, UNIT)
        assert removal.folded_before > removal.folded_after == 0
        rest = smooth - affine
        assert np.abs(rest[..., 1:]).max() < 1e-5  # voxels
        assert 0 < rest[..., 0].max() < 1.5
        assert rest[..., 0].min() > -1e-5  # voxels


def test_what_is_left_is_said():
    """More rounds than are allowed would be needed."""
    field = _rough(UNIT, 1.0)
    smooth, removal = remove_folds(field, UNIT, rounds=1)
    assert removal.rounds == 1
    left = (least_determinant(smooth, UNIT) <= 0).sum()
    assert removal.folded_before > removal.folded_after == left > 0


def test_a_mapping_is_unfolded_with_its_start(make_grid):
    fixed, moving = make_grid("oblique"), make_grid("PSR", scale=1.2)
    start = sitk.AffineTransform(3)
    start.Rotate(0, 1, 0.2)
    start.SetTranslation((3, -2, 1))
    flow = np.ascontiguousarray(np.moveaxis(_rough(ImageGrid(fixed.shape, np.eye(4)), 0.5), -1, 0))
    folded = Mapping(fixed, moving, start, flow)
    unfolded, removal = without_folds(folded)
    assert removal.folded_before > removal.folded_after == 0
    displacement = unfolded.displacement_mm()
    assert (least_determinant(displacement, fixed) > 0).all()
    apart = np.linalg.norm(displacement - folded.displacement_mm(), axis=-1)
    assert apart.max() == pytest.approx(removal.largest_change_mm, abs=0.01)  # mm
    same = apart < 1e-3  # mm
    assert 1 - same.mean() == pytest.approx(removal.changed / same.size, abs=0.01)


def test_a_turned_tetrahedron_between_corners_counts_at_its_corners():
    """All eight one-sided determinants of the cube are positive, and yet it folds."""
    grid = ImageGrid((2, 2, 2), np.eye(4))
    field = np.zeros((2, 2, 2, 3), np.float32)
    cosine, sine = -0.5, np.sqrt(0.75)  # one face is turned by 120 degrees
    turn = np.array([[cosine, -sine], [sine, cosine]])
    middle = np.array([[[-0.5, -0.5], [-0.5, 0.5]], [[0.5, -0.5], [0.5, 0.5]]])
    field[:, :, 1, :2] = middle @ turn.T - middle
    *corners, even, odd = (float(x[0]) for x in determinants(field, grid, np.array([0])))
    np.testing.assert_allclose((*corners, even, odd), [1] * 8 + [cosine] * 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(least_determinant(field, grid), cosine, rtol=0, atol=1e-6)
