"""What the working grid does: memory and time of a large CT, and what cropping changes on brains.

    python runtime/benchmarks/working_grid.py large -o runtime/benchmarks/results/DATE-large.json
    python runtime/benchmarks/working_grid.py crop -o runtime/benchmarks/results/DATE-crop.json

The CT is made up: 512 x 512 x 300 voxels of 0.7 x 0.7 x 1 mm, organs in a body in air, shifted by a
few millimetres, new noise. It is registered and saved in a process of its own, as on a machine of
so much memory. The brains are the first of ``cases/brain_trt.csv`` in ``RWCNET_DATA``. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from draw_cases import DATA

from rwcnet_runtime import Bundle, Registrar, preparation
from rwcnet_runtime.evaluation import read_cases
from rwcnet_runtime.evaluation.measures import measure
from rwcnet_runtime.evaluation.summary import environment
from rwcnet_runtime.memory import Memory

SHAPE, SPACING_MM, SHIFT_MM = (512, 512, 300), (0.7, 0.7, 1.0), np.array([6.0, -5.0, 4.0])
BODY_MM = (150, 110)  # half axes
CASES = Path(__file__).parent / "cases/brain_trt.csv"
BRAINS = 2


def make_ct(path: Path, noise_seed: int, shift_mm: np.ndarray) -> None:
    """Write a body with 15 organs."""
    organs = np.random.default_rng(5)
    centres, radii = organs.uniform(-80, 80, (15, 3)), organs.uniform(8, 30, 15)
    contrasts, noise = organs.uniform(-80, 140, 15), np.random.default_rng(noise_seed)
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = -np.array(SPACING_MM) * (np.array(SHAPE) - 1) / 2
    x, y, z = (
        np.arange(n) * mm + start - moved
        for n, mm, start, moved in zip(SHAPE, SPACING_MM, affine[:3, 3], shift_mm, strict=True)
    )
    air = (x[:, None] / BODY_MM[0]) ** 2 + (y / BODY_MM[1]) ** 2 > 1
    voxels = np.empty(SHAPE, np.int16)
    for k, height in enumerate(z):
        plane = 40 + noise.normal(0, 15, air.shape)
        for (a, b, c), radius, contrast in zip(centres, radii, contrasts, strict=True):
            along_x, along_y = (
                np.exp(-((at - centre) ** 2) / (2 * radius**2)) for at, centre in ((x, a), (y, b))
            )
            strength = contrast * np.exp(-((height - c) ** 2) / (2 * radius**2))
            plane += strength * np.outer(along_x, along_y)
        voxels[:, :, k] = plane - 1040 * air
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)


def peak_gb() -> float:
    """Return the most memory that this process has held so far."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert found
    return round(int(found[1]) * 1024 / 1e9, 2)


def run_large(folder: Path, backend: str, limit_gb: float) -> None:
    """Register the CT as on a machine of so much memory, and write what it took."""
    preparation.memory_at_hand = lambda: Memory(int(limit_gb * 1e9), None)
    begun = time.perf_counter()
    registrar = Registrar(backend=backend)
    found = registrar.register(folder / "fixed.nii", folder / "moving.nii")
    spent, registered_gb = time.perf_counter() - begun, peak_gb()
    found.save(folder / "out")
    inside = found.displacement_mm[128:-128:8, 160:-160:8, 40:-40:8]
    outcome = {
        "backend": backend,
        "threads": registrar.backend.threads,
        "limit_gb": limit_gb,
        "working_grid": found.report["working_grid"],
        "peak_gb": {"registered": registered_gb, "saved": peak_gb()},
        "seconds": {"register": spent, "save": time.perf_counter() - begun - spent},
        "seconds_of_parts": found.report["seconds"],
        "error_mm": {
            "before": float(np.linalg.norm(SHIFT_MM)),
            "after": float(np.linalg.norm(inside - SHIFT_MM, axis=-1).mean()),
        },
        "jacobian_determinant": found.report["jacobian_determinant"],
    }
    (folder / "outcome.json").write_text(json.dumps(outcome))


def large(backends: list[str], limit_gb: float) -> list[dict[str, Any]]:
    """Run each backend in a process of its own."""
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_ct(folder / "fixed.nii", 1, np.zeros(3))
        make_ct(folder / "moving.nii", 2, SHIFT_MM)
        for backend in backends:
            child = multiprocessing.get_context("spawn").Process(
                target=run_large, args=(folder, backend, limit_gb)
            )
            child.start()
            child.join()
            if child.exitcode:
                raise SystemExit(f"{backend} failed")
            outcomes.append(json.loads((folder / "outcome.json").read_text()))
            (folder / "outcome.json").unlink()
    return outcomes


def crop(backend: str) -> list[dict[str, Any]]:
    """Register brains cropped and whole."""
    registrar, outcomes = Registrar(backend=backend), []
    cropping = preparation.foreground_box
    for case in read_cases(CASES, DATA)[:BRAINS]:
        displacements = {}
        outcome: dict[str, Any] = {"case": case.name}
        for kind in ("cropped", "whole"):
            preparation.foreground_box = (
                cropping
                if kind == "cropped"
                else lambda *previews: tuple(slice(0, n) for n in previews[0].shape)
            )
            found = registrar.register(
                case.fixed, case.moving, initial_transform=case.initial_transform
            )
            displacements[kind] = found.displacement_mm
            row = measure(case, found.fixed, found.moving, found.displacement_mm)
            outcome[kind] = {
                "working_grid": found.report["working_grid"],
                "seconds": sum(found.report["seconds"].values()),
            } | {name: value for name, value in row.items() if isinstance(value, float)}
        data = found.fixed.data
        apart = displacements["cropped"] - displacements["whole"]
        apart_mm = np.linalg.norm(apart, axis=-1)[data > 0.1 * np.percentile(data, 99)]
        outcome["apart_in_the_head_mm"] = {
            "mean": float(apart_mm.mean()),
            "p99": float(np.percentile(apart_mm, 99)),
            "max": float(apart_mm.max()),
        }
        outcomes.append(outcome)
    return outcomes


def main() -> None:
    """Run one of the two and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("large", "crop"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--backends", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--limit-gb", type=float, default=4.0)
    options = parser.parse_args()
    results = (
        large(options.backends, options.limit_gb)
        if options.what == "large"
        else crop(options.backends[0])
    )
    report = {
        "environment": environment(),
        "bundle_sha256": Bundle.open().sha256,
        "results": results,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
