"""The reference model in the place of a bundle's cascade, for comparison."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from rwcnet_ref.checkpoint import load_weights, shipped


class TorchCascade:
    """Runs the shipped weights in PyTorch, eagerly.

    Parameters
    ----------
    engine
        "fp32", or "bf16": what PyTorch's autocast makes of it.
    threads
        CPU threads.
    """

    def __init__(self, engine: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = load_weights(shipped("base"))[0].eval()
        self._lower = {
            "fp32": contextlib.nullcontext,
            "bf16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        }[engine]

    def run(
        self,
        fixed: NDArray[np.float32],
        moving: NDArray[np.float32],
        progress: Callable[[str, float], None],
    ) -> tuple[NDArray[np.float32], dict[str, float]]:
        """Return the flow and the seconds it took, as `rwcnet_runtime.cascade.Cascade.run`."""
        start = time.perf_counter()
        with torch.inference_mode(), self._lower():
            flow = self._model(torch.from_numpy(fixed), torch.from_numpy(moving)).float().numpy()
        return flow, {"network": time.perf_counter() - start}
