"""Register two arrays of one shape with ConvexAdam, inside the environment `convexadam`.

The time is that of `convex_adam_pt`, from arrays to a displacement in voxels.
"""

from __future__ import annotations

import child


def main() -> None:
    """Run the job and save the displacement, (i, j, k, 3) in voxels."""
    job = child.read_job()
    import numpy as np
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(job["threads"])
    fixed, moving = np.load(job["fixed"]), np.load(job["moving"])
    found, spent = child.timed(
        job, lambda: convex_adam_pt(fixed, moving, device=torch.device("cpu"), **job["settings"])
    )
    child.write_outcome(job, spent, ["convexadam", "torch", "numpy"])
    np.save(job["result"], found.astype(np.float32))


if __name__ == "__main__":
    main()
