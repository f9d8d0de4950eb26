"""What TensorRT and TensorRT-RTX say of their errors."""

from __future__ import annotations

from typing import Any


def error_log(trt: Any) -> Any:
    """Return a logger for a product's module that keeps errors, and prints nothing.

    Its ``found`` are their texts, ``last()`` is the last one in one line.
    """

    class Errors(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.found.append(message)

        def last(self) -> str:
            return " ".join((self.found or ["no reason given"])[-1].split())

    return Errors()
