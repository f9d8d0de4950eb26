import math
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation import Case, evaluate_bundle, evaluate_fields, measure
from rwcnet_runtime.registrar import Registrar
from rwcnet_runtime.volumes import read_volume, write_displacement

SHIFT = np.array([4.0, -2.0, 2.0])  # whole voxels of 2 mm, RAS


def save(path, data, affine):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def case(tmp_path, save_phantom, make_grid):
    """Two images of one anatomy, the second 4, -2, 2 mm away in the world, in other axes."""
    fixed_grid, moving_grid = make_grid("RAS"), make_grid("PSR")
    fixed = save_phantom(fixed_grid, "fixed.nii.gz")
    affine = moving_grid.affine.copy()
    affine[:3, 3] += SHIFT
    image = nib.load(save_phantom(moving_grid, "phantom.nii.gz"))
    moving = save(tmp_path / "moving.nii.gz", image.get_fdata(dtype=np.float32), affine)

    def labels(grid):
        points = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
        found = np.zeros(grid.shape, np.float32)  # as `brain_trt` stores them
        found[np.linalg.norm(points - (14, 5, -6), axis=-1) < 11] = 3
        found[np.linalg.norm(points - (-16, 9, 8), axis=-1) < 9] = 1002
        return found

    still, other = labels(fixed_grid), labels(moving_grid)
    still[0, 0, 0] = 77  # not in the moving map
    mask = np.zeros(fixed_grid.shape, np.uint8)
    mask[8:-8, 8:-8, 8:-8] = 1
    (tmp_path / "fixed.csv").write_text(
        "x,y,z,label\n14,5,-6,a\n-16,9,8,b\n300,0,0,c\n1,2,3,d\n0,0,0,e\n"
    )
    (tmp_path / "moving.csv").write_text(
        "x,y,z,label\n18,3,-4,a\n-12,7,10,b\n304,-2,2,c\n9,9,9,d\n300,0,0,e"
    )
    return Case(
        "one",
        fixed,
        moving,
        save(tmp_path / "fixed_labels.nii.gz", still, fixed_grid.affine),
        save(tmp_path / "moving_labels.nii.gz", other, affine),
        tmp_path / "fixed.csv",
        tmp_path / "moving.csv",
        "RAS",
        ("d",),
        save(tmp_path / "fixed_mask.nii.gz", mask, fixed_grid.affine),
    )


def shifted(case, amount=SHIFT):
    fixed = read_volume(case.fixed)
    return fixed, np.full((*fixed.grid.shape, 3), amount, np.float32)


def test_the_true_displacement_scores_full_marks(case):
    fixed, displacement = shifted(case)
    row = measure(case, fixed, read_volume(case.moving), displacement)
    assert row["dice_after"] == 1
    assert row["hd95_after"] == 0
    assert row["dice_before"] < 0.9
    assert row["hd95_before"] >= 1
    assert row["tre_mm_after"] == pytest.approx(0, abs=1e-5)
    assert row["tre_mm_before"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-5)
    assert (row["landmarks"], row["landmarks_outside"]) == (2, 2)  # c outside both, e one
    assert row["tre_mm"]["landmark"] == ["a", "b"]
    assert row["sd_log_jacobian"] == pytest.approx(0, abs=1e-5)
    assert row["folded_percent"] == row["ndv_percent"] == 0


def test_a_label_of_one_scan_only_counts_in_no_mean(case):
    fixed, displacement = shifted(case)
    row = measure(case, fixed, read_volume(case.moving), displacement)
    assert sorted(row["labels"]) == [3, 77, 1002]
    assert math.isnan(row["labels"][77]["dice_after"])
    assert row["labels"][3]["dice_after"] == 1
    some = measure(
        case, fixed, read_volume(case.moving), displacement, labels=lambda label: label < 77
    )
    assert list(some["labels"]) == [3]
    assert some["dice_before"] == row["labels"][3]["dice_before"]


