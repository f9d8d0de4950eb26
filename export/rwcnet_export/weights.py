"""Which weights are exported: those in the package, a file, published checkpoints, or random."""

from __future__ import annotations

from pathlib import Path

from rwcnet_export.cases import random_weights
from rwcnet_ref.checkpoint import load_published, load_weights, shipped
from rwcnet_ref.config import PRESETS
from rwcnet_ref.model import Cascade
from rwcnet_runtime.errors import InputError

DEFAULT_PRESET = "base"


def find_weights(
    preset: str | None,
    weights: Path | None = None,
    published: tuple[Path, Path, Path] | None = None,
    untrained: bool = False,
) -> tuple[Cascade, dict[str, str]]:
    """Return the model to export and what is known about its weights.

    Parameters
    ----------
    preset
        None where a file says it; else `DEFAULT_PRESET`.
    weights
        A file that `rwcnet_ref.checkpoint.save_weights` wrote; it holds the sizes as well.
    published
        State dicts of the published code, the coarsest stage first.
    untrained
        Random weights instead, always the same.

    Raises
    ------
    InputError
        If two sources are asked for, a file cannot be used, or something is not installed.
    """
    if preset is not None and preset not in PRESETS:
        raise InputError(f"there is no preset {preset}: choose one of {', '.join(sorted(PRESETS))}")
    sources = {"--weights": weights, "--published": published, "--random-weights": untrained}
    given = [name for name, source in sources.items() if source]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} exclude each other: give one of them")
    try:
        if untrained:
            cascade = random_weights(PRESETS[preset or DEFAULT_PRESET])
            about = {"licence": "none", "training_data": "none, random"}
        elif published is not None:
            cascade, about = load_published(*published)
        else:
            path = weights or shipped(preset or DEFAULT_PRESET)
            if weights is None and not path.is_file():
                raise InputError(f"no weights come with preset {preset}: give a file (--weights)")
            cascade, about = load_weights(path)
    except FileNotFoundError as error:
        raise InputError(f"{error}: check the path") from error
    except ModuleNotFoundError as error:
        raise InputError(str(error)) from error
    except ValueError as error:
        raise InputError(f"these weights cannot be used: {error}") from error
    if preset is not None and cascade.config.name != preset:
        raise InputError(
            f"these weights are of preset {cascade.config.name}, not {preset}: leave out --preset"
        )
    return cascade, about
