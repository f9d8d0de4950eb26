"""A registration that no network made, so that a report of it takes no time."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from rwcnet_runtime.findings import findings
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.preprocess import normalise
from rwcnet_runtime.registration import Registration
from rwcnet_runtime.volumes import read_volume

# A file may be called so, and must not become part of the page.
NAME = "<script>alert(1)</script> & 'so'.nii.gz"


def a_bump(shape, height_vox):
    """Displace along i, smoothly, most in the middle."""
    places = np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    flow = np.zeros((3, *shape), np.float32)
    flow[0] = height_vox * np.exp(-0.5 * np.sum((places / 6) ** 2, axis=0))
    return flow


def made(fixed_path: Path, moving_path: Path, height_vox: float) -> Registration:
    fixed, moving = read_volume(fixed_path), read_volume(moving_path)
    start = Mapping(fixed.grid, moving.grid)
    mapping = Mapping(fixed.grid, moving.grid, flow_vox=a_bump(fixed.grid.shape, height_vox))
    images = [normalise(volume.data) for volume in (fixed, moving)]
    displacement = mapping.displacement_mm()
    found = findings(
        images[0],
        start.resample(images[1]),
        mapping.resample(images[1]),
        mapping,
        displacement,
        fixed.grid,
    )
    report = {
        "date": datetime(2026, 11, 28, tzinfo=UTC).isoformat(),
        "fixed": str(fixed.path),
        "moving": str(moving.path),
        "backend": "onnxruntime",
        "bundle": {"name": "base <b>", "sha256": "8d47"},
        "refinement_losses": [0.6, 0.5],
        **found,
        "seconds": {"stage1": 1.5, "warp": 0.25},
    }
    warped = mapping.resample(moving.data)
    start = mapping.initial
    return Registration(fixed, moving, mapping, warped, displacement, report, fixed.path, start)


@pytest.fixture
def registration(make_grid, save_phantom):
    """A little displaced, of images on different grids, the fixed one anisotropic."""
    moving = save_phantom(make_grid("PSR", scale=1.1), "moving.nii.gz")
    fixed = save_phantom(make_grid("anisotropic"), "fixed.nii.gz")
    named = fixed.rename(fixed.with_name(NAME.replace("/", "-")))
    return made(named, moving, 2.0)
