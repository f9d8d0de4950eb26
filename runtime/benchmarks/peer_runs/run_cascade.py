"""Run the cascade of the packaged bundle on random images, in the environment of the caller."""

from __future__ import annotations

import child


def main() -> None:
    """Run the job; the time is that of the network on images that are in memory."""
    job = child.read_job()
    import numpy as np

    from rwcnet_runtime import Bundle
    from rwcnet_runtime.backends.choose import open_cascade

    cascade, _ = open_cascade(Bundle.open(), job["engine"], job["backend"], job["threads"])
    images = np.random.default_rng(0).random((2, 1, 1, *job["size"]), dtype=np.float32)
    (_, parts), spent = child.timed(job, lambda: cascade.run(*images))
    child.write_outcome(job, spent, list(cascade.backend.programs), parts=parts)


if __name__ == "__main__":
    main()
