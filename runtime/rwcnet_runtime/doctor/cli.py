"""The command rwcnet-doctor: says what it finds, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from rwcnet_runtime.commands import one_sentence_errors
from rwcnet_runtime.doctor.check import compare_precisions
from rwcnet_runtime.doctor.holdings import contents, fallbacks, plans, precisions
from rwcnet_runtime.doctor.machine import backends, devices
from rwcnet_runtime.registrar import open_bundle

doctor_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _section(title: str, lines: Iterable[str]) -> None:
    typer.echo(title)
    for line in lines:
        typer.echo(f"  {line}")


@doctor_app.command()
def doctor(
    bundle: Annotated[
        Path | None, typer.Option(help="Folder written by rwcnet-export; default: the one shipped.")
    ] = None,
    check: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FIXED MOVING",
            help="Register these in every precision and compare with fp32.",
        ),
    ] = None,
) -> None:
    """Say what is here to run a bundle with, what it holds, and what of it would run how."""
    with one_sentence_errors():
        _section("Backends", backends())
        _section("Devices", devices())
        # What is above helps also where the bundle is damaged.
        opened = open_bundle(bundle)
        _section("Bundle", contents(opened))
        _section("Precisions", precisions(opened))
        _section("Operators", fallbacks(opened))
        _section("Cached engines", plans(opened))
        if check is not None:
            _section("Check", compare_precisions(opened, *check))
