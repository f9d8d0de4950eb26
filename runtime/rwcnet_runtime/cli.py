"""The commands rwcnet-infer and rwcnet-demo: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TaskID

from rwcnet_runtime.backends.choose import AUTO, NAMES
from rwcnet_runtime.commands import (
    Refine,
    RefineFeatures,
    Threads,
    one_sentence_errors,
    progress_bars,
)
from rwcnet_runtime.registrar import register
from rwcnet_runtime.registration import OUTPUTS, Registration
from rwcnet_runtime.writing import check_output

infer_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
demo_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run_with_progress(
    fixed: Path, moving: Path, **options: str | float | Path | None
) -> Registration:
    """Register with a progress bar, which shows on a terminal only.

    Parameters
    ----------
    fixed, moving, **options
        As `register` takes them.
    """
    with progress_bars() as bars:
        tasks: dict[str, TaskID] = {}

        def show(part: str, share: float) -> None:
            name = part.partition(",")[0]
            if name not in tasks:
                tasks[name] = bars.add_task(part, total=1.0)
            bars.update(tasks[name], description=part, completed=share)

        return register(fixed, moving, progress=show, say=bars.console.print, **options)  # type: ignore[arg-type]


def describe(registration: Registration) -> str:
    """Return what was chosen and what was found, in a few lines."""
    report = registration.report
    return "\n".join(
        [
            f"bundle {report['bundle']['name']} ({report['bundle']['sha256'][:12]}), engine "
            f"{report['engine']} ({report['arithmetic']}), device {report['device']}, "
            f"{report['threads']} threads",
            f"backend {report['backend']}: {report['backend_chosen']}",
            _working_grid(report["working_grid"]),
            *_refinement(report),
            *(
                f"{name.replace('_', ' '):19} {values['before']:.3f} -> {values['after']:.3f}"
                for name, values in report["similarity"].items()
            ),
            f"displacement        mean {report['displacement_mm']['mean']:.1f} mm, largest "
            f"{report['displacement_mm']['max']:.1f} mm",
            f"Jacobian            smallest {report['jacobian_determinant']['min']:.2f}, folded "
            f"{report['jacobian_determinant']['folded_percent']:.3f} % of the voxels",
            f"time                {sum(report['seconds'].values()):.1f} s",
        ]
    )


def _working_grid(found: dict[str, Any]) -> str:
    voxels, spacing = (" x ".join(f"{n:g}" for n in found[key]) for key in ("shape", "spacing_mm"))
    return f"working grid        {voxels} voxels of {spacing} mm: {found['why']}"


def _refinement(report: dict[str, Any]) -> list[str]:
    losses = report["refinement_losses"]
    if not losses:
        return []
    features = {"both": "MIND-SSC and learned features", "mind": "MIND-SSC"}.get(
        report["refinement"]["features"], "learned features"
    )
    return [
        f"refinement          {len(losses)} steps on {features}, loss {losses[0]:.4f} -> "
        f"{losses[-1]:.4f}"
    ]


@infer_app.command()
def infer(
    fixed: Annotated[Path, typer.Argument(help="Image to align with: NIfTI, MetaImage or NRRD.")],
    moving: Annotated[Path, typer.Argument(help="Image to align.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path(
        "registration"
    ),
    engine: Annotated[str, typer.Option(help="Precision; one that the bundle holds.")] = "fp32",
    backend: Annotated[
        str,
        typer.Option(help=f"What runs it: {', '.join(NAMES)}; {AUTO} is the fastest here."),
    ] = AUTO,
    threads: Threads = None,
    refine: Refine = None,
    refine_features: RefineFeatures = None,
    spacing: Annotated[
        float | None,
        typer.Option(help="Voxel size in mm to work at; default: FIXED's, larger if too many."),
    ] = None,
    fixed_mask: Annotated[
        Path | None, typer.Option(help="Mask on FIXED's grid: where the refinement compares.")
    ] = None,
    initial_transform: Annotated[
        Path | None,
        typer.Option(help="ITK transform (LPS mm, fixed to moving points) to start from."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Folder written by rwcnet-export; default: the one shipped.")
    ] = None,
) -> None:
    """Align MOVING with FIXED: writes the warped image, the displacement field and a report."""
    with one_sentence_errors():
        check_output(output, OUTPUTS, fixed, moving)
        registration = run_with_progress(
            fixed,
            moving,
            engine=engine,
            backend=backend,
            threads=threads,
            refine=refine,
            refine_features=refine_features,
            spacing=spacing,
            initial_transform=initial_transform,
            fixed_mask=fixed_mask,
            bundle=bundle,
        )
        paths = registration.save(output)
    typer.echo(describe(registration))
    for path in paths:
        typer.echo(f"wrote {path}")


@demo_app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for images, results and picture.")
    ] = Path("rwcnet-demo"),
) -> None:
    """Undo a known deformation of a real brain (ICBM152) and print how much of it is left."""
    with one_sentence_errors():
        from rwcnet_runtime import demo as demonstration  # its packages are an extra

        outcome = demonstration.run(output, run_with_progress)
        typer.echo(describe(outcome.registration))
    typer.echo(
        f"known displacement inside the head: mean {outcome.error_before_mm:.2f} mm, largest "
        f"{outcome.largest_mm:.2f} mm"
    )
    typer.echo(
        f"error to it: {outcome.error_before_mm:.2f} mm "
        f"before, {outcome.error_after_mm:.2f} mm after ({outcome.reduction_percent:.0f} % less)"
    )
    typer.echo(f"wrote {outcome.picture}")
