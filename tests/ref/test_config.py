import json
from dataclasses import FrozenInstanceError, replace

import pytest

from rwcnet_ref.config import BASE, PRESETS, THESIS, TINY, ModelConfig, StageConfig

STAGE = StageConfig(1, steps=1, radius=1, features=1, projected=1, encoder=1, motion=4, hidden=1)


def test_presets_are_found_by_their_name():
    assert PRESETS == {"base": BASE, "thesis": THESIS, "tiny": TINY}
    assert [stage.resolution for stage in BASE.stages] == [4, 2, 1]


@pytest.mark.parametrize("resolution", [1, 2, 4])
def test_multiple_is_the_divisor_of_the_coarsest_stage(resolution):
    resolutions = [n for n in (4, 2, 1) if n <= resolution]
    stages = tuple(replace(STAGE, resolution=n) for n in resolutions)
    assert ModelConfig("any", stages).multiple == resolution


def test_sizes_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        STAGE.steps = 2


@pytest.mark.parametrize(
    "change",
    [
        {"resolution": 0},
        {"resolution": 3},
        {"steps": 0},
        {"radius": 0},
        {"features": 0},
        {"projected": 0},
        {"encoder": 0},
        {"hidden": 0},
        {"motion": 3},
        {"halo": -1},
        {"parts": 0},
    ],
    ids=str,
)
def test_an_impossible_size_is_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(STAGE, **change)


def test_a_halo_leaves_something_of_a_patch():
    replace(STAGE, patch=17, halo=8)
    with pytest.raises(ValueError, match="patch of 16"):
        replace(STAGE, patch=16, halo=8)


@pytest.mark.parametrize("resolutions", [(4, 2), (4, 1), (2, 2, 1), (1, 2)], ids=str)
def test_stages_halve_the_resolution_down_to_one(resolutions):
    with pytest.raises(ValueError, match="halve"):
        ModelConfig("any", tuple(replace(STAGE, resolution=n) for n in resolutions))


def test_a_model_has_stages():
    with pytest.raises(ValueError, match="at least one stage"):
        ModelConfig("any", ())


def test_the_published_encoder_halves_every_patch_three_times():
    assert THESIS.multiple == 32
    assert all(n % THESIS.multiple == 0 for n in (160, 192, 224))
    thirds = replace(THESIS, stages=(*THESIS.stages[:2], replace(THESIS.stages[2], parts=3)))
    assert thirds.multiple == 96


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_sizes_survive_json(config):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_size_is_refused():
    values = BASE.to_dict()
    values["stages"][0]["width"] = 3
    with pytest.raises(TypeError, match="width"):
        ModelConfig.from_dict(values)
