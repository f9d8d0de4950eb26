"""What all commands share."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from rwcnet_runtime.bundle import REFINEMENT_FEATURES
from rwcnet_runtime.errors import RwcnetError

# Options that mean one thing in every command that registers.
NETWORK = "Network and refinement"
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads; default: all cores.", rich_help_panel=NETWORK),
]
Refine = Annotated[
    int | None,
    typer.Option(
        help="Steps of refinement, at most; 0: none. Default: the bundle's.",
        rich_help_panel=NETWORK,
    ),
]
RefineFeatures = Annotated[
    str | None,
    typer.Option(
        help=f"What it compares: {', '.join(REFINEMENT_FEATURES)}.", rich_help_panel=NETWORK
    ),
]


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn our errors, and the system's about files, into one line on stderr and exit code 2."""
    try:
        yield
    except (RwcnetError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


def progress_bars(*, quiet: bool = False) -> Progress:
    """Return bars that show on a terminal only, and go when they are done.

    `quiet` shows none, and nothing that is printed to their console.
    """
    console = Console(stderr=True, quiet=quiet)
    return Progress(console=console, transient=True, disable=quiet or not sys.stderr.isatty())


@contextmanager
def progress_by_part() -> Iterator[Callable[[str], None]]:
    """Give what is told of each part of the work when it begins: a bar, or a line off a terminal.

    The lines go to stderr.
    """
    if not sys.stderr.isatty():
        yield lambda part: typer.echo(part, err=True)
        return
    with progress_bars() as bars:
        task = bars.add_task("", total=None)
        yield lambda part: bars.update(task, description=part)
