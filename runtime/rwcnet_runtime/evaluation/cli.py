"""The command rwcnet-eval: parse, call, print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from rwcnet_runtime.alignment import INITS
from rwcnet_runtime.backends.choose import AUTO, NAMES
from rwcnet_runtime.commands import NETWORK, Refine, RefineFeatures, Threads, one_sentence_errors
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation.cases import read_cases
from rwcnet_runtime.evaluation.evaluate import evaluate_bundle, evaluate_fields
from rwcnet_runtime.evaluation.measures import Labels, Row, any_label
from rwcnet_runtime.evaluation.summary import OUTPUTS, markdown, write_results
from rwcnet_runtime.registrar import Registrar
from rwcnet_runtime.writing import check_output

eval_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@eval_app.command()
def evaluate(
    cases: Annotated[Path, typer.Argument(help="CSV of image pairs and their truth.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder that paths in CASES start from; default: its own.")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Folder written by rwcnet-export; default: the one shipped.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="Precision; one that the bundle holds. Default: fp32.", rich_help_panel=NETWORK
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help=f"What runs it: {', '.join(NAMES)}. Default: {AUTO}.", rich_help_panel=NETWORK
        ),
    ] = None,
    threads: Threads = None,
    refine: Refine = None,
    refine_features: RefineFeatures = None,
    fields: Annotated[
        Path | None,
        typer.Option(help="Folder of displacement fields to measure instead of a bundle."),
    ] = None,
    convention: Annotated[
        str | None, typer.Option(help="Of the fields: itk or learn2reg. Default: itk.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help=f"How pairs without an initial transform begin: {', '.join(INITS)}. Default: "
            "header, as fields of other programs do."
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels to measure, such as 1-999 or 4,10-13; default: all.")
    ] = None,
) -> None:
    """Measure a bundle, or fields of another program, on CASES: accuracy, folds, time, memory."""
    with one_sentence_errors():
        pairs = read_cases(cases, data)
        chosen = any_label if labels is None else _labels(labels)
        check_output(output, OUTPUTS, cases)
        of_bundle = (bundle, engine, backend, threads, refine, refine_features, init)
        if fields is not None and any(x is not None for x in of_bundle):
            raise InputError(
                "--fields excludes --bundle, --engine, --backend, --threads, --refine and --init: "
                "measure one."
            )
        if fields is None and convention is not None:
            raise InputError("--convention is about --fields; give their folder, or leave it out.")

        def notice(done: int, row: Row) -> None:
            outcome = f"failed: {row['error']}" if "error" in row else _brief(row)
            typer.echo(f"{done}/{len(pairs)} {row['case']}: {outcome}", err=True)

        def say(line: str) -> None:
            typer.echo(line, err=True)

        about: dict[str, Any] = {"cases_file": str(cases), "labels_measured": labels or "all"}
        if fields is None:
            registrar = Registrar(
                bundle,
                engine=engine or "fp32",
                backend=backend or AUTO,
                threads=threads,
                refine=refine,
                refine_features=refine_features,
                init=init or "header",
                say=say,
            )
            say(f"backend {registrar.backend.name}: {registrar.reason}")
            rows = evaluate_bundle(pairs, registrar, labels=chosen, notice=notice)
            about |= registrar.chosen()
        else:
            convention = convention or "itk"
            rows = evaluate_fields(pairs, fields, convention, labels=chosen, notice=notice)
            about |= {"fields": str(fields), "convention": convention}
        written = write_results(output, rows, about)
    typer.echo(markdown(rows), nl=False)
    for path in written:
        typer.echo(f"wrote {path}")
    if any("error" in row for row in rows):
        raise typer.Exit(1)


def _labels(text: str) -> Labels:
    chosen = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        numbers = found and range(int(found[1]), int(found[2] or found[1]) + 1)
        if not numbers:
            raise InputError(f"--labels is {text!r}; write numbers and ranges, such as 4,10-13.")
        chosen.append(numbers)
    return lambda label: any(label in numbers for numbers in chosen)


def _brief(row: Row) -> str:
    found = [
        f"{title} {row[f'{name}_before']:.3f} -> {row[f'{name}_after']:.3f}"
        for name, title in (("dice", "Dice"), ("hd95", "HD95"), ("tre_mm", "TRE mm"))
        if f"{name}_after" in row
    ]
    return ", ".join([*found, f"folded {row['folded_percent']:.3f} %"])
