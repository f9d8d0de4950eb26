import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.evaluation.overlap import dice_per_label, labels_of

RNG = np.random.default_rng(0)


def test_dice_by_hand():
    fixed = np.array([[[1, 1, 2, 0, 4]]])
    warped = np.array([[[1, 2, 2, 3, 0]]])
    found = dice_per_label(fixed, warped)
    assert found == pytest.approx({1: 2 / 3, 2: 2 / 3, 3: 0, 4: 0}, abs=1e-12)
    assert list(dice_per_label(fixed, warped, [2])) == [2]
    assert np.isnan(dice_per_label(fixed, warped, [9])[9])


def test_dice_is_that_of_simpleitk():
    fixed, warped = (RNG.integers(0, 5, (12, 13, 14)).astype(np.int32) for _ in range(2))
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(sitk.GetImageFromArray(fixed), sitk.GetImageFromArray(warped))
    for label, dice in dice_per_label(fixed, warped).items():
        assert dice == pytest.approx(measures.GetDiceCoefficient(label), abs=1e-12)


def test_labels_of_leaves_the_background_out():
    assert labels_of(np.array([3, 0]), np.array([1, 3])) == [1, 3]
