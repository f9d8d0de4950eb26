import subprocess
import sys

import pytest

# Largest memory of the process after stages of different graphs, and again after a second pair.
MEASURE = """
import resource
import numpy as np
from rwcnet_runtime.backend import Session
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.cascade import Cascade

def largest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

bundle = Bundle.open()
image = np.random.default_rng(0).random((1, 1, 96, 96, 96), dtype=np.float32)
before = largest()
whole = Session(bundle.stage_path(2, "fp32"))
whole.run(fixed=image, moving=image)
alone = largest()
Cascade(bundle).run(image, image)
chained = largest()
Cascade(bundle).run(image, image)
print(alone - before, chained - before, largest() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module on Windows")
def test_sessions_share_their_memory_and_a_second_pair_takes_no_more():
    ran = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    alone, chained, again = map(float, ran.stdout.split())
    # In MB. With a pool of its own for each session, the chain takes three times `alone`.
    assert chained < 1.3 * alone
    assert again < chained + 60
