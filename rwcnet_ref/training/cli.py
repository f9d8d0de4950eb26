"""The command rwcnet-train: parse, call, print."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from rwcnet_ref.training import log
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.loop import Training
from rwcnet_ref.training.settings import Settings, read_toml
from rwcnet_ref.training.stages import train
from rwcnet_ref.training.step import NotFiniteError
from rwcnet_runtime.commands import one_sentence_errors
from rwcnet_runtime.errors import InputError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_CONFIGS = Path(str(resources.files("rwcnet_ref"))) / "configs"


def shipped() -> dict[str, Path]:
    """Return the settings that come with the package, by name."""
    return {path.stem: path for path in sorted(_CONFIGS.glob("*.toml"))}


class _Terminal:
    """Prints how a training goes, with a progress bar on a terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None
        self._first, self._began = 0, 0.0

    def begin(self, training: Training) -> None:
        """Say what was chosen."""
        config, plan = training.stage.config, training.plan
        stages, number = len(training.settings.stages), training.index + 1
        parameters = sum(p.numel() for p in training.stage.parameters())
        self._say(
            f"stage {number} of {stages} at 1/{config.grid}: {parameters:,} parameters, "
            f"device {training.device}, {training.settings.run.precision}, {plan.steps:,} steps of "
            f"{plan.batch} {'pair' if plan.batch == 1 else 'pairs'}"
            + (f", going on from step {training.step:,}" if training.step else "")
        )
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(
            f"stage {number}", total=plan.steps, completed=training.step, state=""
        )
        self._first, self._began = training.step, time.monotonic()

    def progress(self, step: int, loss: float) -> None:
        """Move the bar."""
        assert self._task is not None
        rate = (step - self._first) / (time.monotonic() - self._began)
        state = f"loss {loss:.3f}, {rate:.2f} steps/s"
        self._bars.update(self._task, completed=step, state=state)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Print the metrics of a validation."""
        values = (f"{name} {value:.4g}" for name, value in metrics.items())
        self._say(", ".join(values))

    def _say(self, text: str) -> None:
        self._bars.console.print(text, soft_wrap=True, highlight=False)


@contextmanager
def _until_signalled() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into an answer; the second does what it always does."""
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(seen)
    finally:
        restore()


@app.command("train")
def main(
    config: Annotated[
        Path,
        typer.Argument(help=f"TOML file, or one that comes along: {', '.join(shipped())}."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the run; default: runs/NAME of CONFIG."),
    ] = None,
    stage: Annotated[str, typer.Option(help="all, or one number; 1 is the coarsest.")] = "all",
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda[:N]; default: what CONFIG says.")
    ] = None,
) -> None:
    """Train the stages of a model as CONFIG says; run it again to go on after an interruption."""
    with one_sentence_errors():
        file = config if config.is_file() else shipped().get(str(config).removesuffix(".toml"))
        if file is None:
            raise InputError(
                f"there is no file {config}: give a TOML file or one of {', '.join(shipped())}"
            )
        values = read_toml(file)
        training = values.get("training", {})
        if device is not None and isinstance(training, dict):
            values["training"] = {**training, "device": device}
        # The data of settings that come along are looked for here, not in the package.
        settings = Settings.from_dict(values, config.parent if file == config else Path())
        index = _index(stage, len(settings.stages))
        folder = RunFolder(output or Path("runs") / file.stem)
        if not log.tensorboard_installed():
            typer.echo(log.MISSING)
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        with (
            _until_signalled() as signalled,
            Progress(
                *columns, console=console, transient=True, disable=not sys.stderr.isatty()
            ) as bars,
        ):
            try:
                finished = train(settings, folder, _Terminal(bars), index, signalled)
            except NotFiniteError as error:
                typer.echo(f"Error: {error}", err=True)
                raise typer.Exit(1) from error
            except torch.OutOfMemoryError as error:
                raise InputError(
                    "the device has too little memory for a step: give a smaller batch or size"
                ) from error
            except (OSError, ModuleNotFoundError) as error:
                raise InputError(str(error)) from error
    if not finished:
        typer.echo(f"stopped and saved in {folder.path}: run the same command to go on", err=True)
        raise typer.Exit(130)
    typer.echo(f"trained: {folder.path}")
    if folder.weights.is_file():
        typer.echo(f"wrote {folder.weights}: rwcnet-export --weights makes a bundle of it")


def _index(stage: str, count: int) -> int | None:
    numbers = [str(n + 1) for n in range(count)]
    if stage != "all" and stage not in numbers:
        raise InputError(f"there is no stage {stage}: choose all, {', '.join(numbers)}")
    return None if stage == "all" else numbers.index(stage)


if __name__ == "__main__":
    app()
