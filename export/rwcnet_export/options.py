"""What the options of rwcnet-export mean, looked at before the work begins."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rwcnet_export.checks import Range
from rwcnet_export.precision import ENGINES, LOW_TYPES
from rwcnet_runtime.engines.cache import PlanCache
from rwcnet_runtime.engines.products import Product, find_product
from rwcnet_runtime.engines.profile import DEFAULT_SHAPES, Shape, parse_shape
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation import Case, read_cases
from rwcnet_runtime.writing import check_output

# What the published configuration for OASIS scales to 0 and 1.
_OASIS_RANGE = (0.0, 1.0)


def indices(stage: str, count: int) -> list[int]:
    """Return which of `count` stages to export, 0 is the coarsest."""
    numbers = [str(n + 1) for n in range(count)]
    if stage != "all" and stage not in numbers:
        raise InputError(f"there is no stage {stage}: choose all, {', '.join(numbers)}")
    return [n for n, number in enumerate(numbers) if stage in ("all", number)]


def low_engines(asked: list[str]) -> list[str]:
    """Return the precisions to write beside fp32, each once."""
    for engine in asked:
        if engine not in ENGINES:
            raise InputError(f"there is no engine {engine}: choose from {', '.join(ENGINES)}")
    return [engine for engine in LOW_TYPES if engine in asked]


def intensity_range(given: Range, published: bool) -> Range:
    """Return what is scaled to 0 and 1; None where the weights say it, if anything does."""
    if not published:
        if given is not None:
            raise InputError("--intensity goes with --published only: leave it out")
        return None
    lowest, highest = given or _OASIS_RANGE
    if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
        raise InputError(f"--intensity {lowest:g} {highest:g} is no range: give MIN below MAX")
    return lowest, highest


def trained_range(about: Mapping[str, str]) -> Range:
    """Return the range of intensities that weights were trained with, if it was a fixed one."""
    if "intensity_range" not in about:
        return None
    lowest, highest = json.loads(about["intensity_range"])
    return float(lowest), float(highest)


def builder(
    product: str | None, shapes: list[str] | None, multiple: int
) -> tuple[Product, Sequence[Shape]] | None:
    """Return what engines are built with and for which image sizes."""
    if product is None:
        if shapes:
            raise InputError("--shape goes with --compile only: leave it out")
        return None
    sizes = [parse_shape(shape, multiple) for shape in shapes or ()]
    PlanCache()  # refuses a folder that others can write to
    return find_product(product), sizes or DEFAULT_SHAPES


def truths(cases: Path | None, data: Path | None) -> list[Case]:
    """Return the pairs of a cases file."""
    if cases is None:
        if data is not None:
            raise InputError("--data goes with --cases only: leave it out")
        return []
    return read_cases(cases, data)


def limit(gate_vox: float) -> float:
    """Return the mean difference in voxels that a precision may have."""
    if not 0 < gate_vox < math.inf:
        raise InputError(f"--gate is {gate_vox:g} where voxels above 0 are wanted, such as 0.05")
    return gate_vox


def check_report(path: Path, bundle: Path, *inputs: Path | None) -> None:
    """Refuse a place that the report cannot go to, the bundle's folder among them."""
    if path.absolute().is_relative_to(bundle.absolute()):
        raise InputError(f"--report {path} lies in the bundle's folder: choose another place")
    read = [given for given in inputs if given is not None]
    check_output(path.parent, [path.name], *read, option="--report")
