"""The command rwcnet-apply: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rwcnet_runtime.apply.chain import Given
from rwcnet_runtime.apply.files import apply
from rwcnet_runtime.apply.request import Request
from rwcnet_runtime.apply.resampling import INTERPOLATIONS
from rwcnet_runtime.commands import one_sentence_errors, progress_bars
from rwcnet_runtime.interrupts import one_sentence_interrupts

apply_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@apply_app.command("apply")
def run(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="Image or label map (NIfTI, MetaImage, NRRD), points (.csv, .fcsv, .vtk), surface "
            "(.gii, .vtk) or streamlines (.trk, .tck).",
        ),
    ],
    transforms: Annotated[
        list[str],
        typer.Option(
            "--transform",
            "-t",
            metavar="FILE",
            help="Leads from fixed to moving points: a folder of rwcnet-infer, a displacement "
            "field or an ITK transform; '[FILE,1]' for its inverse. Several: in the order of ANTs, "
            "the one nearest to the fixed image first.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the result.")],
    origin: Annotated[
        str | None,
        typer.Option("--from", help="What INPUT belongs to: fixed or moving. Images: moving."),
    ] = None,
    destination: Annotated[
        str | None, typer.Option("--to", help="What it is brought to: moving or fixed.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Image on the grid that an image, or .trk, is brought to. Default: the grid of "
            "the displacement field."
        ),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(INTERPOLATIONS)}. Default: linear for images, nearest for labels; "
            "linear for labels takes the label with the largest share."
        ),
    ] = None,
    labels: Annotated[
        bool | None,
        typer.Option("--labels/--image", help="What INPUT is; by default its values tell."),
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="Of points: RAS or LPS, where the file does not say it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
) -> None:
    """Bring INPUT from one side of a registration to the other; direction is worked out."""
    with one_sentence_interrupts() as interrupt, one_sentence_errors():
        interrupt.outcome = "no file is half written"
        request = Request(
            source,
            output,
            [Given.parse(text) for text in transforms],
            origin,
            destination,
            reference,
            interpolation,
            labels,
            frame,
        )
        with progress_bars() as bars:
            task = bars.add_task("resample", total=1.0)
            report = apply(
                request,
                overwrite=overwrite,
                say=typer.echo,
                progress=lambda share: bars.update(task, completed=share),
            )
    typer.echo(f"from {report['from']} to {report['to']}")
    for line in report["warnings"]:
        typer.echo(f"Warning: {line}", err=True)
    for path in (request.target, request.record):
        typer.echo(f"wrote {path}")
