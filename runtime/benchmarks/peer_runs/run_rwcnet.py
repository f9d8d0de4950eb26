"""Register two image files with the bundle inside the package, in the environment of the caller.

The time on the clock is that of a `Registrar` that is open, without reading the files and assessing
the result; memory and the cores' seconds are those of all of it (see `METHODS`). Settings are those
of `Registrar`; "instead" among them puts something else in the place of the bundle's network.
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
    instead = settings.pop("instead", None)
    registrar = Registrar(threads=job["threads"], init="header", **settings)
    packages = ["rwcnet", "numpy", *registrar.backend.programs]
    if instead is not None:
        from instead import Instead

        # No option of the runtime, which knows no PyTorch.
        registrar._cascade = Instead(instead, job["threads"])  # type: ignore[assignment]
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
