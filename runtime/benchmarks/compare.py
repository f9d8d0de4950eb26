"""Time, memory and accuracy of RWCNet by backend and precision, of PyTorch, and of peers.

    python runtime/benchmarks/compare.py -o runtime/benchmarks/results/DATE-compare.json
    python runtime/benchmarks/compare.py --growth -o runtime/benchmarks/results/DATE-growth.json
    python runtime/benchmarks/readme.py

All in one run on one machine, which should have nothing else to do: each method is a process of
its own, on the same threads, that registers the same pair several times; the medians count. The
pair is a case of the development data whose fixed image is cut to 160x192x224 voxels around the
head; every method starts from the stored affine. Then how much arithmetic the network is beside
what the machine does at most. With `--growth` it is the network alone, on images of several sizes
and on several numbers of threads. The file is written anew after each method. Data are read from
``RWCNET_DATA``. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from draw_cases import DATA
from flops import cascade_flops, peak
from peer_runs.environments import Launcher, make_environment
from peer_runs.methods import METHODS, Method, Pair

from rwcnet_runtime import Bundle, RwcnetError, read_volume
from rwcnet_runtime.backends.onnxruntime_cpu import Session
from rwcnet_runtime.backends.openvino import CompiledGraph
from rwcnet_runtime.evaluation import Case, evaluate_fields, read_cases
from rwcnet_runtime.evaluation.summary import environment, jsonable
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.volumes import write_displacement

Row = dict[str, Any]

SIZE = (160, 192, 224)
SIZES = ((64, 64, 64), (96, 96, 96), (128, 128, 128), (192, 192, 192), (256, 256, 256))
BACKENDS = {
    "onnxruntime fp32": {"backend": "onnxruntime", "engine": "fp32"},
    "onnxruntime fp16": {"backend": "onnxruntime", "engine": "fp16"},
    "openvino fp32": {"backend": "openvino", "engine": "fp32"},
    "openvino bf16": {"backend": "openvino", "engine": "bf16"},
}
# Without refinement, and with that of the bundle; PyTorch runs the same weights.
OURS: dict[str, Row] = {
    **{name: settings | {"refine": 0} for name, settings in BACKENDS.items()},
    "onnxruntime fp32 refined": {"backend": "onnxruntime"},
    "openvino bf16 refined": {"backend": "openvino", "engine": "bf16"},
    "refinement from zero": {"backend": "onnxruntime", "instead": "zero", "refine": 80},
    "torch fp32": {"backend": "onnxruntime", "instead": "torch fp32", "refine": 0},
    "torch bf16": {"backend": "onnxruntime", "instead": "torch bf16", "refine": 0},
}
PEERS = ("zero", "convexadam", "convex", "adam", "syn")


def say(text: str) -> None:
    """Tell how far the run is."""
    print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def cropped(case: Case, size: tuple[int, int, int], folder: Path) -> Case:
    """Cut the fixed image and labels of a case to a size (along RAS+ axes), around the head.

    Raises
    ------
    RwcnetError
        If an axis is shorter.
    """
    image = nib.as_closest_canonical(nib.load(case.fixed))
    if any(n < wanted for n, wanted in zip(image.shape, size, strict=True)):
        raise RwcnetError(f"{case.fixed} has {image.shape} voxels, fewer than {size}: choose less")
    data = np.asarray(image.dataobj)
    bright = np.argwhere(data > data.mean())
    middle = (bright.min(0) + bright.max(0) + 1) // 2
    starts = np.clip(middle - np.array(size) // 2, 0, np.array(image.shape) - size)
    i, j, k = (slice(int(a), int(a) + n) for a, n in zip(starts, size, strict=True))
    assert case.fixed_labels is not None
    paths = []
    for path in (case.fixed, case.fixed_labels):
        paths.append(folder / f"{len(paths)}-{path.name}")
        nib.save(nib.as_closest_canonical(nib.load(path)).slicer[i, j, k], paths[-1])
    return replace(case, fixed=paths[0], fixed_labels=paths[1])


def measured(name: str, method: Method, case: Case, folder: Path, launcher: Launcher) -> Row:
    """Run one method on a case and return its time, memory and accuracy, or its error."""
    say(name)
    start = case.initial_transform
    fixed, moving = read_volume(case.fixed), read_volume(case.moving)
    pair = Pair(fixed, moving, start and read_initial_transform(start), case)
    about: Row = {"about": method.about, "settings": method.settings}
    try:
        displacement_mm, outcome = method.run(pair, launcher, method.settings)
    except RwcnetError as error:
        say(str(error))
        return about | {"error": str(error)}
    write_displacement(folder / f"{case.name}.nii.gz", displacement_mm, fixed)
    (row,) = evaluate_fields([case], folder)
    keep = ("dice_before", "dice_after", "folded_percent", "sd_log_jacobian")
    return about | outcome | {key: row[key] for key in keep}


def growth(launcher: Launcher) -> list[Row]:
    """Return time and memory of the network, run once, as images and threads grow."""
    jobs = [(size, launcher.threads) for size in SIZES]
    jobs += [(SIZE, threads) for threads in range(1, launcher.threads + 1)]
    rows = []
    for name, settings in BACKENDS.items():
        if settings["engine"] == "fp16":  # as fp32 there
            continue
        for size, threads in jobs:
            say(f"{name}, {size}, {threads} threads")
            row: Row = {"backend": name, "size": size, "threads": threads}
            try:
                one = replace(launcher, threads=threads, repeats=1)
                row |= one.run(None, "run_cascade.py", settings | {"size": size})
            except RwcnetError as error:
                row["error"] = str(error)
            rows.append(row)
    return rows


def arithmetic(threads: int) -> Row:
    """Return how much the network computes, and what the machine does at most, by backend."""
    say("arithmetic")
    peaks = {
        "onnxruntime fp32": peak(partial(Session, threads=threads)),
        "openvino fp32": peak(partial(CompiledGraph, engine="fp32", threads=threads)),
        "openvino bf16": peak(partial(CompiledGraph, engine="bf16", threads=threads)),
    }
    return {"size": SIZE, "flop": cascade_flops(Bundle.open(), SIZE), "peak_flops": peaks}


def main() -> None:
    """Run everything and write one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--cases", type=Path, default=Path(__file__).parent / "cases/brain_trt.csv")
    parser.add_argument("--pair", type=int, default=1, help="which of the cases; %(default)s")
    parser.add_argument("--size", type=int, nargs=3, default=SIZE, help="of the fixed image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", default=",".join((*OURS, *PEERS)), help="%(default)s")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--environments", type=Path, default=Path("runs/peers/environments"))
    parser.add_argument("--growth", action="store_true", help="sizes and threads, no pair")
    options = parser.parse_args()
    launcher = Launcher(options.environments, options.threads, options.repeats)
    methods = {
        name: replace(METHODS["rwcnet"], settings=OURS[name]) if name in OURS else METHODS[name]
        for name in options.methods.split(",")
    }
    report: Row = {
        "environment": environment() | {"threads": options.threads},
        "bundle_sha256": Bundle.open().sha256,
        "repeats": options.repeats,
        "size": options.size,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.growth:
        _write(options.output, report | {"growth": growth(launcher)})
        return
    try:
        for name in {method.environment for method in methods.values()} - {None}:
            make_environment(name, options.environments)
        whole = read_cases(options.cases, DATA)[options.pair - 1]
        report |= {"case": whole.name, "results": {}}
        with tempfile.TemporaryDirectory() as name:
            i, j, k = options.size
            case = cropped(whole, (i, j, k), Path(name))
            for name_, method in methods.items():
                found = measured(name_, method, case, Path(name), launcher)
                report["results"][name_] = found
                _write(options.output, report)
        _write(options.output, report | {"arithmetic": arithmetic(options.threads)})
    except RwcnetError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def _write(path: Path, report: Row) -> None:
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    partial.write_text(json.dumps(jsonable(report, digits=4), allow_nan=False, indent=1) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    main()
