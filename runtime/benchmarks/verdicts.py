"""Whether the verdict tells registrations that worked from those that did not.

    python runtime/benchmarks/verdicts.py -o runtime/benchmarks/results/DATE-verdicts.json
    python runtime/benchmarks/verdicts.py --only brain -o brains.json
    python runtime/benchmarks/verdicts.py --again brains.json others.json -o NEW.json

Registers pairs that are fine (of the cases in ``cases/``, from their stored affine) and pairs that
are not: another organ, mirrored, upside down, far from where they belong, noise, the same file
twice. The third form judges what earlier runs found, with the limits of today. Data are read from
``RWCNET_DATA``, by default ``../shared/data``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from draw_cases import CASES, DATA
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.evaluation import Case, measure, read_cases
from rwcnet_runtime.evaluation.summary import environment, jsonable
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.registrar import Registrar
from rwcnet_runtime.verdict import judge
from rwcnet_runtime.volumes import Volume, read_volume, write_volume

HIPPOCAMPI = 50
FAR_MM = 60.0
FINE, FINE_TWO = "fine", "fine, T1 and T2"
# Words in the names of pairs, and what such a pair is; any other is fine.
KINDS = {
    "t1-to-t2": FINE_TWO,
    "hippocampus-25": "elsewhere",  # a Dice of 0.04 at the start: the stored affine is wrong
    "moving": "another organ, or noise",
    " off": "elsewhere",
    "aside": "elsewhere",
    "no start": "elsewhere",
    "mirrored": "mirrored",
    "upside down": "turned",
    "back to front": "turned",
    "on its side": "turned",
    "twice": "the same file twice",
}
TRUTH = ("dice_before", "dice_after", "tre_mm_before", "tre_mm_after")

Change = Callable[[Volume], Volume]


@dataclass(frozen=True)
class Trial:
    """A pair of files, where to start, and the case that it is, if there is a truth."""

    name: str
    fixed: Path
    moving: Path
    initial: Path | None = None
    case: Case | None = None


def moved(volume: Volume, millimetres: NDArray[np.float64]) -> Volume:
    """Return a volume somewhere else in the world, as many mm (RAS) away."""
    affine = volume.grid.affine.copy()
    affine[:3, 3] += millimetres
    return on(volume, volume.data, affine)


def on(volume: Volume, data: NDArray[np.float32], affine: NDArray[np.float64]) -> Volume:
    """Return a volume with other voxels."""
    grid = ImageGrid(data.shape, affine)
    return replace(volume, data=data, grid=grid, stored_grid=grid)


def halved(volume: Volume) -> Volume:
    """Return a volume of voxels twice as large, which takes an eighth of the time."""
    i, j, k = (size // 2 for size in volume.grid.shape)
    blocks = volume.data[: 2 * i, : 2 * j, : 2 * k].reshape(i, 2, j, 2, k, 2)
    larger = np.diag([2.0, 2.0, 2.0, 1.0])
    larger[:3, 3] = 0.5
    return on(volume, blocks.mean((1, 3, 5), dtype=np.float32), volume.grid.affine @ larger)


def flipped(axis: int) -> Change:
    """Return what mirrors the voxels along an axis and leaves the header as it is."""
    return lambda volume: on(
        volume, np.ascontiguousarray(np.flip(volume.data, axis)), volume.grid.affine
    )


def turned(volume: Volume) -> Volume:
    """Return a volume lying on its side: axes i and k swapped."""
    data = np.ascontiguousarray(np.flip(volume.data.transpose(2, 1, 0), 0))
    return centred(on(volume, data, volume.grid.affine), volume)


def centred(volume: Volume, other: Volume) -> Volume:
    """Return a volume brought to the centre of another."""
    centres = [x.grid.world_from_voxel((np.array(x.grid.shape) - 1) / 2) for x in (other, volume)]
    return moved(volume, centres[0] - centres[1])


def noise(volume: Volume) -> Volume:
    """Return noise in the place of a volume."""
    values = np.random.default_rng(0).random(volume.grid.shape, dtype=np.float32)
    return on(volume, values, volume.grid.affine)


def draw(folder: Path) -> Iterator[Trial]:
    """Make the pairs; files that exist nowhere else go to `folder`."""
    cases = {
        case.name: case for path in sorted(CASES.glob("*.csv")) for case in read_cases(path, DATA)
    }
    hippocampi = [f"hippocampus-{n:02}" for n in range(1, HIPPOCAMPI + 1)]
    hippocampus, other_hippocampus = (cases[name] for name in hippocampi[:2])
    liver, lung, spine = (cases[x] for x in ("liver-state-6", "lung-followup", "spine-t1-to-t2"))
    abdomen = DATA / "abdomen_ct/example_ct.nii.gz"

    def saved(name: str, path: Path, *changes: Change) -> Path:
        volume = read_volume(path)
        for change in changes:
            volume = change(volume)
        write_volume(folder / f"{name}.nii.gz", volume.data, volume)
        return folder / f"{name}.nii.gz"

    def changed(name: str, case: Case, *changes: Change) -> Trial:
        moving = saved(name, case.moving, *changes)
        return Trial(name, case.fixed, moving, case.initial_transform)

    def instead(name: str, case: Case, path: Path) -> Trial:
        still = read_volume(case.fixed)
        return Trial(name, case.fixed, saved(name, path, lambda x: centred(x, still)))

    def aside(*axes: float) -> Change:
        return lambda volume: moved(volume, FAR_MM * np.array(axes))

    for name in (*hippocampi, "liver-state-6", "liver-state-9", "lung-followup", "spine-t1-to-t2"):
        case = cases[name]
        yield Trial(name, case.fixed, case.moving, case.initial_transform, case)
    yield instead("hippocampus, moving a spine", hippocampus, spine.moving)
    yield instead("spine, moving a hippocampus", spine, hippocampus.moving)
    yield instead("liver, moving a lung", liver, lung.moving)
    yield instead("lung, moving an abdomen", lung, abdomen)
    yield changed("hippocampus mirrored", hippocampus, flipped(0))
    yield changed("hippocampus upside down", other_hippocampus, flipped(2))
    yield changed("hippocampus back to front", other_hippocampus, flipped(1))
    yield changed("hippocampus 20 mm off", hippocampus, lambda x: moved(x, np.array([0, 20.0, 0])))
    yield changed("liver mirrored", liver, flipped(0))
    yield changed("liver upside down", liver, flipped(2))
    yield changed("liver 60 mm off", liver, aside(1, 0, 0))
    yield changed("lung mirrored", lung, flipped(0))
    yield changed("lung upside down", lung, flipped(2))
    yield changed("lung 60 mm off", lung, aside(0, 1, 0))
    yield changed("hippocampus, moving noise", hippocampus, noise)
    yield changed("liver, moving noise", liver, noise)
    yield changed("spine upside down", spine, flipped(2))
    yield changed("liver 1000 mm off", liver, lambda x: moved(x, np.array([1000.0, 0, 0])))
    for case in (hippocampus, liver):
        yield Trial(f"{case.name}, same file twice", case.fixed, case.fixed)

    for name in ("brain-2-to-1", "brain-6-to-3", "brain-3-to-4"):
        case = cases[name]
        half = [saved(f"{name} {x}", getattr(case, x), halved) for x in ("fixed", "moving")]
        yield Trial(f"{name} at 2 mm", half[0], half[1], case.initial_transform)
        if name != "brain-2-to-1":
            continue
        brain = replace(case, fixed=half[0], moving=half[1])
        yield changed("brain mirrored", brain, flipped(0))
        yield changed("brain upside down", brain, flipped(2))
        yield changed("brain back to front", brain, flipped(1))
        yield changed("brain on its side", brain, turned)
        yield changed("brain 60 mm off", brain, aside(0, 0, 1))
        yield changed("brain 60 mm aside", brain, aside(1, 0, 0))
        yield changed("brain, moving noise", brain, noise)
        yield Trial("brain, no start", *half)
        yield instead("brain, moving an abdomen", brain, abdomen)
    for name in ("colin27-to-mni", "brain-2-to-1"):
        case = cases[name]
        yield Trial(name, case.fixed, case.moving, case.initial_transform, case)


def kind_of(name: str) -> str:
    """Return what a pair is."""
    return next((kind for word, kind in KINDS.items() if word in name), FINE)


def run(trial: Trial, registrar: Registrar) -> dict[str, Any]:
    """Register a pair and return what was found and how it is judged."""
    row: dict[str, Any] = {"pair": trial.name, "kind": kind_of(trial.name)}
    try:
        found = registrar.register(trial.fixed, trial.moving, initial_transform=trial.initial)
    except InputError as error:
        return row | {
            "verdict": {"level": "refused", "reasons": [re.sub(r"/\S+/", "", str(error))]}
        }
    if trial.case is not None:
        truth = measure(trial.case, found.fixed, found.moving, found.displacement_mm)
        row |= {name: truth[name] for name in TRUTH if name in truth}
    keys = (
        "similarity",
        "overlap",
        "displacement_mm",
        "jacobian_determinant",
        "flow_vox",
    )
    row["findings"] = {key: found.report[key] for key in keys}
    row["seconds"] = found.report["seconds"]
    return row | {"verdict": asdict(judge(found.report))}


def text_of(report: dict[str, Any]) -> str:
    """Return a report as JSON."""
    return json.dumps(jsonable(report, digits=4), indent=1, allow_nan=False) + "\n"


def main() -> None:
    """Register and judge, or judge again, and write one JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", type=Path, nargs="+", help="JSON of earlier runs")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="pairs whose names have these words"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON to write")
    parser.add_argument("--threads", type=int, default=1, help="%(default)s")
    options = parser.parse_args()
    if options.again:
        reports = [json.loads(path.read_text()) for path in options.again]
        report = reports[0] | {"results": [row for each in reports for row in each["results"]]}
        for row in report["results"]:
            if "findings" in row:
                row["verdict"] = asdict(judge(row["findings"]))
    else:
        registrar = Registrar(threads=options.threads)
        report = {"environment": environment(), "bundle_sha256": registrar.bundle.sha256}
        report["results"] = rows = []
        with tempfile.TemporaryDirectory() as folder:
            for trial in draw(Path(folder)):
                if any(word in trial.name for word in options.only):
                    rows.append(run(trial, registrar))
                    print(f"{datetime.now():%H:%M:%S} {trial.name}", file=sys.stderr, flush=True)
                    options.output.write_text(text_of(report))
    options.output.write_text(text_of(report))
    for row in report["results"]:
        print(f"{row['verdict']['level']:8} {row['kind']:24} {row['pair']}")


if __name__ == "__main__":
    main()
