"""Pairs made from the files of cases."""

from dataclasses import fields, replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
import torch.nn.functional as F

from rwcnet_ref.augment import Augmentation
from rwcnet_ref.datasets import CaseSource, Files
from rwcnet_ref.grid import sample
from rwcnet_ref.pair import Pair
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.cases import Case, read_cases
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.volumes import read_volume

WINDOW = (0.0, 150.0)  # of the phantoms' intensities
# Points (RAS mm) inside every phantom.
POINTS = np.array([[14.0, 5.0, -6.0], [-16.0, 9.0, 8.0], [3.0, -17.0, 4.0], [0.0, 0.0, 0.0]])
SHIFT = np.array([6.0, -4.0, 3.0])  # RAS mm


def source_of(*cases, resolution=1, **options):
    files = options.pop("files", None) or Files(WINDOW)
    return CaseSource(cases, files, resolution, multiple=4, **options)


def at(image, points):
    return sample(image, points.T[None, :, :, None, None]).flatten()


def assert_same(first, second):
    for field in fields(Pair):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def write_points(path, points):
    rows = "\n".join(",".join(f"{x:.6f}" for x in point) for point in points)
    path.write_text("x,y,z\n" + rows + "\n")
    return path


def write_translation(path, shift):
    transform = sitk.TranslationTransform(3, (shift * [-1, -1, 1]).tolist())
    sitk.WriteTransform(transform, str(path))
    return path


def bands(path, grid, *, wide=12.0):
    """Label a grid by bands of the world's x: a label map any two grids agree on."""
    voxels = np.moveaxis(np.indices(grid.shape), 0, -1)
    x = grid.world_from_voxel(voxels)[..., 0]
    labels = np.clip(np.floor(x / wide) + 3, 0, 5).astype(np.int16)
    nib.save(nib.Nifti1Image(labels, grid.affine), path)
    return path


@pytest.fixture
def make_case(tmp_path, save_phantom):
    """Make a case of one anatomy, `SHIFT` away in the moving file's world."""

    def make(fixed_grid, moving_grid):
        away = ImageGrid(moving_grid.shape, moving_grid.affine.copy())
        away.affine[:3, 3] += SHIFT
        paths = {
            "fixed": save_phantom(fixed_grid, "fixed.nii.gz"),
            "moving": save_phantom(moving_grid, "moving.nii.gz"),
            "fixed_labels": bands(tmp_path / "fixed_labels.nii.gz", fixed_grid),
            "moving_labels": bands(tmp_path / "moving_labels.nii.gz", moving_grid),
        }
        for name in ("moving", "moving_labels"):
            image = nib.load(paths[name])
            values = image.get_fdata().astype(image.get_data_dtype())
            nib.save(nib.Nifti1Image(values, away.affine), paths[name])
        return Case(
            "case",
            fixed_points=write_points(tmp_path / "fixed.csv", POINTS),
            moving_points=write_points(tmp_path / "moving.csv", POINTS + SHIFT),
            points_frame="RAS",
            initial_transform=write_translation(tmp_path / "shift.tfm", SHIFT),
            **paths,
        )

    return make


@pytest.fixture
def case(make_case, make_grid):
    """Return a case of one pair of grids."""
    return make_case(make_grid("oblique"), make_grid("PSR", scale=1.1, centre=(3.3, -2.1, 1.4)))


def test_the_initial_transform_brings_images_labels_and_points_together(
    make_case, fixed_grid, make_grid
):
    moving_grid = make_grid("LPS", scale=1.1, centre=(3.3, -2.1, 1.4))
    pair = source_of(make_case(fixed_grid, moving_grid)).pair(0)
    assert pair.fixed.shape == pair.moving.shape
    assert all(n % 4 == 0 for n in pair.fixed.shape[2:])
    there = (pair.moving > 0) & (pair.fixed > 0)
    inside = -F.max_pool3d(-there.float(), 3, 1, 1) > 0
    assert inside.float().mean() > 0.3
    # Of 1; the anatomy's slope is below 0.04 a voxel, so that half a voxel off would be seen.
    torch.testing.assert_close(pair.moving[inside], pair.fixed[inside], rtol=0, atol=0.02)
    torch.testing.assert_close(pair.moving_points, pair.fixed_points, rtol=0, atol=1e-3)  # voxels
    alike = (pair.moving_labels == pair.fixed_labels).all(1, keepdim=True)[inside]
    assert alike.float().mean() > 0.9  # the rest lies between two labels


