"""Register two image files with the bundle inside the package, in the environment of the caller.

The time on the clock is that of `register` without loading the graphs, reading the files and
assessing the result; memory and the cores' seconds are those of all of it (see `METHODS`).
"""

from __future__ import annotations

import child

NOT_COUNTED = {"load", "read", "assess"}


def main() -> None:
    """Run the job and save the displacement, (i, j, k, 3) in RAS+ mm."""
    job = child.read_job()
    import numpy as np

    from rwcnet_runtime import register

    found, spent = child.timed(
        lambda: register(job["fixed"], job["moving"], initial_transform=job["start"])
    )
    parts = found.report["seconds"]
    counted = sum(seconds for part, seconds in parts.items() if part not in NOT_COUNTED)
    spent["seconds"] = round(counted, 3)
    child.write_outcome(job, spent, ["rwcnet", "onnxruntime", "numpy"], parts=parts)
    np.save(job["result"], found.displacement_mm)


if __name__ == "__main__":
    main()
