import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from rwcnet_ref.build import build
from rwcnet_ref.checkpoint import load_published, load_weights, save_weights, shipped
from rwcnet_ref.config import BASE, THESIS, TINY


@pytest.fixture
def saved(tmp_path, lively):
    """Return a file of weights of preset tiny."""
    path = tmp_path / "folder" / "tiny.safetensors"
    save_weights(lively(TINY), path, licence="MIT", data="none")
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return three files of state dicts of the published network, and the network."""
    folder = tmp_path_factory.mktemp("published")
    cascade = build(THESIS)
    paths = [folder / f"stage{n}.pth" for n in (1, 2, 3)]
    for path, stage in zip(paths, cascade.stages, strict=True):
        torch.save(stage.state_dict(), path)
    return paths, cascade


def rewrite(path, tensors, config=TINY):
    about = {"preset": config.name, "config": json.dumps(config.to_dict())}
    safetensors.torch.save_file(tensors, path, metadata=about)


def test_what_is_saved_is_loaded_bit_by_bit(saved, lively, random):
    cascade, about = load_weights(saved)
    assert about == {"preset": "tiny", "licence": "MIT", "data": "none"}
    assert cascade.config == TINY
    assert not cascade.training
    original = lively(TINY)
    expected, found = original.state_dict(), cascade.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    fixed, moving = torch.rand((2, 1, 1, 8, 8, 8), generator=random)
    with torch.no_grad():
        torch.testing.assert_close(
            cascade(fixed, moving), original(fixed, moving), rtol=0, atol=0
        )  # voxels


def test_no_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_weights(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."], ids=len)
def test_another_kind_of_file_is_said(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_weights(path)


@pytest.mark.parametrize("metadata", [{"preset": "tiny"}, None], ids=str)
def test_weights_name_their_sizes(saved, metadata):
    tensors = safetensors.torch.load_file(saved)
    safetensors.torch.save_file(tensors, saved, metadata=metadata)
    with pytest.raises(ValueError, match="does not name the sizes of its model"):
        load_weights(saved)


def test_weights_of_other_sizes_do_not_fit(saved):
    rewrite(saved, safetensors.torch.load_file(saved), config=BASE)
    with pytest.raises(ValueError, match=r"does not fit preset base.*stages\.0\.correlation"):
        load_weights(saved)


def test_all_tensors_that_do_not_fit_are_named(saved):
    tensors = safetensors.torch.load_file(saved)
    tensors.pop("stages.0.head.0.bias")
    tensors["stages.9.extra"] = torch.zeros(1)
    tensors["stages.1.correlation.bias"] = torch.zeros(5)
    rewrite(saved, tensors)
    with pytest.raises(ValueError, match="does not fit") as error:
        load_weights(saved)
    assert str(error.value).split(": ")[-1] == (
        "stages.0.head.0.bias (found none, wanted (6,)), "
        "stages.1.correlation.bias (found (5,), wanted (4,)), "
        "stages.9.extra (found (1,), wanted none)"
    )


def test_shipped_weights_lie_in_the_package():
    path = shipped("base")
    assert path.name == "base.safetensors"
    assert path.parent.name == "weights"
    assert path.parent.parent.name == "rwcnet_ref"


@pytest.mark.parametrize(
    "change", [{"correlate": False}, {"velocity": True}, {"steps": 5}], ids=str
)
def test_sizes_of_a_variant_come_with_its_weights(tmp_path, lively, change):
    variant = replace(TINY, stages=tuple(replace(stage, **change) for stage in TINY.stages))
    save_weights(lively(variant), tmp_path / "variant.safetensors")
    cascade, about = load_weights(tmp_path / "variant.safetensors")
    assert cascade.config == variant
    assert about == {"preset": "tiny"}


@pytest.mark.parametrize(
    "config",
    ["{", "[]", "{}", '{"name": "x", "stages": []}', '{"name": "x", "stages": [{"size": 3}]}'],
)
def test_sizes_that_make_no_model_are_said(saved, config):
    tensors = safetensors.torch.load_file(saved)
    metadata = {"preset": "tiny", "config": config}
    safetensors.torch.save_file(tensors, saved, metadata=metadata)
    with pytest.raises(ValueError, match=r"tiny\.safetensors names sizes that make no model"):
        load_weights(saved)


def test_the_sizes_in_a_file_are_those_of_the_model(saved):
    with safetensors.safe_open(saved, framework="pt") as file:
        assert json.loads(file.metadata()["config"]) == json.loads(json.dumps(TINY.to_dict()))


def test_published_checkpoints_are_read(published):
    paths, original = published
    cascade, about = load_published(*paths)
    assert cascade.config == THESIS
    assert not cascade.training
    assert about["preset"] == "thesis"
    for name, tensor in original.state_dict().items():
        torch.testing.assert_close(cascade.state_dict()[name], tensor, rtol=0, atol=0)


def test_all_keys_and_shapes_that_do_not_fit_are_named(published, tmp_path):
    paths, _ = published
    state = torch.load(paths[2], weights_only=True)
    state.pop("update.gru.convr.bias")
    state["module.extra"] = torch.zeros(2)
    broken = tmp_path / "broken.pth"
    torch.save(state, broken)
    with pytest.raises(ValueError, match=r"broken\.pth does not fit stage 3") as error:
        load_published(*paths[:2], broken)
    assert str(error.value).split(": ")[-1] == (
        "module.extra (found (2,), wanted none), update.gru.convr.bias (found none, wanted (64,))"
    )
    with pytest.raises(ValueError, match="stage 1 of the published network") as error:
        load_published(paths[2], paths[1], paths[0])
    assert str(error.value).split(": ")[-1] == (
        "update.encoder.convc1.weight (found (8, 125, 1, 1, 1), wanted (8, 343, 1, 1, 1))"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not weights",
        b"root:x:0:0\n" * 9,
        {"state": 3},
        {1: torch.zeros(3)},
        [1],
        torch.zeros(3),
    ],
    ids=range(7),
)
def test_what_is_no_state_dict_is_said(published, tmp_path, content):
    path = tmp_path / "other.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"other\.pth (is not|holds no)"):
        load_published(path, *published[0][1:])


def test_code_in_a_checkpoint_is_not_run(published, tmp_path):
    path = tmp_path / "module.pth"
    torch.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match=r"module\.pth is not"):
        load_published(path, *published[0][1:])


def test_a_missing_checkpoint_is_said(published, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pth"):
        load_published(*published[0][:2], tmp_path / "absent.pth")