def test_points_lie_on_the_anatomy(case, anatomy):
    pair = source_of(case).pair(0)
    expected = torch.from_numpy(anatomy(POINTS) / WINDOW[1]).float()
    torch.testing.assert_close(at(pair.fixed, pair.fixed_points), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(at(pair.moving, pair.moving_points), expected, rtol=0, atol=0.03)


def test_edges_of_voxels_measure_mm(case):
    pair = source_of(case).pair(0)
    measured = (pair.fixed_points[1:] - pair.fixed_points[0]) @ pair.mm_from_voxel.T
    expected = torch.from_numpy(POINTS[1:] - POINTS[0]).float()
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-3)  # mm


@pytest.mark.parametrize("resolution", [2, 4])
def test_coarse_pairs_are_averages_in_the_same_place(case, resolution):
    fine, coarse = (source_of(case, resolution=r).pair(0) for r in (1, resolution))
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        expected = F.avg_pool3d(getattr(fine, name), resolution)
        torch.testing.assert_close(getattr(coarse, name), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        coarse.mm_from_voxel, resolution * fine.mm_from_voxel, rtol=0, atol=1e-6
    )
    # An image of a coordinate says where in the fine grid a coarse point lies.
    ramp = torch.arange(fine.fixed.shape[2]).float().view(1, 1, -1, 1, 1).expand_as(fine.fixed)
    found = at(F.avg_pool3d(ramp, resolution), coarse.fixed_points)
    torch.testing.assert_close(found, fine.fixed_points[:, 0], rtol=0, atol=1e-3)  # voxels


def test_images_come_down_as_the_model_says_and_labels_as_averages(case):
    first = source_of(case, resolution=2, reduce=lambda x, f: x[:, :, ::f, ::f, ::f]).pair(0)
    fine = source_of(case).pair(0)
    torch.testing.assert_close(first.fixed, fine.fixed[:, :, ::2, ::2, ::2], rtol=0, atol=0)
    expected = F.avg_pool3d(fine.fixed_labels, 2)
    torch.testing.assert_close(first.fixed_labels, expected, rtol=0, atol=1e-6)


def test_labels_that_count_can_be_chosen(case):
    everything = source_of(case).pair(0)
    assert everything.fixed_labels.shape[1] == everything.moving_labels.shape[1]
    assert everything.fixed_labels.sum(1).max() == 1
    chosen = source_of(case, labels=(2, 4, 99)).pair(0)
    expected = everything.fixed_labels[:, [1, 3]]
    torch.testing.assert_close(chosen.fixed_labels, expected, rtol=0, atol=0)
    with pytest.raises(InputError, match="none of the labels 98, 99"):
        source_of(case, labels=(98, 99)).pair(0)


@pytest.fixture
def shared(tmp_path):
    """Return a case as Learn2Reg has it: one array grid, headers that say something else."""
    random = np.random.default_rng(0)
    affines = [np.diag([-1.5, 1.5, 1.5, 1]), np.diag([1.5, -1.5, 2.0, 1])]
    affines[1][:3, 3] = 40
    paths = {}
    for side, affine in zip(("fixed", "moving"), affines, strict=True):
        image = random.uniform(1, 100, (9, 8, 7)).astype(np.float32)
        image[2, 3, 5] = 150
        for what, values in (
            ("", image),
            ("_labels", (image > 50).astype(np.uint8) * 7),
            ("_mask", (image > 20).astype(np.uint8)),
        ):
            paths[f"{side}{what}"] = tmp_path / f"{side}{what}.nii.gz"
            nib.save(nib.Nifti1Image(values, affine), paths[f"{side}{what}"])
        paths[f"{side}_points"] = tmp_path / f"{side}.csv"
        paths[f"{side}_points"].write_text("2,3,5\n4.5,3.5,2\n")
    return Case("shared", points_frame="voxel", **paths)


