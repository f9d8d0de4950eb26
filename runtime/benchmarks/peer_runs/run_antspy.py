"""Register two image files with ANTsPy, inside the environment `antspy`.

The time is that of `ants.registration`, which writes its transforms to files itself.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import child

SEED = 1


def main() -> None:
    """Run the job and move the one file asked for to its place."""
    job = child.read_job()
    import ants  # counts cores

    # Only the seed of the sampling is wanted: `on` refuses most transforms.
    ants.config.set_ants_deterministic(on=False, seed_value=SEED)
    fixed, moving = ants.image_read(job["fixed"]), ants.image_read(job["moving"])
    with tempfile.TemporaryDirectory() as folder:
        _, spent = child.timed(
            job,
            lambda: ants.registration(fixed, moving, outprefix=f"{folder}/", **job["settings"]),
        )
        child.write_outcome(job, spent, ["antspyx", "numpy"])
        (written,) = Path(folder).glob(job["written"])
        shutil.move(written, job["result"])


if __name__ == "__main__":
    main()