def test_a_label_pushed_out_of_the_image_scores_nothing(case):
    fixed, displacement = shifted(case, (500, 0, 0))
    row = measure(case, fixed, read_volume(case.moving), displacement)
    assert row["dice_after"] == 0
    assert row["hd95_after"] == math.inf


def test_before_means_with_the_initial_transform(case, tmp_path):
    sitk.WriteTransform(
        sitk.TranslationTransform(3, (-SHIFT[0], -SHIFT[1], SHIFT[2])), tmp_path / "start.tfm"
    )
    started = Case(**{**vars(case), "initial_transform": tmp_path / "start.tfm"})
    fixed, displacement = shifted(case, 0.0)
    row = measure(started, fixed, read_volume(case.moving), displacement)
    assert row["dice_before"] == 1
    assert row["tre_mm_before"] == pytest.approx(0, abs=1e-5)
    assert row["tre_mm_after"] == pytest.approx(np.linalg.norm(SHIFT), abs=1e-5)


def test_folds_are_sought_inside_the_mask(case):
    fixed, displacement = shifted(case)
    displacement[3, 3, 3, 0] += 20
    moving = read_volume(case.moving)
    masked = measure(case, fixed, moving, displacement)
    assert masked["folded_percent"] == masked["ndv_percent"] == 0
    unmasked = measure(Case("one", case.fixed, case.moving), fixed, moving, displacement)
    assert unmasked["folded_percent"] > 0
    assert unmasked["ndv_percent"] > 0
    assert "dice_after" not in unmasked


def test_fields_of_a_folder_are_measured_and_failures_named(case, tmp_path):
    folder = tmp_path / "fields"
    folder.mkdir()
    fixed, displacement = shifted(case)
    write_displacement(folder / "one.nii.gz", displacement, fixed)
    (folder / "one.json").write_text('{"seconds": 1.5, "peak_memory_mb": 700}')
    other = Case("other", case.fixed, case.moving)
    seen = []
    rows = evaluate_fields([other, case], folder, notice=lambda done, row: seen.append(done))
    assert seen == [1, 2]
    assert rows[0].keys() == {"case", "error"}
    assert "other.nii.gz" in rows[0]["error"]
    assert rows[1]["dice_after"] == 1
    assert (rows[1]["seconds"], rows[1]["peak_memory_mb"]) == (1.5, 700)
    # Two cases are twice one case.
    twice = evaluate_fields([case, case], folder)
    assert [row["hd95_before"] for row in twice] == [rows[1]["hd95_before"]] * 2


def test_a_wrong_folder_or_convention_is_refused(case, tmp_path):
    with pytest.raises(InputError, match="not a folder"):
        evaluate_fields([case], tmp_path / "gone")
    with pytest.raises(InputError, match="'ants' is no convention"):
        evaluate_fields([case], tmp_path, "ants")


def test_the_shipped_bundle_is_measured_with_time_and_memory(case):
    far = Case("far", case.fixed, case.moving, case.moving_labels, case.moving_labels)
    rows = evaluate_bundle([case, far], Registrar())
    assert rows[0]["dice_after"] > rows[0]["dice_before"]
    assert rows[0]["seconds"] > 0
    if sys.platform == "linux":
        assert 50 < rows[0]["peak_memory_mb"] < 20_000
    assert "does not lie on the grid" in rows[1]["error"]


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        ("fixed_labels", "share no label"),
        ("fixed_mask", "is empty"),
        ("fixed_points", "No landmark of"),
    ],
)
def test_truth_that_says_nothing_is_refused(case, attribute, says):
    path = getattr(case, attribute)
    if path.suffix == ".csv":
        path.write_text("x,y,z,label\n900,0,0,a\n")
    else:
        image = nib.load(path)
        save(path, np.zeros(image.shape, np.uint8), image.affine)
    fixed, displacement = shifted(case)
    with pytest.raises(InputError, match=says):
        measure(case, fixed, read_volume(case.moving), displacement)
