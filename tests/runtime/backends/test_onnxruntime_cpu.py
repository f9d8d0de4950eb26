import subprocess
import sys

import pytest

# Largest memory of the process, in MB, after one patch of the last stage, after a whole cascade of
# several, and after another one. Not `ru_maxrss`, which starts at what the parent once had.
MEASURE = """
from dataclasses import replace
from pathlib import Path
import numpy as np
from rwcnet_runtime import patches
from rwcnet_runtime.backends.onnxruntime_cpu import Session
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade

def largest():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

patches.VOXELS_AT_ONCE = 1  # one patch after the other
bundle = Bundle.open()
image = np.random.default_rng(0).random((1, 1, 56, 64, 120), dtype=np.float32)
before = largest()
Session(bundle.stage_path(2, "fp32")).run(fixed=image[..., :56], moving=image[..., :56])
alone = largest()
for _ in range(2):
    cascade = Cascade(bundle)
    cascade.entries = tuple(replace(e, patch=e.patch and 64) for e in cascade.entries)
    cascade.run(image, image)
    print(alone - before, largest() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sessions_share_their_memory_and_a_second_pair_takes_no_more():
    ran = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    (alone, first), (_, second) = (map(float, line.split()) for line in ran.stdout.splitlines())
    assert alone > 100
    # With a pool for each session, or with plans of memory, it is more than twice as much.
    assert first < 1.8 * alone
    assert second < first + 30
