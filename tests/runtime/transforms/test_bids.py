import pytest

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.transforms import xfm_name, xfm_sidecar


def test_names_say_where_images_go():
    assert xfm_name("T1w", "MNI152NLin2009cAsym", ".h5") == (
        "from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.h5"
    )


@pytest.mark.parametrize("label", ["", "T1 w", "sub-01", "a/b", "T1w\n"])
def test_labels_that_break_names_are_refused(label):
    for labels in ((label, "T1w"), ("T1w", label)):
        with pytest.raises(InputError, match="is no BIDS label of a space; give letters"):
            xfm_name(*labels, ".h5")


def test_the_side_car_says_what_made_the_file():
    found = xfm_sidecar("displacement", ["fixed.nii.gz", "moving.nii.gz"])
    assert found["Sources"] == ["fixed.nii.gz", "moving.nii.gz"]
    assert found["Software"] == "rwcnet"
    assert found["SoftwareVersion"]
