"""Phantoms: one anatomy, defined in the world, saved by grids of many orientations.

And the golden file of the published code, which tests of several packages compare with.
"""

import os
import signal
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from rwcnet_runtime.geometry import ImageGrid

# The processes that pytest-xdist starts ignore Ctrl-C, and so would those that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

Anatomy = Callable[[NDArray[np.float64]], NDArray[np.float64]]
SavePhantom = Callable[..., Path]

ORIENTATIONS = ["RAS", "LAS", "LPS", "PSR", "anisotropic", "oblique"]
RAS_SHAPE = np.array([36, 32, 28])

# Centre (RAS mm), radius (mm) and height of the blobs: no symmetry, so that no flip, no swap of
# axes and no small shift goes unseen; smooth, so that linear interpolation is good to 1 %.
BLOBS = [
    ((14.0, 5.0, -6.0), 11.0, 80.0),
    ((-16.0, 9.0, 8.0), 9.0, 50.0),
    ((3.0, -17.0, 4.0), 10.0, 65.0),
]


def _anatomy(points: NDArray[np.float64]) -> NDArray[np.float64]:
    intensity = 25 + points @ (0.08, -0.05, 0.11)  # not 0 at the border
    for centre, radius, height in BLOBS:
        squared = np.sum((points - centre) ** 2, axis=-1)
        intensity += height * np.exp(-0.5 * squared / radius**2)
    return intensity


def _grid(orientation: str, scale: float, centre: tuple[float, float, float]) -> ImageGrid:
    if orientation == "anisotropic":
        shape = np.array([48, 31, 25])
        edges = np.diag([1.5, 2.0, 2.4])
    elif orientation == "oblique":
        shape = np.array([30, 40, 26])
        edges = _rotation() @ np.diag([2.3, -1.6, 2.0])
    else:
        axes = [("LR".find(code), "PA".find(code), "IS".find(code)) for code in orientation]
        world_axes = [next(a for a in range(3) if found[a] >= 0) for found in axes]
        signs = [2 * found[a] - 1 for found, a in zip(axes, world_axes, strict=True)]
        shape = RAS_SHAPE[world_axes]
        edges = 2.0 * np.eye(3)[:, world_axes] * signs
    affine = np.eye(4)
    affine[:3, :3] = scale * edges
    affine[:3, 3] = centre - affine[:3, :3] @ (shape - 1) / 2
    # What a NIfTI header keeps, so that nothing below is blamed on its float32.
    affine = affine.astype(np.float32).astype(np.float64)
    return ImageGrid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _rotation() -> NDArray[np.float64]:
    a, b = np.deg2rad([25, -15])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


@pytest.fixture(scope="session")
def anatomy() -> Anatomy:
    """Intensity (0 to about 120) at world points (..., 3) in RAS+ mm."""
    return _anatomy


@pytest.fixture
def make_grid() -> Callable[..., ImageGrid]:
    """Grid of an orientation, scaled and centred at a world point."""

    def make(
        orientation: str,
        *,
        scale: float = 1.0,
        centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> ImageGrid:
        return _grid(orientation, scale, centre)

    return make


@pytest.fixture
def save_phantom(tmp_path: Path) -> SavePhantom:
    """Save the anatomy, sampled by a grid, as NIfTI."""

    def save(grid: ImageGrid, name: str = "phantom.nii.gz") -> Path:
        voxels = np.moveaxis(np.indices(grid.shape), 0, -1)
        image = nib.Nifti1Image(
            _anatomy(grid.world_from_voxel(voxels)).astype(np.float32), grid.affine
        )
        image.set_sform(grid.affine, code=1)
        image.set_qform(grid.affine, code=1)
        nib.save(image, tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture(params=ORIENTATIONS)
def fixed_grid(request: pytest.FixtureRequest) -> ImageGrid:
    """Each orientation in turn."""
    return _grid(request.param, 1.0, (0.0, 0.0, 0.0))


@pytest.fixture(params=ORIENTATIONS)
def moving_grid(request: pytest.FixtureRequest) -> ImageGrid:
    """Each orientation in turn, on other voxels than `fixed_grid`."""
    return _grid(request.param, 1.1, (3.3, -2.1, 1.4))


@pytest.fixture
def sheared_grid() -> ImageGrid:
    """Left-handed, with axes that are not at right angles."""
    affine = np.array([[-2.0, 0.5, 0, 33], [0, 2, 0.25, -35], [0, 0, 2, -27], [0, 0, 0, 1]])
    return ImageGrid((36, 32, 28), affine)


@pytest.fixture
def fixed_path(fixed_grid: ImageGrid, save_phantom: SavePhantom) -> Path:
    """File of the anatomy on `fixed_grid`."""
    return save_phantom(fixed_grid, "fixed.nii.gz")


@pytest.fixture
def moving_path(moving_grid: ImageGrid, save_phantom: SavePhantom) -> Path:
    """File of the anatomy on `moving_grid`."""
    return save_phantom(moving_grid, "moving.nii.gz")


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Where the golden file of the published code and its keys are."""
    folder = Path(os.environ.get("RWCNET_DATA", "../shared/data")) / "golden"
    if not folder.is_dir():
        pytest.skip(f"needs the golden file of the published code in {folder}")
    return folder


@pytest.fixture(scope="session")
def golden_weights() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Fill a state dict by the rule of the golden file."""
    import torch  # the runtime's tests do without

    def fill(state: Mapping[str, Any]) -> dict[str, Any]:
        filled = {}
        for key, tensor in state.items():
            source = np.random.RandomState(zlib.crc32(key.encode()))
            a = source.standard_normal(tuple(tensor.shape)).astype(np.float32)
            if a.ndim == 1:
                a = 1 + 0.1 * a if key.endswith("weight") else 0.05 * a
            else:
                a = a / np.float32(np.sqrt(np.prod(a.shape[1:])))
            filled[key] = torch.from_numpy(a * np.float32(0.05 if "flowhead.2" in key else 1))
        return filled

    return fill
