"""The command rwcnet-export: weights to a bundle, checked against torch before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwcnet_export import gate, options, report
from rwcnet_export.bundle import copy_bundle, stage_file, write_bundle
from rwcnet_export.cases import read_pair
from rwcnet_export.checks import Pairs, compare
from rwcnet_export.folder import move, scratch_beside
from rwcnet_export.precision import ENGINES
from rwcnet_export.weights import DEFAULT_PRESET, find_weights
from rwcnet_ref.config import PRESETS
from rwcnet_runtime.bundle import MANIFEST, Bundle
from rwcnet_runtime.commands import one_sentence_errors, progress_by_part
from rwcnet_runtime.engines.products import PRODUCTS
from rwcnet_runtime.engines.stages import compile_chain, compile_stages
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.interrupts import one_sentence_interrupts, uninterrupted

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


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
    gate_vox: Annotated[
        float,
        typer.Option(
            "--gate",
            metavar="VOXELS",
            help="By how much a precision may change the flow of a pair on average.",
        ),
    ] = gate.MEAN_VOX,
    force: Annotated[
        bool, typer.Option("--force", help="Keep a precision that changes flows by more.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Bundle folder; default: rwcnet-bundle-PRESET."),
    ] = None,
    check: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FIXED MOVING", help="Images to compare with torch on as well."),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Cases file of rwcnet-eval: precisions are compared on its whole images, and with "
            "their truth.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that paths in the CSV start from; default: its own."),
    ] = None,
    report_to: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="JSON", help="Write all that was measured, with its environment."
        ),
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
    with one_sentence_interrupts() as interrupt, one_sentence_errors():
        intensity_range = options.intensity_range(intensity, published is not None)
        cascade, about = find_weights(preset, weights, published, untrained)
        intensity_range = intensity_range or options.trained_range(about)
        multiple, everything = cascade.config.multiple, range(len(cascade.config.stages))
        target = output or Path(f"rwcnet-bundle-{cascade.config.name}")
        if target.exists() and not target.is_dir():
            raise InputError(f"{target} is a file: choose a folder with -o")
        indices = options.indices(stage, len(everything))
        engines = options.low_engines(engine or [])
        limit_vox = options.limit(gate_vox)
        images = None if check is None else read_pair(*check, multiple, intensity_range)
        pairs = Pairs(images, options.truths(cases, data))
        if report_to is not None:
            options.check_report(
                report_to, target, weights, cases, *(published or ()), *(check or ())
            )
        builder = options.builder(compile_with, shape, multiple)
        with scratch_beside(target) as folder:
            with progress_by_part() as show:

                def begin(part: str) -> None:
                    interrupt.check()
                    show(part)

                if stage != "all" and (target / MANIFEST).is_file():
                    copy_bundle(target, folder, cascade, intensity_range)
                outcomes = write_bundle(
                    cascade,
                    folder,
                    stages=indices,
                    licence=about.get("licence", "not stated"),
                    training_data=about.get("training_data", "not stated"),
                    intensity_range=intensity_range,
                    engines=engines,
                    progress=begin,
                )
                found = compare(cascade, folder, indices, engines, pairs, intensity_range, begin)
            if not force:
                gate.require(found.chains, limit_vox)
            interrupt.check()
            with uninterrupted():
                move(folder, target)
                interrupt.outcome = f"{target} is written"
        for line in report.lines(found, outcomes, limit_vox):
            typer.echo(line)
        if check is None and cases is None:
            typer.echo("no real image was compared: --check FIXED MOVING or --cases CSV does")
        typer.echo(f"wrote {target}")
        bundle = Bundle.open(target)
        for kind in ("fp32", *engines):
            names = [stage_file(Path(), n, kind).as_posix() for n in everything]
            missing = [n for n in everything if names[n] not in bundle.manifest.files]
            if missing:
                numbers = ", ".join(str(n + 1) for n in missing)
                typer.echo(f"{kind} not yet usable: export stage {numbers} into the same folder")
        if report_to is not None:
            measured = report.contents(bundle.manifest, found, outcomes, limit_vox)
            report.write(report_to, measured)
            typer.echo(f"wrote {report_to}")
        if builder is not None:
            compile_stages(bundle, *builder, indices, typer.echo)
            if stage == "all":
                compile_chain(bundle, *builder, typer.echo)


if __name__ == "__main__":
    app()
