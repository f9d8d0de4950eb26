"""Register two image files with the bundle inside the package, in the environment of the caller.

The time on the clock is that of a `Registrar` that is open, without reading the files and assessing
the result; memory and the cores' seconds are those of all of it (see `METHODS`). Settings are those
of `Registrar`; "torch" among them, "fp32" or "bf16", puts the reference model in its place.
"""

from __future__ import annotations

import statistics
from typing import Any

import child

NOT_COUNTED = {"read", "assess"}


def main() -> None:
    """Run the job and save the displacement, (i, j, k, 3) in RAS+ mm."""
    job = child.read_job()
    import numpy as np

    from rwcnet_runtime import Registrar

    settings = dict(job["settings"])
    eager = settings.pop("torch", None)
    registrar = Registrar(threads=job["threads"], **settings)
    packages = ["rwcnet", "numpy", registrar.backend.program]
    if eager is not None:
        from torch_cascade import TorchCascade

        # No option of the runtime, which knows no PyTorch.
        registrar._cascade = TorchCascade(eager, job["threads"])  # type: ignore[assignment]
        packages.append("torch")
    each: list[dict[str, float]] = []

    def work() -> Any:
        found = registrar.register(job["fixed"], job["moving"], initial_transform=job["start"])
        each.append(found.report["seconds"])
        return found

    found, spent = child.timed(job, work)
    parts = {name: statistics.median(run[name] for run in each) for name in each[0]}
    counted = [sum(s for name, s in run.items() if name not in NOT_COUNTED) for run in each]
    spent["seconds"] = round(statistics.median(counted), 3)
    spent["seconds_each"] = [round(seconds, 3) for seconds in counted]
    child.write_outcome(job, spent, packages, parts=parts)
    np.save(job["result"], found.displacement_mm)


if __name__ == "__main__":
    main()
