import json
from dataclasses import replace
from pathlib import Path

import pytest

from rwcnet_ref.checkpoint import save_weights
from rwcnet_ref.config import BASE, THESIS, TINY
from rwcnet_ref.training import sections
from rwcnet_ref.training.cli import shipped
from rwcnet_ref.training.settings import Settings, read_toml
from rwcnet_runtime.errors import InputError

SMALL = {"data": {"kind": "synthetic"}, "losses": {"error": 1}}
REAL = {"kind": "learn2reg", "file": "dataset.json"}


def settings(**sections):
    return Settings.from_dict({**SMALL, **sections})


def test_defaults_are_the_thesis_schedule():
    stages = settings(model={"preset": "thesis"}).stages
    assert [stage.steps for stage in stages] == [30_000, 45_000, 60_000]
    assert {stage.learning_rate for stage in stages} == {3e-4}
    assert {stage.rate for stage in stages} == {"constant"}
    assert settings().run.optimiser == "adam"
    assert settings().model == BASE


def test_a_stage_overrides_what_holds_for_all():
    found = settings(
        training={"steps": 10, "batch": 2, "seed": 5},
        stages=[{}, {"steps": 20, "losses": {"dice": {"weight": 2, "after": 0.5}}}, {"batch": 4}],
    )
    assert [stage.steps for stage in found.stages] == [10, 20, 10]
    assert [stage.batch for stage in found.stages] == [2, 2, 4]
    assert found.run.seed == 5
    assert found.stages[0].weights() == {"error": 1.0}
    assert found.stages[1].weights(0.4) == {}
    assert found.stages[1].weights(0.5) == {"dice": 2.0}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"resolutions": [1]}, replace(THESIS, stages=THESIS.stages[-1:])),
        ({"resolutions": [2, 1]}, replace(THESIS, stages=THESIS.stages[1:])),
        (
            {"correlate": False},
            replace(THESIS, stages=tuple(replace(s, correlate=False) for s in THESIS.stages)),
        ),
        (
            {"steps": 2},
            replace(THESIS, stages=tuple(replace(s, steps=2) for s in THESIS.stages)),
        ),
        (
            {"velocity": True},
            replace(THESIS, stages=tuple(replace(s, velocity=True) for s in THESIS.stages)),
        ),
        ({}, THESIS),
    ],
    ids=str,
)
def test_ablations_are_switches(model, expected):
    assert settings(model={"preset": "thesis", **model}).model == expected


@pytest.mark.parametrize("relative", [True, False])
def test_weights_to_start_from_bring_their_sizes(tmp_path, fresh, relative):
    config = replace(TINY, name="own", stages=TINY.stages[1:])
    path = tmp_path / "own.safetensors"
    save_weights(fresh(config), path)
    given = {"weights": path.name if relative else str(path)}
    found = Settings.from_dict({**SMALL, "model": given}, tmp_path)
    assert found.model == config
    assert found.start == path
    assert len(found.stages) == 2


def test_weights_inside_the_package_go_by_their_name(tmp_path, monkeypatch, fresh):
    monkeypatch.setattr(sections, "shipped", lambda name: tmp_path / f"inside/{name}.safetensors")
    inside = replace(TINY, stages=TINY.stages[2:])
    save_weights(fresh(inside), sections.shipped("some"))
    for name in ("some", "other"):
        save_weights(fresh(TINY), tmp_path / name)
    for name, path, config in (
        ("some", sections.shipped("some"), inside),
        ("other", tmp_path / "other", TINY),
    ):
        found = Settings.from_dict({**SMALL, "model": {"weights": name}}, tmp_path)
        assert (found.start, found.model) == (path, config)
    assert settings().start is None


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_damaged_weights_to_start_from_get_one_sentence(tmp_path, content):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model.weights: .*damaged.safetensors is not a") as error:
        settings(model={"weights": str(path)})
    assert "\n" not in str(error.value)


def test_recurrent_steps_can_differ_between_stages():
    model = settings(model={"steps": [3, 2, 1]}).model
    assert [stage.steps for stage in model.stages] == [3, 2, 1]


