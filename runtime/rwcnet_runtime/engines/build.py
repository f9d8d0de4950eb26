"""Run a job in a child process: a parser or builder that aborts ends that process alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rwcnet_runtime.engines.products import Product
from rwcnet_runtime.engines.profile import Profile
from rwcnet_runtime.errors import BackendError

LIMIT_S = 1800.0


def build(
    product: Product,
    onnx: Path,
    plan: Path,
    profile: Profile,
    *,
    gpu: bool,
    plugin: bool,
    timing_cache: tuple[Path, Path] | None = None,
    limit_s: float = LIMIT_S,
) -> dict[str, Any]:
    """Build the engine of one graph.

    Parameters
    ----------
    product
        What to build with.
    onnx
        A graph whose inputs are (b, c, i, j, k) with dynamic b, i, j, k.
    plan
        Where the serialised engine goes; there may be part of one after an error.
    profile
        Sizes that the engine is to accept of each input.
    gpu
        Whether there is a GPU to load the engine on, for the summary.
    plugin
        Whether the local correlation is our kernel instead of its function body.
    timing_cache
        Where measured times were kept and where they go, which may be one place.
    limit_s
        The child is killed after this many seconds.

    Returns
    -------
    dict
        What the engine inspector says in short: see `rwcnet_runtime.engines.child.summarise`;
        without a GPU the same of the parsed network, and ``of`` is "network".

    Raises
    ------
    BackendError
        If no engine was built.
    """
    job = {
        "task": "build",
        "plan": str(plan),
        "profile": profile,
        "gpu": gpu,
        "plugin": plugin,
        "timing_cache": timing_cache and {"old": str(timing_cache[0]), "new": str(timing_cache[1])},
    }
    return _run(product, onnx, job, limit_s)


def parse(product: Product, onnx: Path, *, limit_s: float = 120) -> dict[str, Any]:
    """Ask a product's parser what it does not take.

    Returns
    -------
    dict
        ``nodes``, how many the graph has outside of functions, and ``refused``, a text for each
        operator that stops it.

    Raises
    ------
    BackendError
        If it gave no answer.
    """
    return _run(product, onnx, {"task": "parse"}, limit_s)


def _run(product: Product, onnx: Path, job: dict[str, Any], limit_s: float) -> dict[str, Any]:
    program = f"{product.title} {product.version}"
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "rwcnet_runtime.engines.child"],
            input=json.dumps(job | {"module": product.module, "onnx": str(onnx)}),
            # Whatever this process imports from, the child does.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
            capture_output=True,
            text=True,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired as error:
        raise BackendError(
            f"{program} was not done with {onnx} after {limit_s:g} s and was stopped: give fewer "
            "or smaller sizes, or build on a faster machine"
        ) from error
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        if name == "SIGKILL":
            raise BackendError(
                f"{program} was killed while it was at {onnx}, most likely because memory ran out: "
                "give a smaller --shape, or more memory"
            )
        raise BackendError(f"{program} crashed on {onnx} with {name}: try another version of it")
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BackendError(f"{program} failed on {onnx}: {reason}")
    lines = child.stdout.splitlines()
    if not lines:
        raise BackendError(f"{program} ended without a word on {onnx}: try another version of it")
    result: dict[str, Any] = json.loads(lines[-1])
    return result
