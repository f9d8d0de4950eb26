"""The commands rwcnet-infer and rwcnet-demo: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TaskID

from rwcnet_runtime.alignment import INITS
from rwcnet_runtime.apply.point_sets import read_point_set
from rwcnet_runtime.backends.choose import AUTO, NAMES
from rwcnet_runtime.commands import (
    NETWORK,
    Refine,
    RefineFeatures,
    Threads,
    one_sentence_errors,
    progress_bars,
)
from rwcnet_runtime.describe import describe, describe_plan
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.interrupts import one_sentence_interrupts
from rwcnet_runtime.outputs import TRANSFORMS, Outputs
from rwcnet_runtime.registrar import Registrar, register
from rwcnet_runtime.registration import Registration
from rwcnet_runtime.result_names import REPORT
from rwcnet_runtime.settings import ANATOMIES
from rwcnet_runtime.volumes import read_labels

infer_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
demo_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

VERDICT_FAILED = 3
INPUTS, OUTPUTS = "Inputs", "Outputs"


def run_with_progress(
    fixed: Path, moving: Path, *, quiet: bool = False, **options: Any
) -> Registration:
    """Register with a progress bar, which shows on a terminal only.

    Parameters
    ----------
    fixed, moving, **options
        As `register` takes them.
    quiet
        Show and say nothing.
    """
    with progress_bars(quiet=quiet) as bars:
        tasks: dict[str, TaskID] = {}

        def show(part: str, share: float) -> None:
            name = part.partition(",")[0]
            if name not in tasks:
                tasks[name] = bars.add_task(part, total=1.0)
            bars.update(tasks[name], description=part, completed=share)

        return register(fixed, moving, progress=show, say=bars.console.print, **options)


@infer_app.command()
def infer(
    fixed: Annotated[
        Path,
        typer.Argument(help="Image to align with: NIfTI, MetaImage, NRRD or a folder of DICOM."),
    ],
    moving: Annotated[Path, typer.Argument(help="Image to align.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="Label map of MOVING to bring along.", rich_help_panel=INPUTS),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            help="Points of MOVING to bring along: .csv, .fcsv, .vtk or .gii.",
            rich_help_panel=INPUTS,
        ),
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(
            help="Frame of the points, RAS or LPS, where the file does not say it.",
            rich_help_panel=INPUTS,
        ),
    ] = None,
    fixed_mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            help="Mask on FIXED's grid: where the refinement compares.",
            rich_help_panel=INPUTS,
        ),
    ] = None,
    moving_mask: Annotated[
        Path | None,
        typer.Option(help="The same on MOVING's grid.", rich_help_panel=INPUTS),
    ] = None,
    initial_transform: Annotated[
        Path | None,
        typer.Option(
            help="ITK transform (LPS mm, fixed to moving points) to start from.",
            rich_help_panel=INPUTS,
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help=f"How the images are brought together before the network: {', '.join(INITS)}. "
            "Default: auto, which believes the headers unless another start is clearly better.",
            rich_help_panel=INPUTS,
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Folder written by rwcnet-export; default: the one shipped.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            help=f"What runs it: {', '.join(NAMES)}; {AUTO} is the fastest here.",
            rich_help_panel=NETWORK,
        ),
    ] = AUTO,
    engine: Annotated[
        str, typer.Option(help="Precision; one that the bundle holds.", rich_help_panel=NETWORK)
    ] = "fp32",
    threads: Threads = None,
    refine: Refine = None,
    refine_features: RefineFeatures = None,
    spacing: Annotated[
        float | None,
        typer.Option(
            help="Voxel size in mm to work at; default: FIXED's, larger if too many.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    diffeomorphic: Annotated[
        bool,
        typer.Option(
            "--diffeomorphic",
            help="Integrate the stages as stationary velocities, smooth away what still folds.",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    anatomy: Annotated[
        str,
        typer.Option(
            help=f"What the images show: {', '.join(ANATOMIES)}; for the record, as no "
            "settings of its own were found better.",
            rich_help_panel=NETWORK,
        ),
    ] = ANATOMIES[0],
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="The same files twice, byte for byte: no date and times in the report; backends "
            "that do not promise it are refused. Of --transform h5 all but the times that HDF5 "
            "writes into it.",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the results.", rich_help_panel=OUTPUTS),
    ] = Path("registration"),
    inverse: Annotated[
        bool,
        typer.Option(
            "--inverse",
            help="Write the displacement from MOVING to FIXED too.",
            rich_help_panel=OUTPUTS,
        ),
    ] = False,
    transform: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Write the transform in this form too: {', '.join(TRANSFORMS)}; may be repeated.",
            rich_help_panel=OUTPUTS,
        ),
    ] = None,
    bids: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="MOVING FIXED",
            help="Name transforms as BIDS does, by the spaces of both images: T1w MNI152.",
            rich_help_panel=OUTPUTS,
        ),
    ] = None,
    report_page: Annotated[
        bool,
        typer.Option("--report", help="Write report.html, to look at.", rich_help_panel=OUTPUTS),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace earlier results.", rich_help_panel=OUTPUTS),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help=f"End with 0 where the verdict is failed, not with {VERDICT_FAILED}.",
            rich_help_panel=OUTPUTS,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read the inputs, say what would be done, write nothing.",
            rich_help_panel=OUTPUTS,
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print registration.json and nothing else.", rich_help_panel=OUTPUTS
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=OUTPUTS)
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Print the time of each part too.", rich_help_panel=OUTPUTS
        ),
    ] = False,
) -> None:
    """Align MOVING with FIXED: writes the warped image, the displacement field and a report."""
    with one_sentence_interrupts() as interrupt, one_sentence_errors():
        if as_json + quiet + verbose > 1:
            raise InputError("--json, --quiet and --verbose exclude each other: give one")
        if init is not None and initial_transform is not None:
            raise InputError("--init and --initial-transform are two starts: give one")
        if frame is not None and points is None:
            raise InputError("--frame is about --points: give them, or leave it out")
        outputs = Outputs(
            output,
            overwrite,
            labels=None if labels is None else read_labels(labels),
            points=None if points is None else read_point_set(points, frame),
            inverse=inverse,
            transforms=tuple(transform or ()),
            bids=bids,
            page=report_page,
        )
        outputs.check(fixed, moving, initial_transform, fixed_mask, moving_mask)
        settings: dict[str, Any] = {
            "engine": engine,
            "backend": backend,
            "threads": threads,
            "refine": refine,
            "refine_features": refine_features,
            "init": init or INITS[0],
            "spacing": spacing,
            "diffeomorphic": diffeomorphic,
            "anatomy": anatomy,
            "deterministic": deterministic,
        }
        given: dict[str, Any] = {
            "initial_transform": initial_transform,
            "fixed_mask": fixed_mask,
            "moving_mask": moving_mask,
        }
        if dry_run:
            plan = Registrar(bundle, **settings).plan(fixed, moving, **given)
            files = outputs.files(fixed)
            text = json.dumps({"outputs": files, **plan}, indent=2)
            lines = describe_plan(plan)
            lines += [f"would write {output / file}" for file in files.values()]
            report = plan
        else:
            found = run_with_progress(
                fixed, moving, quiet=quiet, bundle=bundle, **settings, **given
            )
            interrupt.check()  # some library may have swallowed it
            interrupt.outcome = "no file is half written"
            paths = outputs.write(found)
            text = (output / REPORT).read_text().rstrip()
            report = json.loads(text)  # with what came to light by writing
            lines = describe(report, verbose=verbose) + [f"wrote {path}" for path in paths]
    if not quiet:
        typer.echo(text if as_json else "\n".join(lines))
    if report.get("verdict", {}).get("level") == "failed" and not force:
        if quiet:
            typer.echo("\n".join(["verdict failed", *report["verdict"]["reasons"]]), err=True)
        raise typer.Exit(VERDICT_FAILED)


@demo_app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for images, results and picture.")
    ] = Path("rwcnet-demo"),
) -> None:
    """Undo a known deformation of a real brain (ICBM152) and print how much of it is left."""
    with one_sentence_interrupts() as interrupt, one_sentence_errors():
        interrupt.outcome = "what was written is not complete"
        from rwcnet_runtime import demo as demonstration  # its packages are an extra

        outcome = demonstration.run(output, run_with_progress)
        typer.echo("\n".join(describe(outcome.registration.report)))
    typer.echo(
        f"known displacement inside the head: mean {outcome.error_before_mm:.2f} mm, largest "
        f"{outcome.largest_mm:.2f} mm"
    )
    typer.echo(
        f"error to it: {outcome.error_before_mm:.2f} mm "
        f"before, {outcome.error_after_mm:.2f} mm after ({outcome.reduction_percent:.0f} % less)"
    )
    typer.echo(f"wrote {outcome.picture}")
