"""Make the environments of the peers, and run scripts in them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwcnet_runtime.errors import RwcnetError

REQUIREMENTS = {
    "antspy": ("antspyx==0.6.3", "numpy==2.3.5"),
    # torch comes first: pip takes the CPU build where its index offers one.
    "convexadam": ("torch==2.13.0", "convexadam==0.2.0", "numpy==2.4.6"),
}
"""What each environment is made from; the rest is what these need."""

# The names libraries take a number of threads from.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


class PeerError(RwcnetError):
    """A peer could not be installed, or failed on a pair."""


def make_environment(name: str, folder: Path) -> Path:
    """Make the environment `name` below `folder`, unless it is there, and return its Python.

    Raises
    ------
    PeerError
        If pip fails.
    """
    home = folder / name
    python, made_from = home / "bin" / "python", home / "requirements.txt"
    wanted = "".join(f"{requirement}\n" for requirement in REQUIREMENTS[name])
    if made_from.is_file() and made_from.read_text() == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError(
                f"The environment {home} could not be made ({_last_line(done)}); see that "
                f"{' '.join(REQUIREMENTS[name])} can be installed here, or leave its methods out "
                "with --methods."
            )
    made_from.write_text(wanted)  # last: an environment without it is made again
    return python


@dataclass(frozen=True)
class Launcher:
    """Runs scripts of this folder, each as a process of its own.

    Attributes
    ----------
    environments : Path
        Folder of the environments; one is made when it is first needed.
    threads : int
        Threads and CPU cores that a script gets.
    repeats : int
        How often a script does its work, for the median of its time.
    """

    environments: Path
    threads: int
    repeats: int = 1

    def run(self, environment: str | None, script: str, job: dict[str, Any]) -> dict[str, Any]:
        """Run a script on a job, and return the outcome it writes.

        Parameters
        ----------
        environment
            Name of a peer's environment; none is that of this process.
        script
            A file of this folder.
        job
            What the script reads, as JSON can hold it.

        Raises
        ------
        PeerError
            If the environment cannot be made, or the script fails.
        """
        python = (
            Path(sys.executable)
            if environment is None
            else make_environment(environment, self.environments)
        )
        with tempfile.TemporaryDirectory() as name:
            job_file, outcome = Path(name, "job.json"), Path(name, "outcome.json")
            asked = {"threads": self.threads, "repeats": self.repeats, "outcome": str(outcome)}
            job_file.write_text(json.dumps(job | asked | {"started": time.time()}))
            done = subprocess.run(
                [python, Path(__file__).parent / script, job_file],
                env=os.environ | dict.fromkeys(_THREADS, str(self.threads)),
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise PeerError(
                    f"{script} stopped with exit code {done.returncode} ({_last_line(done)})."
                )
            found: dict[str, Any] = json.loads(outcome.read_text())
            return found


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else "it said nothing"
