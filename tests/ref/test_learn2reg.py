"""The JSON of Learn2Reg datasets, on miniatures of those that it is read for."""

import json

import nibabel as nib
import numpy as np
import pytest

from rwcnet_ref.datasets import read_learn2reg
from rwcnet_runtime.errors import InputError


def save(path, values=None):
    path.parent.mkdir(exist_ok=True)
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4) if values is None else values
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def write(folder, content):
    path = folder / "dataset.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def oasis(tmp_path):
    """Return the JSON of single images with labels and masks, pairs for validation alone."""
    names = [f"OASIS_{n:04}_0000.nii.gz" for n in range(1, 6)]
    for name in names:
        for kind in ("images", "labels", "masks"):
            save(tmp_path / f"{kind}Tr" / name)
    return write(
        tmp_path,
        {
            "name": "OASIS",
            "pairings": "unpaired",
            "modality": {"0": "MR"},
            "labels": {"0": {"0": "background", "1": "left", "2": "right"}},
            "tensorImageSize": {"0": "3D"},
            "tensorImageShape": {"0": [2, 3, 4]},
            "numTraining": 5,
            "training": [
                {
                    "image": f"./imagesTr/{name}",
                    "label": f"./labelsTr/{name}",
                    "mask": f"./masksTr/{name}",
                }
                for name in names
            ],
            "test": [],
            "numPairedTraining": 0,
            "training_paired_images": [],
            "registration_val": [
                {"fixed": f"./imagesTr/{names[3]}", "moving": f"./imagesTr/{names[4]}"}
            ],
        },
    )


@pytest.fixture
def nlst(tmp_path):
    """Return the JSON of pairs with masks and keypoints, those for validation listed twice."""
    training, pairs = [], []
    for case in (1, 2, 3):
        for phase in (0, 1):
            stem = f"NLST_{case:04}_{phase:04}"
            save(tmp_path / "imagesTr" / f"{stem}.nii.gz")
            save(tmp_path / "masksTr" / f"{stem}.nii.gz")
            keypoints = tmp_path / "keypointsTr" / f"{stem}.csv"
            keypoints.parent.mkdir(exist_ok=True)
            keypoints.write_text("0.5,1.0,2.0\n1.0,2.0,3.0\n")
            training.append(
                {
                    "image": f"./imagesTr/{stem}.nii.gz",
                    "mask": f"./masksTr/{stem}.nii.gz",
                    # One as NLST names them, one as ThoraxCBCT does.
                    "keypoints": f"./keypointsTr/{stem}{('.csv', '.nii.gz')[phase]}",
                }
            )
        pairs.append({side: training[n]["image"] for side, n in (("fixed", -2), ("moving", -1))})
    return write(
        tmp_path,
        {
            "name": "NLST",
            "pairings": "paired",
            "labels": {},
            "training": training,
            "training_paired_images": pairs,
            "registration_val": pairs[2:],
        },
    )


@pytest.fixture
def hippocampus(tmp_path):
    """Return the JSON of single images with flat labels and nothing to validate on."""
    names = [f"hippocampus_{n:03}.nii.gz" for n in (1, 3, 4)]
    for name in names:
        save(tmp_path / "imagesTr" / name)
        save(tmp_path / "labelsTr" / name)
    return write(
        tmp_path,
        {
            "name": "HippocampusMR",
            "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
            "training": [
                {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names
            ],
        },
    )


def test_any_two_images_of_oasis_are_a_pair_unless_they_validate(oasis):
    found = read_learn2reg(oasis)
    names = [(case.fixed.name[6:10], case.moving.name[6:10]) for case in found.training]
    expected = [(a, b) for a in range(1, 4) for b in range(1, 4) if a != b]
    assert names == [(f"{a:04}", f"{b:04}") for a, b in expected]
    assert [case.name for case in found.validation] == ["OASIS_0004_0000_OASIS_0005_0000"]
    assert found.labels == (1, 2)
    case = found.training[0]
    folder = oasis.parent
    assert case.fixed == folder / "imagesTr/OASIS_0001_0000.nii.gz"
    assert case.moving_labels == folder / "labelsTr/OASIS_0002_0000.nii.gz"
    assert case.fixed_mask == folder / "masksTr/OASIS_0001_0000.nii.gz"
    assert case.fixed_points is None


def test_pairs_of_nlst_have_keypoints_in_voxels(nlst):
    found = read_learn2reg(nlst)
    assert [case.fixed.name for case in found.training] == [
        "NLST_0001_0000.nii.gz",
        "NLST_0002_0000.nii.gz",
    ]
    (case,) = found.validation
    folder = nlst.parent
    assert case.moving == folder / "imagesTr/NLST_0003_0001.nii.gz"
    assert case.fixed_points == folder / "keypointsTr/NLST_0003_0000.csv"
    assert case.moving_points == folder / "keypointsTr/NLST_0003_0001.csv"
    assert case.points_frame == "voxel"
    assert case.moving_mask == folder / "masksTr/NLST_0003_0001.nii.gz"
    assert case.fixed_labels is None
    assert found.labels == ()


def test_hippocampi_are_single_images_with_labels(hippocampus):
    found = read_learn2reg(hippocampus)
    assert len(found.training) == 6
    assert found.validation == []
    assert found.labels == (1, 2)
    assert all(case.fixed_labels and case.moving_labels for case in found.training)


def test_what_one_image_alone_has_is_left_out(nlst):
    content = json.loads(nlst.read_text())
    del content["training"][1]["keypoints"]
    case, other = read_learn2reg(write(nlst.parent, content)).training
    assert case.fixed_points is case.moving_points is None
    assert other.fixed_points is not None


def without(content, *keys):
    return {key: value for key, value in content.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [c], "no list 'training'"),
        (lambda c: without(c, "training"), "no list 'training'"),
        (lambda c: c | {"training": {}}, "no list 'training'"),
        (lambda c: c | {"training": [{"label": "x"}]}, "path as 'image'"),
        (lambda c: c | {"training": ["imagesTr/a.nii.gz"]}, "path as 'image'"),
        (lambda c: c | {"registration_val": [{"fixed": c["training"][0]["image"]}]}, "'moving'"),
        (lambda c: c | {"training": [{"image": "imagesTr/no.nii.gz"}]}, "no.nii.gz, which is not"),
        (lambda c: c | {"training": c["training"][:1]}, "no pair to train on"),
        (lambda c: c | {"labels": {"1": "a", "left": "b"}}, "labels 1, left where whole numbers"),
        (lambda c: c | {"labels": [1, 2]}, "'labels', where a table is needed"),
        (lambda c: c | {"registration_val": 5}, "'registration_val', where a list is needed"),
    ],
    ids=range(11),
)
def test_other_json_is_refused_in_one_sentence(change, message, hippocampus):
    path = write(hippocampus.parent, change(json.loads(hippocampus.read_text())))
    with pytest.raises(InputError, match=message) as caught:
        read_learn2reg(path)
    assert str(path) in str(caught.value)


def test_missing_and_broken_files_are_refused(tmp_path, oasis):
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_learn2reg(tmp_path / "none.json")
    oasis.write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_learn2reg(oasis)
