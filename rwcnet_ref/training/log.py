"""Metrics of a stage: a line of JSON each, and TensorBoard's files where it is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

MISSING = "no event files: TensorBoard is not installed (pip install tensorboard)"


def tensorboard_installed() -> bool:
    """Whether event files can be written."""
    return find_spec("tensorboard") is not None


class Log:
    """Writes metrics.

    Parameters
    ----------
    lines
        File of JSON lines. Lines of steps later than `step` are dropped: they will come again.
    events
        Folder of TensorBoard's files.
    step
        Where training goes on.
    """

    def __init__(self, lines: Path, events: Path, step: int) -> None:
        self._lines = lines
        if lines.is_file():
            kept = [line for line in lines.read_text().splitlines() if _step(line) <= step]
            temporary = lines.with_name(lines.name + ".tmp")
            temporary.write_text("".join(f"{line}\n" for line in kept))
            temporary.replace(lines)
        self._events = None
        if tensorboard_installed():
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(events), purge_step=step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of a step."""
        with self._lines.open("a") as file:
            # JSON has no word for what is not finite.
            values = {n: x if math.isfinite(x) else None for n, x in metrics.items()}
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()

    def close(self) -> None:
        """Close the files."""
        if self._events is not None:
            self._events.close()


def _step(line: str) -> float:
    """Return the step of a line; infinity for one that an interruption cut short."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")
