"""Where the commands start: what they import comes later, so that a failing import can be said."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

_TITLES = {"torch": "PyTorch"}


def infer() -> None:
    """Run rwcnet-infer."""
    run_command("rwcnet-infer", "rwcnet_runtime.cli:infer_app")


def apply() -> None:
    """Run rwcnet-apply."""
    run_command("rwcnet-apply", "rwcnet_runtime.apply.cli:apply_app")


def demo() -> None:
    """Run rwcnet-demo."""
    run_command("rwcnet-demo", "rwcnet_runtime.cli:demo_app")


def evaluate() -> None:
    """Run rwcnet-eval."""
    run_command("rwcnet-eval", "rwcnet_runtime.evaluation.cli:eval_app")


def doctor() -> None:
    """Run rwcnet-doctor."""
    run_command("rwcnet-doctor", "rwcnet_runtime.doctor.cli:doctor_app")


def run_command(command: str, app: str, extra: str | None = None) -> None:
    """Import a command and run it on the arguments of this process.

    Parameters
    ----------
    command
        What the user calls.
    app
        ``module:attribute``, a callable without arguments.
    extra
        The optional dependencies that the command needs, if any.

    Raises
    ------
    SystemExit
        1 with one sentence if a package of the extra is not installed; else what the command ends
        with. Ctrl-C during the imports ends the process with 130.
    """
    with _ending_at_ctrl_c():
        run = _load(command, app, extra)
    run()


@contextmanager
def _ending_at_ctrl_c() -> Iterator[None]:
    """End the process at Ctrl-C, with nothing done yet; Python's exception may be swallowed.

    Libraries that are half imported catch it, and fail later of what they then lack.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # as behind nohup
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _load(command: str, app: str, extra: str | None) -> Callable[[], Any]:
    module, _, attribute = app.partition(":")
    try:
        loaded: Callable[[], Any] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        # A module of ours that is not there is no missing extra, but a broken installation.
        if extra is None or missing.startswith("rwcnet_"):
            raise
        sys.exit(
            f"Error: {command} needs {_TITLES.get(missing, missing)}, which is not installed: "
            f'pip install "rwcnet[{extra}]", or in a clone pip install ".[{extra}]"'
        )
    return loaded
