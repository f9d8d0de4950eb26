"""The command rwcnet-export: weights to a bundle, checked against torch before it is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import onnx
import typer

from rwcnet_export import gate
from rwcnet_export.bundle import copy_bundle, moved_when_done, stage_file, write_bundle
from rwcnet_export.cases import read_pair, whole_pair
from rwcnet_export.parity import Comparison, compare_stage
from rwcnet_export.precision import ENGINES, LOW_TYPES, count
from rwcnet_export.weights import DEFAULT_PRESET, find_weights
from rwcnet_ref.config import PRESETS
from rwcnet_runtime.bundle import MANIFEST, Bundle
from rwcnet_runtime.commands import one_sentence_errors, progress_bars
from rwcnet_runtime.engines.cache import PlanCache
from rwcnet_runtime.engines.products import PRODUCTS, Product, find_product
from rwcnet_runtime.engines.profile import DEFAULT_SHAPES, Shape, parse_shape
from rwcnet_runtime.engines.stages import compile_stages
from rwcnet_runtime.errors import InputError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

# What the published configuration for OASIS scales to 0 and 1.
_OASIS_RANGE = (0.0, 1.0)


def _indices(stage: str, count: int) -> list[int]:
    numbers = [str(n + 1) for n in range(count)]
    if stage != "all" and stage not in numbers:
        raise InputError(f"there is no stage {stage}: choose all, {', '.join(numbers)}")
    return [n for n, number in enumerate(numbers) if stage in ("all", number)]


def _low_engines(asked: list[str]) -> list[str]:
    """Return the precisions to write beside fp32, each once."""
    for engine in asked:
        if engine not in ENGINES:
            raise InputError(f"there is no engine {engine}: choose from {', '.join(ENGINES)}")
    return [engine for engine in LOW_TYPES if engine in asked]


def _intensity_range(
    given: tuple[float, float] | None, published: bool
) -> tuple[float, float] | None:
    """Return what is scaled to 0 and 1; None where the weights say it, if anything does."""
    if not published:
        if given is not None:
            raise InputError("--intensity goes with --published only: leave it out")
        return None
    lowest, highest = given or _OASIS_RANGE
    if not (math.isfinite(lowest) and math.isfinite(highest) and lowest < highest):
        raise InputError(f"--intensity {lowest:g} {highest:g} is no range: give MIN below MAX")
    return lowest, highest


def _trained_range(about: Mapping[str, str]) -> tuple[float, float] | None:
    """Return the range of intensities that weights were trained with, if it was a fixed one."""
    if "intensity_range" not in about:
        return None
    lowest, highest = json.loads(about["intensity_range"])
    return float(lowest), float(highest)


def _builder(
    product: str | None, shapes: list[str] | None, multiple: int
) -> tuple[Product, Sequence[Shape]] | None:
    """Return what engines are built with and for which image sizes, before the work begins."""
    if product is None:
        if shapes:
            raise InputError("--shape goes with --compile only: leave it out")
        return None
    sizes = [parse_shape(shape, multiple) for shape in shapes or ()]
    PlanCache()  # refuses a folder that others can write to
    return find_product(product), sizes or DEFAULT_SHAPES


def _table(rows: list[Comparison]) -> str:
    lines = [
        f"{'stage':7}{'case':9}{'size':15}{'batch':7}{'largest flow':14}largest difference (voxels)"
    ]
    for row in rows:
        size = " x ".join(map(str, row.size))
        lines.append(
            f"{row.stage:<7}{row.case:9}{size:15}{row.batch:<7}{row.flow_vox:<14.2f}"
            f"{row.difference_vox:.1e}"
        )
    return "\n".join(lines)


@app.command()
def export(
    stage: Annotated[str, typer.Option(help="all, or the number of one stage; 1 is the coarsest.")],
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(sorted(PRESETS))}; default: what the weights are of, or "
            f"{DEFAULT_PRESET}."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights of rwcnet-train (.safetensors); default: those shipped."),
    ] = None,
    published: Annotated[
        tuple[Path, Path, Path] | None,
        typer.Option(
            metavar="STAGE1 STAGE2 STAGE3",
            help="Checkpoints (.pth) of the published code, the coarsest stage first.",
        ),
    ] = None,
    intensity: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="MIN MAX",
            help="With --published: intensities its configuration scales to 0 and 1. Default: 0 1, "
            "as for OASIS; the one for NLST is -4e-3 16e3.",
        ),
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--random-weights", help="No training, for tests and timing.")
    ] = False,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Precision of the stages, one of {', '.join(ENGINES)}; may be given several "
            "times. fp32 is always written: the others are compared with it."
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help=f"Keep a precision that changes flows by more than {gate.MEAN_VOX} "
            "voxels on average.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Bundle folder; default: rwcnet-bundle-PRESET."),
    ] = None,
    check: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FIXED MOVING", help="Images to compare with torch on as well."),
    ] = None,
    compile_with: Annotated[
        str | None,
        typer.Option(
            "--compile",
            metavar="|".join(product.name for product in PRODUCTS),
            help="Build engines of the stages into the cache as well.",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IxJxK",
            help="With --compile: image size that engines are tuned for; give more and they take "
            "all sizes between. Default: 160x192x224, from 64x64x64 to 256x256x256.",
        ),
    ] = None,
) -> None:
    """Write a bundle of ONNX graphs, after comparing each stage with torch in ONNX Runtime."""
    with one_sentence_errors():
        intensity_range = _intensity_range(intensity, published is not None)
        cascade, about = find_weights(preset, weights, published, untrained)
        intensity_range = intensity_range or _trained_range(about)
        target = output or Path(f"rwcnet-bundle-{cascade.config.name}")
        if target.exists() and not target.is_dir():
            raise InputError(f"{target} is a file: choose a folder with -o")
        everything = range(len(cascade.config.stages))
        indices = _indices(stage, len(everything))
        engines = _low_engines(engine or [])
        images = (
            None if check is None else read_pair(*check, cascade.config.multiple, intensity_range)
        )
        builder = _builder(compile_with, shape, cascade.config.multiple)
        with moved_when_done(target) as folder:
            with progress_bars() as bars:
                task = bars.add_task("", total=None)

                def show(part: str) -> None:
                    bars.update(task, description=part)

                if stage != "all" and (target / MANIFEST).is_file():
                    copy_bundle(target, folder, cascade, intensity_range)
                write_bundle(
                    cascade,
                    folder,
                    stages=indices,
                    licence=about.get("licence", "not stated"),
                    training_data=about.get("training_data", "not stated"),
                    intensity_range=intensity_range,
                    engines=engines,
                    progress=show,
                )
                rows: list[Comparison] = []
                for n in indices:
                    show(f"comparing stage {n + 1} with torch")
                    rows += compare_stage(cascade, n, stage_file(folder, n), images)
                graphs = {
                    low: {n: onnx.load(stage_file(folder, n, low)) for n in indices}
                    for low in engines
                }
                differences: list[gate.FlowDifference] = []
                if graphs:
                    show("comparing precisions with fp32")
                    pair = whole_pair(cascade, images)
                    differences = gate.compare_engines(cascade, graphs, pair)
            if not force:
                gate.require(differences)
            typer.echo(_table(rows))
            for low, models in graphs.items():
                for n, model in models.items():
                    typer.echo(f"stage {n + 1}, {low}: {count(model)}")
            if differences:
                typer.echo(gate.table(differences))
            for missed in filter(gate.too_far, differences):
                typer.echo(f"{missed.engine} is over {gate.MEAN_VOX:g} voxels: kept with --force")
            if images is None:
                typer.echo("no real image was compared: --check FIXED MOVING does")
        typer.echo(f"wrote {target}")
        bundle = Bundle.open(target)
        for kind in ("fp32", *engines):
            names = [stage_file(Path(), n, kind).as_posix() for n in everything]
            missing = [n for n in everything if names[n] not in bundle.manifest.files]
            if missing:
                numbers = ", ".join(str(n + 1) for n in missing)
                typer.echo(f"{kind} not yet usable: export stage {numbers} into the same folder")
        if builder is not None:
            compile_stages(bundle, *builder, indices, typer.echo)


if __name__ == "__main__":
    app()
