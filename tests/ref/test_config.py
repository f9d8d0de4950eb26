import json
from dataclasses import FrozenInstanceError, replace

import pytest

from rwcnet_ref.config import BASE, PRESETS, THESIS, TINY, ModelConfig, StageConfig

STAGE = StageConfig(1, steps=1, radius=1, features=1, projected=1, encoder=1, motion=4, hidden=1)


def test_presets_are_found_by_their_name():
    assert PRESETS == {"base": BASE, "thesis": THESIS, "tiny": TINY}
    for config in PRESETS.values():
        assert [stage.grid for stage in config.stages] == [4, 2, 1]


@pytest.mark.parametrize("resolution", [1, 2, 4])
def test_multiple_is_the_divisor_of_the_coarsest_stage(resolution):
    resolutions = [n for n in (4, 2, 1) if n <= resolution]
    stages = tuple(replace(STAGE, resolution=n) for n in resolutions)
    assert ModelConfig("any", stages).multiple == resolution


def test_a_stride_doubles_the_multiple():
    stages = tuple(replace(STAGE, resolution=n, stride=2) for n in (4, 2, 1))
    assert ModelConfig("any", stages).multiple == 8
    assert ModelConfig("any", stages[2:]).multiple == 2


def test_base_sees_images_finer_than_its_grids_until_there_are_none():
    assert [(stage.resolution, stage.stride) for stage in BASE.stages] == [(2, 2), (1, 2), (1, 1)]
    assert BASE.multiple == 4


@pytest.mark.parametrize("cut", [{"patch": 16}, {"parts": 2}], ids=str)
def test_a_stage_with_a_stride_is_not_cut(cut):
    replace(STAGE, **cut)
    with pytest.raises(ValueError, match="runs the image whole; leave patches out"):
        replace(STAGE, stride=2, **cut)


def test_strides_may_end_but_not_begin_on_the_way_up():
    ModelConfig("any", (replace(STAGE, stride=2), STAGE))
    with pytest.raises(ValueError, match=r"strides are \[1, 2\]; none may be larger"):
        ModelConfig("any", (replace(STAGE, resolution=4), replace(STAGE, stride=2)))


def test_the_last_stage_sees_the_images_in_full():
    ModelConfig("any", (replace(STAGE, stride=2),))
    with pytest.raises(ValueError, match="at resolution 1"):
        ModelConfig("any", (replace(STAGE, resolution=2),))


def test_a_stage_inherits_from_the_one_below_unless_it_is_told_not_to():
    stages = (replace(STAGE, resolution=2), replace(STAGE, inherit=False))
    assert [ModelConfig("any", stages).inherits(n) for n in range(3)] == [False, False, False]
    assert [TINY.inherits(n) for n in range(4)] == [False, True, True, False]


def test_the_published_stages_all_inherit():
    stages = (THESIS.stages[0], *(replace(stage, inherit=False) for stage in THESIS.stages[1:]))
    with pytest.raises(ValueError, match="published stages hand their hidden state up"):
        replace(THESIS, stages=stages)


def test_the_published_network_has_no_stride():
    with pytest.raises(ValueError, match="published network has no stride"):
        ModelConfig("any", (replace(STAGE, stride=2),), published=True)


def test_sizes_written_before_there_were_strides_have_none():
    values = TINY.to_dict()
    for stage in values["stages"]:
        del stage["stride"]
    assert ModelConfig.from_dict(values) == TINY


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
        {"stride": 0},
        {"stride": 3},
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


@pytest.mark.parametrize("resolutions", [(4, 1), (2, 2, 1), (1, 2)], ids=str)
def test_each_stage_halves_the_grid(resolutions):
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
