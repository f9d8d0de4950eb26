import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from rwcnet_ref.augment import Augmentation
from rwcnet_ref.build import build
from rwcnet_ref.datasets import CaseSource
from rwcnet_ref.training import sources
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.settings import Settings
from rwcnet_ref.training.sources import open_data
from rwcnet_ref.training.stages import train
from rwcnet_ref.training.step import seed_of
from rwcnet_runtime.errors import InputError

CPU = torch.device("cpu")


def told(data, losses=None, folder=None, **sections):
    values = {
        "model": {"preset": "tiny"},
        "data": data,
        "losses": losses or {"error": 1.0, "dice": {"weight": 1.0, "after": 0.5}},
        **sections,
    }
    return Settings.from_dict(values, folder) if folder else Settings.from_dict(values)


def opened(settings, index=0):
    return open_data(settings, CPU)(build(settings.model), index)


def at(step):
    return torch.Generator().manual_seed(seed_of(0, 0, step))


def save_scans(folder, count=4, size=(13, 10, 9)):
    """Save images with two structures, moved a little from one to the next."""
    points = np.moveaxis(np.indices(size), 0, -1)
    for n in range(count):
        labels = np.zeros(size, np.uint8)
        labels[np.square((points - (5 + 0.5 * n, 5, 4)) / (4, 3, 3)).sum(-1) < 1] = 1
        labels[np.square((points - (6 + 0.5 * n, 5, 4)) / (2, 1.5, 1.5)).sum(-1) < 1] = 2
        image = (100 * labels + 5 * np.random.default_rng(n).random(size)).astype(np.float32)
        for kind, values in (("images", image), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / kind / f"{n}.nii.gz")


