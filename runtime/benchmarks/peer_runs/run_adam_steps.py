"""Time one step of ConvexAdam's Adam part on random images, inside the environment `convexadam`.

It is what more steps of `convex_adam_pt` take, divided by their number, the least of three: with
no displacement to choose from (disp_hw 0) all else is the same.
"""

from __future__ import annotations

import time

import child

_FEW, _MANY, _REPEATS = 2, 12, 3


def main() -> None:
    """Run the job: `size` of the images, on half of which the steps work."""
    job = child.read_job()
    import numpy as np
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(job["threads"])
    random = np.random.default_rng(0)
    fixed, moving = (random.random(job["size"], dtype=np.float32) for _ in range(2))

    def spent(steps: int) -> tuple[float, float]:
        start, cpu_start = time.perf_counter(), time.process_time()
        convex_adam_pt(fixed, moving, disp_hw=0, selected_niter=steps, device=torch.device("cpu"))
        return time.perf_counter() - start, time.process_time() - cpu_start

    spent(1)
    few, many = ([spent(steps) for _ in range(_REPEATS)] for steps in (_FEW, _MANY))
    clock, cpu = (
        (min(long) - min(short)) / (_MANY - _FEW)
        for long, short in zip(zip(*many, strict=True), zip(*few, strict=True), strict=True)
    )
    spent_by = {"seconds": round(clock, 4), "cpu_seconds": round(cpu, 4)}
    child.write_outcome(job, spent_by, ["convexadam", "torch", "numpy"])


if __name__ == "__main__":
    main()
