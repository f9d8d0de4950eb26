import pytest
import safetensors.torch
import torch

from rwcnet_ref.checkpoint import load_weights, save_weights, shipped
from rwcnet_ref.config import TINY


@pytest.fixture
def saved(tmp_path, lively):
    """Return a file of weights of preset tiny."""
    path = tmp_path / "folder" / "tiny.safetensors"
    save_weights(lively(TINY), path, licence="MIT", data="none")
    return path


def rewrite(path, tensors, preset="tiny"):
    safetensors.torch.save_file(tensors, path, metadata={"preset": preset})


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


@pytest.mark.parametrize("metadata", [{"preset": "huge"}, {"other": "tiny"}, None], ids=str)
def test_an_unknown_preset_is_named(saved, metadata):
    tensors = safetensors.torch.load_file(saved)
    safetensors.torch.save_file(tensors, saved, metadata=metadata)
    with pytest.raises(ValueError, match=r"known are.*base.*tiny"):
        load_weights(saved)


def test_weights_of_another_preset_do_not_fit(saved):
    rewrite(saved, safetensors.torch.load_file(saved), preset="base")
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
    named = str(error.value).split(": ")[-1].split(", ")
    assert named == ["stages.0.head.0.bias", "stages.1.correlation.bias", "stages.9.extra"]


def test_shipped_weights_lie_in_the_package():
    path = shipped("base")
    assert path.name == "base.safetensors"
    assert path.parent.name == "weights"
    assert path.parent.parent.name == "rwcnet_ref"