def test_paths_are_relative_to_the_file(tmp_path):
    there = Path("/data/maps")
    for given, expected in (("maps", tmp_path / "maps"), (str(there), there)):
        data = {"kind": "synthetic", "maps": given}
        found = Settings.from_dict({**SMALL, "data": data}, tmp_path)
        assert found.data.maps == expected


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"trainig": {}}, "no setting trainig: known are about, model"),
        ({"training": {"stepz": 1}}, "no setting training.stepz: known are seed, .*steps"),
        ({"training": {"batch": 0}}, "batch is 0: it should be greater than or equal to 1"),
        ({"training": {"batch": "two"}}, "batch is 'two': it should be a valid integer"),
        ({"training": {"batch": True}}, "batch is True: it should be a valid integer"),
        ({"training": {"batch": 1.5}}, "batch is 1.5: it should be a valid integer"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate is nan: it should"),
        ({"training": {"device": "gpu"}}, "training.device is 'gpu'"),
        ({"training": {"precision": "fp16"}}, "training.precision is 'fp16': it should be 'fp32'"),
        ({"training": {"ema": 1}}, "training.ema is 1: it should be less than 1"),
        ({"training": {"seed": -1}}, "training.seed is -1: it should be greater"),
        ({"training": {"best": "tre"}}, "training.best is 'tre': it should be 'error'"),
        ({"training": 3}, "training is 3: it should be a table"),
        ({"model": {"preset": "huge"}}, "model.preset is 'huge': choose one of base"),
        ({"model": {"resolutions": [8]}}, r"model.resolutions is \[8\]: choose from \[4, 2, 1\]"),
        ({"model": {"resolutions": [4, 1]}}, "each must halve the one before"),
        ({"model": {"steps": [1, 2]}}, "model.steps holds 2 numbers, the model has 3 stages"),
        ({"model": {"steps": 0}}, "model.steps is 0: it should be"),
        ({"data": {}}, "data.kind is None: choose one of synthetic, learn2reg, pairs"),
        ({"data": {"kind": ["pairs"]}}, "data.kind is"),
        ({"data": {"kind": "synthetic", "map": "x"}}, "no setting data.map: known are kind, maps"),
        ({"data": {"kind": "learn2reg"}}, "data.file is missing"),
        ({"data": {"kind": "pairs", "file": 3}}, "data.file is 3"),
        ({"losses": {}}, "there is no loss"),
        ({"losses": {"mes": 1}}, "no setting losses.mes: known are mse, ncc"),
        ({"losses": {"mse": "much"}}, "losses.mse.weight is 'much'"),
        ({"losses": {"mse": -1}}, "losses.mse.weight is -1"),
        ({"losses": {"mse": {"weight": 1, "after": 2}}}, "losses.mse.after is 2"),
        ({"losses": {"mse": {"after": 0.5}}}, "losses.mse.weight is missing"),
        ({"stages": [{}]}, r"the model has 3 stages, but \[\[stages\]\] is given 1"),
        ({"stages": {"steps": 1}}, "the model has 3 stages"),
        ({"stages": [{}, {"seed": 1}, {}]}, r"no setting stages\[2\].seed"),
        ({"stages": [{}, {"steps": 0}, {}]}, r"stages\[2\].steps is 0"),
        ({"stages": [{}, {}, {"losses": {"x": 1}}]}, r"no setting stages\[3\].losses.x"),
        ({"stages": [{}, 1, {}]}, r"stages\[2\] is 1: it should be a table"),
        ({"training": {"size": 18}}, r"stages\[2\].size is 18: it should be a multiple of 4"),
        (
            {"stages": [{}, {}, {"size": 30}]},
            r"stages\[3\].size is 30: it should be a multiple of 4",
        ),
        ({"training": {"size": 20, "small": 0.1}}, "some crops have half of it"),
        ({"training": {"finer": 1.5}}, "finer is 1.5: it should be less than or equal to 1"),
        ({"model": {"weights": "none"}}, "model.weights: no weights at none; give weights of"),
        ({"model": {"weights": 3}}, "model.weights is 3"),
        *(
            ({"model": {"weights": "w", name: value}}, "section model: weights bring their own")
            for name, value in (
                ("preset", "base"),
                ("resolutions", [1]),
                ("correlate", False),
                ("steps", 2),
                ("velocity", True),
            )
        ),
        ({"data": {"kind": "synthetic", "held_out": 1}}, "data.held_out is 1: it should be"),
        ({"augmentation": {"flip": 0.5}}, "augmentation.flip is for real pairs, but data.kind is"),
        *(
            ({"data": REAL, "training": {name: 1}}, f"training.{name} is for synthetic pairs, but")
            for name in ("size", "small", "amplitude", "finer", "easy", "shapes", "two_heads")
        ),
        ({"data": REAL, "stages": [{}, {"easy": 0}, {}]}, r"stages\[2\].easy is for synthetic"),
        ({"augmentation": {"flop": 1}}, "no setting augmentation.flop: known are flip"),
        ({"augmentation": {"flip": 2}}, "section augmentation: flip is 2"),
        ({"about": {"license": "MIT"}}, "no setting about.license: known are licence"),
    ],
    ids=str,
)
def test_what_cannot_be_gets_one_sentence(sections, says):
    with pytest.raises(InputError, match=says) as error:
        settings(**sections)
    assert "\n" not in str(error.value)


def test_thesis_crops_must_suit_its_encoders():
    with pytest.raises(InputError, match=r"stages\[3\].size is 48: it should be a multiple of 32"):
        settings(model={"preset": "thesis"}, training={"size": 48})


@pytest.mark.parametrize("name", list(shipped()))
def test_settings_that_come_along_can_be_read(name):
    assert Settings.from_dict(read_toml(shipped()[name]))


def test_the_settings_of_the_thesis_have_its_schedule():
    for name in ("thesis-oasis", "thesis-nlst"):
        found = Settings.from_dict(read_toml(shipped()[name]))
        assert found.model == THESIS
        assert [stage.steps for stage in found.stages] == [30_000, 45_000, 60_000]


@pytest.mark.parametrize(
    ("content", "says"), [(b"a = ", "is not TOML"), (b"\xff", "is not TOML"), (None, "be read")]
)
def test_files_that_are_no_toml_get_one_sentence(tmp_path, content, says):
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_toml(path)


def test_a_fixed_range_of_intensities_goes_with_the_weights():
    data = {**REAL, "intensity": [-4e-3, 16e3]}
    assert json.loads(settings(data=data).about["intensity_range"]) == [-4e-3, 16e3]
    assert "intensity_range" not in settings(data=REAL).about