@pytest.fixture
def learn2reg(tmp_path):
    save_scans(tmp_path)
    names = [{part: f"./{part}s/{n}.nii.gz" for part in ("image", "label")} for n in range(4)]
    pair = {"fixed": "./images/2.nii.gz", "moving": "./images/3.nii.gz"}
    content = {"training": names, "labels": {"1": "a", "2": "b"}, "registration_val": [pair]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return {"kind": "learn2reg", "file": "dataset.json"}


@pytest.fixture
def table(tmp_path):
    save_scans(tmp_path / "scans")
    header = "case,fixed,moving,fixed_labels,moving_labels\n"
    for name, pairs in (("train.csv", ((0, 1), (1, 2))), ("check.csv", ((2, 3), (3, 2), (0, 3)))):
        rows = (
            f"{a}-{b},images/{a}.nii.gz,images/{b}.nii.gz,labels/{a}.nii.gz,labels/{b}.nii.gz\n"
            for a, b in pairs
        )
        (tmp_path / name).write_text(header + "".join(rows))
    return {
        "kind": "pairs",
        "file": "train.csv",
        "validation_file": "check.csv",
        "folder": "scans",
        "validation": 2,
    }


def test_pairs_start_easy_and_two_heads_come_with_what_judges_them(head, monkeypatch):
    monkeypatch.setattr(sources, "read_label_maps", lambda folder: [head] * 5)
    settings = told(
        {"kind": "synthetic", "maps": "x", "held_out": 2, "validation": 1},
        training={"size": 8, "easy": 0.4, "shapes": 0.2, "two_heads": 0.6},
    )
    data = opened(settings)
    assert len(data.heads) == 3
    first, grown, later = (data.source(share, data.heads) for share in (0.0, 0.45, 0.5))
    assert first.same_contrast > grown.same_contrast
    assert first.texture > grown.texture
    assert (first.shapes, grown.shapes) == (1.0, 0.2)
    assert [source.two_heads for source in (first, grown, later)] == [0.0, 0.0, 0.6]
    assert first.resolution == 4
    # Only the coarsest stage begins with nothing.
    assert opened(settings, index=1).source(0.0, data.heads).texture == grown.texture


def test_some_steps_have_small_crops_and_more_of_them():
    data = opened(
        told({"kind": "synthetic", "validation": 1}, training={"size": 8, "batch": 2, "small": 0.5})
    )
    shapes = {
        (len(pairs), pairs[0].fixed.shape[2])
        for pairs in (data.batch(1.0, at(n)) for n in range(9))
    }
    assert shapes == {(2, 8), (4, 4)}


@pytest.mark.parametrize(
    ("index", "finer", "resolutions"),
    [(0, 1.0, {1, 2}), (0, 0.5, {1, 2, 4}), (0, 0.0, {4}), (1, 1.0, {1}), (2, 1.0, {1})],
)
def test_some_steps_have_finer_pairs(head, monkeypatch, index, finer, resolutions):
    monkeypatch.setattr(sources, "read_label_maps", lambda folder: [head] * 5)
    training = {"size": 8, "amplitude": 6.0, "two_heads": 0.6, "finer": finer}
    data = opened(
        told({"kind": "synthetic", "maps": "x", "validation": 1}, training=training), index
    )
    # The source itself instead of what it draws.
    monkeypatch.setattr(sources.SyntheticSource, "draw", lambda self, random: self)
    drawn = [source for n in range(24) for source in data.batch(1.0, at(n))]
    assert {source.resolution for source in drawn} == resolutions
    for source in drawn:
        assert source.size == (8, 8, 8)
        # As many voxels at every resolution.
        assert source.amplitude / source.resolution == 6.0 / data.resolution
        assert source.two_heads == (0.6 if source.resolution == data.resolution else 0.0)
        assert source.maps == data.heads


def test_validation_pairs_are_never_finer():
    settings = told({"kind": "synthetic", "validation": 4}, training={"size": 8, "finer": 1.0})
    found = {pair.mm_from_voxel[0, 0].item() for pair in opened(settings).validation()}
    assert found == {4}


def test_validation_pairs_are_always_the_same_and_never_trained_on():
    settings = told({"kind": "synthetic", "validation": 2}, training={"size": 8})
    first, again = list(opened(settings).validation()), list(opened(settings).validation())
    assert all(torch.equal(a.fixed, b.fixed) for a, b in zip(first, again, strict=True))
    (drawn,) = opened(settings).batch(1.0, at(1))
    assert not any(torch.equal(pair.fixed, drawn.fixed) for pair in first)


@pytest.mark.parametrize("kind", ["learn2reg", "table"])
@pytest.mark.parametrize("index", [0, 2])
def test_real_pairs_are_at_the_resolution_of_the_stage(request, tmp_path, kind, index):
    settings = told(
        request.getfixturevalue(kind),
        {"mse": 1.0, "dice": 1.0},
        tmp_path,
        training={"batch": 2},
        augmentation={"flip": 0.5, "intensity": 0.5},
    )
    data = opened(settings, index)
    size = (16, 12, 12) if index == 2 else (4, 3, 3)
    pairs = data.batch(0.0, at(1))
    again = data.batch(1.0, at(1))
    assert [pair.fixed.shape for pair in pairs] == [(1, 1, *size)] * 2
    assert pairs[0].fixed_labels.shape == (1, 2, *size)
    assert all(torch.equal(a.moving, b.moving) for a, b in zip(pairs, again, strict=True))
    held_out = list(data.validation())
    assert len(held_out) == (1 if kind == "learn2reg" else 2)
    assert torch.equal(held_out[0].fixed, next(data.validation()).fixed)


@pytest.mark.parametrize("kind", ["learn2reg", "table"])
def test_real_pairs_train_and_validate(request, tmp_path, quiet, kind):
    settings = told(
        request.getfixturevalue(kind),
        {"ncc": 1.0, "dice": 1.0, "gradient": 0.1},
        tmp_path,
        training={"steps": 2, "batch": 2},
    )
    folder = RunFolder(tmp_path / "run")
    assert train(settings, folder, quiet)
    for index in range(3):
        (line,) = map(json.loads, folder.log(index).read_text().splitlines())
        assert {"dice", "dice_start", "folded_percent", "validation_loss"} <= line.keys()
        assert "error" not in line


@pytest.mark.parametrize("missing", ["maps", "few", "file", "validation"])
def test_data_that_are_not_there_get_one_sentence(request, tmp_path, head, monkeypatch, missing):
    if missing == "maps":
        data, says = {"kind": "synthetic", "maps": "none"}, "there is no folder .*none"
    elif missing == "few":
        monkeypatch.setattr(sources, "read_label_maps", lambda folder: [head] * 3)
        data, says = {"kind": "synthetic", "maps": "x"}, "holds 3 label maps, too few"
    elif missing == "file":
        data, says = {"kind": "learn2reg", "file": "none.json"}, "none.json"
    else:
        data, says = request.getfixturevalue("learn2reg"), "names no pairs to validate on"
        path = tmp_path / "dataset.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "registration_val": []}))
    with pytest.raises(InputError, match=says) as error:
        open_data(told(data, {"mse": 1.0}, tmp_path), CPU)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["learn2reg", "table"])
def test_sources_are_made_as_the_settings_say(request, tmp_path, monkeypatch, kind):
    data = {**request.getfixturevalue(kind), "intensity": [0.0, 200.0], "cache_gb": 0.5}
    settings = told(data, {"mse": 1.0}, tmp_path, training={"batch": 3}, augmentation={"flip": 0.5})
    cascade, reduce = build(settings.model), lambda image, factor: image
    monkeypatch.setattr(cascade, "reduce", reduce)
    monkeypatch.setattr(sources, "Files", lambda *parts: parts)
    monkeypatch.setattr(sources, "CaseStage", lambda *parts: parts)
    source, held_out, *rest = open_data(settings, CPU)(cascade, 1)
    assert source == CaseSource(
        source.cases,
        ((0.0, 200.0), 0.5),
        resolution=2,
        multiple=settings.model.multiple,
        reduce=reduce,
        labels=(1, 2) if kind == "learn2reg" else (),
        shared_grid=kind == "learn2reg",
        augmentation=Augmentation(flip=0.5),
    )
    assert held_out == replace(source, cases=held_out.cases)
    assert not {case.name for case in source.cases} & {case.name for case in held_out.cases}
    assert rest == [3, CPU]
