"""Ctrl-C and SIGTERM: one sentence, and no moment at which half of something is left behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """The first Ctrl-C or SIGTERM to a command; those after it change nothing.

    Attributes
    ----------
    outcome : str
        What is true if it comes now, for the user.
    number : int or None
        Which signal came.
    """

    def __init__(self) -> None:
        self.outcome = "nothing was written"
        self.number: int | None = None

    def check(self) -> None:
        """Stop if it came: half-imported libraries swallow what Python raises then."""
        if self.number is not None:
            raise KeyboardInterrupt

    def note(self, number: int, frame: FrameType | None) -> None:
        """Stop at the first signal."""
        if self.number is None:
            self.number = number
            raise KeyboardInterrupt


@contextmanager
def one_sentence_interrupts() -> Iterator[Interrupt]:
    """End the command at Ctrl-C (exit code 130) or SIGTERM (143) with one sentence.

    Signals that are ignored, as behind nohup, stay so.
    """
    interrupt = Interrupt()
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    for number in heard:
        signal.signal(number, interrupt.note)
    try:
        yield interrupt
    except BaseException as error:
        # What libraries raise once they have swallowed it says nothing to the user.
        if interrupt.number is None:
            raise
        typer.echo(f"Error: interrupted, and {interrupt.outcome}", err=True)
        raise typer.Exit(128 + interrupt.number) from error
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the block is done; it should take no time.

    Python's signals come to the main thread alone: in another there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
