"""What all commands share."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from rwcnet_runtime.errors import RwcnetError


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Turn our own errors into one line on stderr and exit code 2."""
    try:
        yield
    except RwcnetError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
