"""A known deformation of a real brain, undone: the ICBM152 T1 template that nilearn ships."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.errors import BackendError, InputError
from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.outputs import Outputs
from rwcnet_runtime.registration import Registration
from rwcnet_runtime.volumes import read_volume, write_volume

MEAN_MM = 5.0
_SMOOTHING_MM = 20.0
_COARSE_MM = 4.0
# Beyond its grid a field is zero, which tears; that shall happen far from the image.
_MARGIN_MM = 32.0
_SQUARINGS = 6


@dataclass(frozen=True)
class Demonstration:
    """What the demo found; errors are mean distances to the known displacement in mm.

    Before, nothing is displaced, so that the error is the known displacement's mean itself.
    """

    registration: Registration
    largest_mm: float
    error_before_mm: float
    error_after_mm: float
    picture: Path

    @property
    def reduction_percent(self) -> float:
        """Share of the error that is gone."""
        return 100 * (1 - self.error_after_mm / self.error_before_mm)


def _transform(displacement: NDArray[np.float64]) -> sitk.Transform:
    """Wrap a displacement (k, j, i, 3) in mm, on a grid of `_COARSE_MM`, for SimpleITK."""
    field = sitk.GetImageFromArray(displacement, isVector=True)
    field.SetSpacing([_COARSE_MM] * 3)
    field.SetOrigin([-_MARGIN_MM] * 3)
    return sitk.DisplacementFieldTransform(field)


def _exponential(velocity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integrate a stationary velocity (k, j, i, 3) in mm by scaling and squaring."""
    field: NDArray[np.float64] = velocity / 2**_SQUARINGS
    size, origin, spacing = velocity.shape[2::-1], [-_MARGIN_MM] * 3, [_COARSE_MM] * 3
    for _ in range(_SQUARINGS):
        step = _transform(field)
        twice = sitk.TransformToDisplacementField(
            sitk.CompositeTransform([step, step]), sitk.sitkVectorFloat64, size, origin, spacing
        )
        field = sitk.GetArrayFromImage(twice)
    return field


def random_diffeomorphism(
    shape: tuple[int, int, int],
    inside: NDArray[np.bool_],
    seed: int,
    *,
    mean_mm: float = MEAN_MM,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """Draw a smooth invertible flow with a given mean length inside a mask.

    Parameters
    ----------
    shape
        Grid (i, j, k).
    inside
        (i, j, k) bool, where the mean is taken.
    seed
        Of numpy's generator.
    mean_mm
        The mean length.
    spacing_mm
        Of the grid's voxels.

    Returns
    -------
    ndarray, (3, i, j, k), float32
        Flow in voxels.
    """
    edges = [n * spacing for n, spacing in zip(shape, spacing_mm, strict=True)]
    coarse = [int(np.ceil((edge + 2 * _MARGIN_MM) / _COARSE_MM)) for edge in edges]
    noise = sitk.GetImageFromArray(
        np.random.default_rng(seed).standard_normal((*coarse[::-1], 3)), isVector=True
    )
    velocity = sitk.GetArrayFromImage(
        sitk.SmoothingRecursiveGaussian(noise, _SMOOTHING_MM / _COARSE_MM)
    ).astype(np.float64)
    velocity *= mean_mm / np.linalg.norm(velocity, axis=-1).mean()
    flow = np.zeros((3, *shape), np.float32)
    for _ in range(4):  # the exponential is almost linear in its scale: this converges at once
        field = sitk.TransformToDisplacementField(
            _transform(_exponential(velocity)),
            sitk.sitkVectorFloat32,
            shape,
            outputSpacing=spacing_mm,
        )
        flow = np.ascontiguousarray(sitk.GetArrayViewFromImage(field).transpose(3, 2, 1, 0))
        velocity *= mean_mm / np.linalg.norm(flow, axis=0)[inside].mean()
    flow /= np.asarray(spacing_mm, np.float32)[:, None, None, None]
    return flow


def darken(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Change the contrast of an image within 0..1: dark tissue becomes much darker."""
    return image**2


def run(
    folder: Path,
    register: Callable[[Path, Path], Registration],
    contrast: Callable[[NDArray[np.float32]], NDArray[np.float32]] = darken,
) -> Demonstration:
    """Deform the template, register, compare with the known displacement, draw.

    Parameters
    ----------
    folder
        For the two images, the results and ``demo.png``; made if it is not there.
    register
        Called with the paths of the fixed and the moving image.
    contrast
        Changes the deformed image's intensities within 0..1; outside the head it is black anyway.

    Raises
    ------
    BackendError
        If nilearn or matplotlib are not installed.
    InputError
        If the folder cannot be written to.
    """
    try:
        from matplotlib import figure as _figure  # noqa: F401  (asked for before the work starts)
        from nilearn.datasets import load_mni152_template
    except ImportError as error:
        raise BackendError(
            f"the demo needs {error.name}, which is not installed: pip install 'rwcnet[demo]'"
        ) from error
    outputs = Outputs(folder, overwrite=True)
    moving_path, fixed_path = folder / "moving.nii.gz", folder / "fixed.nii.gz"
    outputs.check(fixed_path, moving_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        load_mni152_template(resolution=1).to_filename(moving_path)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder} ({error.strerror or error}): choose another with -o"
        ) from error
    template = read_volume(moving_path)
    shape = template.grid.shape
    head = template.data > 0.1 * template.data.max()
    flow = random_diffeomorphism(shape, head, seed=0)
    plain = ImageGrid(shape, np.eye(4))
    deformed = Mapping(plain, plain, flow_vox=flow).resample(template.data)
    head = deformed > 0.1 * deformed.max()
    recoloured = np.where(head, contrast(deformed / deformed.max()), 0).astype(np.float32)
    write_volume(fixed_path, recoloured, template)
    registration = register(fixed_path, moving_path)
    outputs.write(registration)
    found = registration.mapping.flow_vox
    assert found is not None
    before = np.linalg.norm(flow, axis=0)[head]
    after = np.linalg.norm(found - flow, axis=0)[head]
    picture = folder / "demo.png"
    draw(registration, picture)
    return Demonstration(
        registration, float(before.max()), float(before.mean()), float(after.mean()), picture
    )


def draw(registration: Registration, path: Path) -> None:
    """Draw a coronal slice: fixed; moving and warped with the fixed one's outlines; the grid."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fixed, grid = registration.fixed.data, registration.fixed.grid
    before = Mapping(grid, registration.moving.grid).resample(registration.moving.data)
    middle = grid.shape[1] // 2
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    outline = fixed[:, middle].T
    for axis, image, title in zip(
        axes,
        (fixed, before, registration.warped),
        ("fixed", "moving", "moving, warped"),
        strict=False,
    ):
        axis.imshow(image[:, middle].T, cmap="gray", origin="lower")
        axis.set_title(title)
        if image is not fixed:
            levels = np.quantile(outline[outline > 0], (0.02, 0.7))
            axis.contour(outline, levels=levels, colors="tab:orange", linewidths=0.5)
    flow = registration.mapping.flow_vox
    assert flow is not None
    i = np.arange(grid.shape[0])[:, None] + flow[0, :, middle]
    k = np.arange(grid.shape[2])[None, :] + flow[2, :, middle]
    axes[3].plot(i[::6].T, k[::6].T, color="tab:blue", linewidth=0.5)
    axes[3].plot(i[:, ::6], k[:, ::6], color="tab:blue", linewidth=0.5)
    axes[3].set_title("displacement")
    axes[3].set_aspect("equal")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
