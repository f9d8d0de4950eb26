"""What a training is told: a TOML file, or the same as a dict, checked and completed."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rwcnet_ref.augment import Augmentation
from rwcnet_ref.config import ModelConfig
from rwcnet_ref.losses import LOSSES
from rwcnet_ref.training.sections import (
    Data,
    Learn2RegData,
    Loss,
    Model,
    PairsData,
    Run,
    StageSettings,
    SyntheticData,
)
from rwcnet_runtime.errors import InputError

T = TypeVar("T")

_OF_SYNTHETIC_PAIRS = (
    "size", "small", "amplitude", "finer", "easy", "shapes", "two_heads", "same_contrast",
)  # fmt: skip

# Per resolution: steps as in the thesis (Sivan 2022), crops and displacements of synthetic pairs as
# this toolkit's networks need them.
_DEFAULTS: dict[int, dict[str, Any]] = {
    4: {"steps": 30_000, "size": 24, "amplitude": 8.0},
    2: {"steps": 45_000, "size": 48, "amplitude": 6.0},
    1: {"steps": 60_000, "size": 64, "amplitude": 4.0},
}
_KINDS: dict[str, type[Data]] = {
    "synthetic": SyntheticData,
    "learn2reg": Learn2RegData,
    "pairs": PairsData,
}


@dataclass(frozen=True)
class Settings:
    """All of a training.

    Attributes
    ----------
    model, data, augmentation, run, stages
        See their types; one entry of `stages` for each stage of the model.
    start
        Weights that all stages start from; none for random ones.
    about
        What goes into the weights: licence and training_data, and intensity_range where real data
        have a fixed one, as JSON.
    given
        What all this was made from.
    """

    model: ModelConfig
    data: Data
    augmentation: Augmentation
    run: Run
    stages: tuple[StageSettings, ...]
    about: Mapping[str, str]
    given: Mapping[str, Any]
    start: Path | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: Path = Path()) -> Settings:
        """Check and complete what a TOML file says.

        Parameters
        ----------
        values
            Sections by name.
        folder
            What relative paths in them are relative to.

        Raises
        ------
        InputError
            At the first unknown section or key, wrong type or impossible value, or setting that
            would do nothing with these data.
        """
        values = dict(values)
        known = ["about", "model", "data", "augmentation", "losses", "training", "stages"]
        _only(values, known, "")
        about = {"licence": "not stated", "training_data": "not stated"}
        _only(_table(values, "about"), list(about), "about.")
        about |= {name: str(value) for name, value in _table(values, "about").items()}
        section = _read(Model, _table(values, "model"), "model.")
        model = section.config(folder)
        per_stage = {f.name for f in fields(StageSettings)} - {"losses"}
        training = _table(values, "training")
        _only(training, [f.name for f in fields(Run)] + sorted(per_stage), "training.")
        run = {name: value for name, value in training.items() if name not in per_stage}
        common = {name: value for name, value in training.items() if name in per_stage}
        own = values.get("stages", [{} for _ in model.stages])
        if not isinstance(own, list) or len(own) != len(model.stages):
            raise InputError(
                f"the model has {len(model.stages)} stages, but [[stages]] is given "
                f"{len(own) if isinstance(own, list) else 'as one table'}: give one table a stage, "
                "the coarsest first, or none"
            )
        stages = []
        for n, (config, table) in enumerate(zip(model.stages, own, strict=True)):
            where = f"stages[{n + 1}]."
            table = _table({where: table}, where)
            losses = _losses(table, "losses", where) or _losses(values, "losses", "")
            if not losses:
                raise InputError("there is no loss: give a section [losses] with name = weight")
            merged = {**_DEFAULTS[config.resolution], **common, **table}
            merged.pop("losses", None)
            stage = _read(StageSettings, merged, where)
            stages.append(replace(stage, losses=losses))
        data = _data(_table(values, "data"), folder)
        augmentation = _read(Augmentation, _table(values, "augmentation"), "augmentation.")
        if isinstance(data, SyntheticData):
            _refuse(_table(values, "augmentation"), "augmentation.", "real", data)
            _check_sizes(model, stages)
        else:
            for where, table in [
                ("training.", common),
                *((f"stages[{n + 1}].", table) for n, table in enumerate(own)),
            ]:
                idle = [name for name in table if name in _OF_SYNTHETIC_PAIRS]
                _refuse(idle, where, "synthetic", data)
            if data.intensity is not None:
                about["intensity_range"] = json.dumps(data.intensity)
        return cls(
            model,
            data,
            augmentation,
            _read(Run, run, "training."),
            tuple(stages),
            about,
            values,
            section.start(folder),
        )


def read_toml(path: Path) -> dict[str, Any]:
    """Return the sections of a TOML file; `InputError` if it is none."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML ({error}): correct it") from error


def _read(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from a table, or say what is wrong with the first key that is."""
    _only(table, [f.name for f in fields(cls)], where)  # type: ignore[arg-type]
    try:
        # By way of JSON, whose strict rules are TOML's: lists for tuples, strings for paths.
        return TypeAdapter(cls).validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:  # a dataclass found out by itself, and says which
            reason = first["msg"].removeprefix("Value error, ")
            raise InputError(f"section {where.rstrip('.')}: {reason}") from error
        key = f"{where}{first['loc'][0]}"
        if first["type"].startswith("missing"):
            raise InputError(f"{key} is missing: give it") from error
        wanted = first["msg"].replace("Input", "it", 1)
        raise InputError(f"{key} is {table[str(first['loc'][0])]!r}: {wanted}") from error


def _only(table: Mapping[str, Any], known: list[str], where: str) -> None:
    for name in table:
        if name not in known:
            raise InputError(f"there is no setting {where}{name}: known are {', '.join(known)}")


def _refuse(idle: Iterable[str], where: str, pairs: str, data: Data) -> None:
    for name in idle:
        raise InputError(
            f"{where}{name} is for {pairs} pairs, but data.kind is {data.kind!r}: leave it out"
        )


def _table(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, dict):
        raise InputError(f"{name.rstrip('.')} is {table!r}: it should be a table of settings")
    return table


def _losses(values: Mapping[str, Any], name: str, where: str) -> dict[str, Loss]:
    table = _table(values, name)
    _only(table, list(LOSSES), f"{where}losses.")
    return {
        name: _read(
            Loss, value if isinstance(value, dict) else {"weight": value}, f"{where}losses.{name}."
        )
        for name, value in table.items()
    }


def _data(table: dict[str, Any], folder: Path) -> Data:
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"data.kind is {kind!r}: choose one of {', '.join(_KINDS)}")
    data = _read(_KINDS[kind], table, "data.")
    values = {f.name: getattr(data, f.name) for f in fields(data)}
    paths: dict[str, Any] = {
        name: folder / path.expanduser() for name, path in values.items() if isinstance(path, Path)
    }
    return replace(data, **paths)


def _check_sizes(model: ModelConfig, stages: list[StageSettings]) -> None:
    for n, (config, stage) in enumerate(zip(model.stages, stages, strict=True)):
        multiple = model.multiple // config.resolution * (2 if stage.small else 1)
        if stage.size % multiple:
            raise InputError(
                f"stages[{n + 1}].size is {stage.size}: it should be a multiple of {multiple}"
                + (", since some crops have half of it" if stage.small else "")
            )