def test_on_a_shared_grid_voxels_correspond_whatever_headers_say(shared):
    pair = source_of(shared, shared_grid=True).pair(0)
    stored = [nib.load(path).get_fdata(dtype=np.float32) for path in (shared.fixed, shared.moving)]
    # The fixed file runs to the left: its first axis is reversed, for both.
    i, j, k = (slice(n // 2, n // 2 + m) for n, m in ((3, 9), (0, 8), (1, 7)))
    for image, values in zip((pair.fixed, pair.moving), stored, strict=True):
        assert image.shape == (1, 1, 12, 8, 8)
        expected = torch.from_numpy(values[::-1].copy() / 150)
        torch.testing.assert_close(image[0, 0, i, j, k], expected, rtol=0, atol=1e-6)
    expected = torch.from_numpy((stored[1][::-1] > 50).astype(np.float32))
    torch.testing.assert_close(pair.moving_labels[0, 0, i, j, k], expected, rtol=0, atol=0)
    torch.testing.assert_close(pair.fixed_points, pair.moving_points, rtol=0, atol=1e-4)
    for image in (pair.fixed, pair.moving):
        assert at(image, pair.fixed_points)[0] == pytest.approx(1, abs=1e-4)
    mask = torch.from_numpy((stored[0][::-1] > 20).astype(np.float32))
    torch.testing.assert_close(pair.fixed_mask[0, 0, i, j, k], mask, rtol=0, atol=0)


def test_masks_come_down_as_averages(shared):
    fine, coarse = (source_of(shared, resolution=r, shared_grid=True).pair(0) for r in (1, 2))
    expected = F.avg_pool3d(fine.fixed_mask, 2)
    torch.testing.assert_close(coarse.fixed_mask, expected, rtol=0, atol=1e-6)


def test_padding_is_background_where_labels_leave_none(shared):
    nib.save(nib.Nifti1Image(np.full((9, 8, 7), 7, np.uint8), np.eye(4)), shared.moving_labels)
    nib.save(nib.load(shared.moving_labels), shared.fixed_labels)
    for path in (shared.fixed, shared.moving):
        nib.save(nib.Nifti1Image(nib.load(path).get_fdata(dtype=np.float32), np.eye(4)), path)
    bare = replace(shared, fixed_mask=None, moving_mask=None)
    labels = source_of(bare).pair(0).fixed_labels
    assert labels.shape[1] == 1
    assert labels.sum() == 9 * 8 * 7


def test_grids_that_are_not_shared_are_refused(shared, tmp_path):
    nib.save(
        nib.Nifti1Image(np.eye(9, dtype=np.float32)[:, :, None] * np.arange(5), np.eye(4)),
        shared.moving,
    )
    bare = Case("bare", shared.fixed, shared.moving)
    with pytest.raises(InputError, match=r"\(9, 8, 7\) voxels .*share one grid"):
        source_of(bare, shared_grid=True).pair(0)


def test_a_csv_of_pairs_is_a_source(case, tmp_path):
    columns = (
        "fixed",
        "moving",
        "fixed_points",
        "moving_points",
        "points_frame",
        "initial_transform",
    )
    values = [v if isinstance(v := getattr(case, c), str) else v.name for c in columns]
    path = tmp_path / "pairs.csv"
    path.write_text(f"case,{','.join(columns)}\none,{','.join(values)}\n")
    source = source_of(*read_cases(path))
    assert len(source) == 1
    pair = source.pair(0)
    torch.testing.assert_close(pair.moving_points, pair.fixed_points, rtol=0, atol=1e-3)  # voxels
    assert pair.fixed_labels is None


def test_a_seed_draws_a_pair_whatever_was_drawn_before(shared):
    strong = Augmentation(flip=0.5, swap=0.5, deform_mm=2.0, affine=0.2, intensity=0.5)
    cases = (shared, replace(shared, name="swapped", fixed=shared.moving, moving=shared.fixed))
    options = {"shared_grid": True, "augmentation": strong}
    bare = [Case(c.name, c.fixed, c.moving) for c in cases]
    fresh, used = source_of(*bare, **options), source_of(*bare, **options)
    used.draw(torch.Generator().manual_seed(1))
    drawn = [s.draw(torch.Generator().manual_seed(2)) for s in (fresh, used)]
    assert_same(*drawn)
    seen = {float(fresh.draw(torch.Generator().manual_seed(n)).fixed.sum()) for n in range(4)}
    assert len(seen) == 4


def test_pairs_in_order_are_not_augmented(shared):
    plain = source_of(shared, shared_grid=True)
    strong = source_of(shared, shared_grid=True, augmentation=Augmentation(flip=1.0, intensity=1.0))
    assert_same(plain.pair(0), strong.pair(0))
    assert (
        strong.draw(torch.Generator().manual_seed(0)).fixed - plain.pair(0).fixed
    ).abs().max() > 0.1


@pytest.mark.parametrize(("budget_gb", "readings"), [(4.0, 1), (0.0, 3)])
def test_files_are_kept_within_a_budget(budget_gb, readings, shared, monkeypatch):
    read = []
    monkeypatch.setattr(
        "rwcnet_ref.datasets.files.read_volume", lambda p: read.append(p) or read_volume(p)
    )
    source = source_of(shared, shared_grid=True, files=Files(WINDOW, budget_gb))
    pairs = [source.pair(0) for _ in range(3)]
    assert len(read) == 2 * readings
    assert_same(pairs[0], pairs[-1])


def test_what_was_used_longest_ago_is_forgotten_first():
    files = Files(budget_gb=2.5 * 8e3 / 1e9)  # room for two arrays of 1000 numbers
    made = []

    def get(key):
        return files.keep(key, lambda: made.append(key) or np.zeros(1000))

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"]


def test_intensities_are_scaled_as_in_inference_or_by_a_window(shared):
    low, high = 10.0, 60.0
    bare = Case("bare", shared.fixed, shared.moving)
    image = torch.from_numpy(nib.load(shared.fixed).get_fdata(dtype=np.float32))
    windowed = source_of(bare, shared_grid=True, files=Files((low, high))).pair(0).fixed
    expected = (image - low) / (high - low)  # not clipped
    assert windowed.sum() == pytest.approx(float(expected.sum()), rel=1e-5)
    scaled = source_of(bare, shared_grid=True, files=Files()).pair(0).fixed
    assert 0 <= scaled.min() < scaled.max() == 1
    with pytest.raises(InputError, match="is empty"):
        Files((1.0, 1.0))


def test_landmarks_outside_either_image_do_not_count(case, tmp_path):
    far = np.array([[300.0, 0, 0]])
    write_points(case.fixed_points, np.concatenate([far, POINTS, POINTS[:1]]))
    write_points(case.moving_points, np.concatenate([POINTS[:1], POINTS + SHIFT, far]))
    pair = source_of(case).pair(0)
    assert len(pair.fixed_points) == len(pair.moving_points) == len(POINTS)
    write_points(case.fixed_points, far)
    write_points(case.moving_points, far)
    with pytest.raises(InputError, match="lies inside both images"):
        source_of(case).pair(0)


def test_landmarks_need_an_initial_transform_that_can_be_inverted(case, tmp_path):
    field = sitk.Image((4, 4, 4), sitk.sitkVectorFloat64)
    path = tmp_path / "field.h5"
    sitk.WriteTransform(sitk.DisplacementFieldTransform(field), str(path))
    with pytest.raises(InputError, match=r"field\.h5 has no inverse"):
        source_of(replace(case, initial_transform=path)).pair(0)


def test_labels_off_the_grid_of_their_image_are_refused(case, make_grid):
    bands(case.fixed_labels, make_grid("RAS", scale=3.0))
    with pytest.raises(InputError, match="does not lie on the grid of"):
        source_of(case).pair(0)


def test_a_mask_in_place_of_an_image_is_named(shared):
    with pytest.raises(InputError, match=r"fixed_mask\.nii\.gz: "):
        source_of(Case("mask", shared.fixed_mask, shared.moving), files=Files()).pair(0)


def test_what_is_kept_belongs_to_its_files_and_its_transform(case, tmp_path, make_grid):
    other = bands(tmp_path / "other.nii.gz", read_volume(case.moving).stored_grid, wide=6.0)
    transform = write_translation(tmp_path / "shift.tfm", SHIFT)
    variants = [
        case,
        replace(case, moving_labels=other),
        replace(case, initial_transform=transform),
    ]
    files = Files(WINDOW)  # shared, as training and validation share it
    for variant in variants:
        assert_same(source_of(variant, files=files).pair(0), source_of(variant).pair(0))
