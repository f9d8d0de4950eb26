"""The scripts of runtime/benchmarks are no package: they find each other as scripts do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "runtime" / "benchmarks"))
