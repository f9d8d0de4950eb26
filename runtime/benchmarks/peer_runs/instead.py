"""What stands in the place of a bundle's cascade, for comparison."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from rwcnet_ref.checkpoint import load_weights, shipped


class Instead:
    """Finds flows as `rwcnet_runtime.cascade.Cascade` does, by other means.

    Parameters
    ----------
    what
        "zero", no displacement; or the shipped weights in PyTorch, eagerly: "torch fp32", or
        "torch bf16", what PyTorch's autocast makes of it.
    threads
        CPU threads.
    """

    def __init__(self, what: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._what = what
        self._model = load_weights(shipped("base"))[0].eval()

    def run(
        self,
        fixed: NDArray[np.float32],
        moving: NDArray[np.float32],
        progress: Callable[[str, float], None],
        *,
        integrated: bool,
    ) -> tuple[NDArray[np.float32], dict[str, float]]:
        """Return the flow and the seconds it took."""
        assert not integrated  # nobody compares that
        if self._what == "zero":
            return np.zeros((1, 3, *fixed.shape[2:]), np.float32), {"network": 0.0}
        lower = (
            torch.autocast("cpu", dtype=torch.bfloat16)
            if self._what == "torch bf16"
            else contextlib.nullcontext()
        )
        start = time.perf_counter()
        with torch.inference_mode(), lower:
            flow = self._model(torch.from_numpy(fixed), torch.from_numpy(moving)).float().numpy()
        return flow, {"network": time.perf_counter() - start}
