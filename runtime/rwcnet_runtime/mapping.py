"""The pull-back map from a fixed grid into a moving volume, evaluated by SimpleITK.

SimpleITK is given images without geometry (spacing 1, origin 0, no rotation), so that its points
are voxel indices, and the geometry goes into the transform. Any orientation then works, sheared
ones included, which SimpleITK refuses as image directions; and so does any ITK transform file.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documented name)
from numpy.typing import NDArray

from rwcnet_runtime.errors import InputError
from rwcnet_runtime.formats import can_be_read, load_nifti, quiet, within_memory
from rwcnet_runtime.geometry import LPS_FROM_RAS, ImageGrid, slabs


def read_initial_transform(path: Path) -> sitk.Transform:
    """Read a transform that maps fixed points to moving points in LPS+ mm, as ITK resamples.

    Parameters
    ----------
    path : Path
        An ITK transform file (.tfm, .txt, .mat, .h5), or a displacement field (.nii, .nii.gz).

    Raises
    ------
    InputError
        If the file is missing, unreadable, or no transform of 3-D space.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of an ITK transform.")
    is_field = path.name.endswith((".nii", ".nii.gz"))
    try:
        with within_memory(path), quiet():
            transform = _read_field(path) if is_field else _read_transform(path)
    except RuntimeError as error:
        raise InputError(
            f"{path} cannot be read as a transform; give an ITK transform (.tfm, .txt, .mat, .h5) "
            "or a displacement field (.nii, .nii.gz) of three components."
        ) from error
    if transform.GetDimension() != 3:
        raise InputError(
            f"{path} holds a {transform.GetDimension()}-D transform where a 3-D one is needed; "
            "give one made for volumes."
        )
    return transform


# eq=False: arrays have no single truth value, so a generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class Mapping:
    """Where each voxel of the fixed grid finds its partner in the moving volume.

    With A the affines of the grids and T the initial transform, both to the same world::

        moving_voxel(x) = A_moving^-1 T A_flow (y + flow(y)),   y = A_flow^-1 A_fixed x

    The flow is interpolated linearly between its voxels. Results are made slab by slab, so that
    little more is held than what is returned.

    Attributes
    ----------
    fixed, moving : ImageGrid
        The grid mapped from and the grid mapped to.
    initial : sitk.Transform, optional
        Fixed to moving points in LPS+ mm; none is the identity.
    flow_vox : ndarray, (3, i, j, k), float32, optional
        Channel c moves along array axis c, in voxels of its own grid; none is no motion.
    flow_grid : ImageGrid, optional
        Where `flow_vox` lies, half a voxel around its outermost voxels included; beyond, nothing
        moves. None is `fixed`.

    Raises
    ------
    ValueError
        If `flow_vox` does not lie on its grid.
    """

    fixed: ImageGrid
    moving: ImageGrid
    initial: sitk.Transform | None = None
    flow_vox: NDArray[np.float32] | None = None
    flow_grid: ImageGrid | None = None

    def __post_init__(self) -> None:
        wanted = (3, *(self.flow_grid or self.fixed).shape)
        if self.flow_vox is not None and self.flow_vox.shape != wanted:
            raise ValueError(f"flow_vox has shape {self.flow_vox.shape}, wanted {wanted}")

    def resample(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pull moving intensities onto the fixed grid, with linear interpolation.

        Parameters
        ----------
        data : ndarray, (i, j, k), float32
            Lies on `moving`.

        Returns
        -------
        ndarray, (i, j, k), float32
            Lies on `fixed`; 0 where `inside` is false.

        Raises
        ------
        ValueError
            If `data` does not lie on `moving`.
        """
        if data.shape != self.moving.shape:
            raise ValueError(f"data has shape {data.shape}, wanted {self.moving.shape}")
        image = sitk.GetImageFromArray(data.transpose(2, 1, 0))
        resampler = sitk.ResampleImageFilter()  # linear, and 0 outside, unless told otherwise
        resampler.SetTransform(self._transform_into(self.moving))
        resampled = np.empty(self.fixed.shape, np.float32)
        for slab in slabs(self.fixed.shape, axis=2):
            resampler.SetOutputOrigin((0, 0, slab.start))
            resampler.SetSize((*self.fixed.shape[:2], slab.stop - slab.start))
            part = resampler.Execute(image)  # named, as a view does not keep it alive
            resampled[:, :, slab] = sitk.GetArrayViewFromImage(part).transpose(2, 1, 0)
        return resampled

    def displacement_mm(self) -> NDArray[np.float32]:
        """World point in the moving volume minus world point in the fixed one.

        Returns
        -------
        ndarray, (i, j, k, 3), float32
            RAS+ mm, on `fixed`.
        """
        # Back into fixed voxels, SimpleITK subtracts the starting point: only steps remain, which
        # need no origin in the world.
        transform = self._transform_into(self.fixed)
        world_from_step = self.fixed.affine[:3, :3].T.astype(np.float32)
        displacement = np.empty((*self.fixed.shape, 3), np.float32)
        for slab in slabs(self.fixed.shape, axis=2):
            size = (*self.fixed.shape[:2], slab.stop - slab.start)
            field = sitk.TransformToDisplacementField(
                transform, sitk.sitkVectorFloat32, size, (0, 0, slab.start)
            )
            step_vox = sitk.GetArrayViewFromImage(field).transpose(2, 1, 0, 3)
            displacement[:, :, slab] = step_vox @ world_from_step
        return displacement

    def inside(self) -> NDArray[np.bool_]:
        """Which fixed voxels land in the moving field of view, [-0.5, n - 0.5) along each axis.

        Returns
        -------
        ndarray, (i, j, k), bool
        """
        return self.resample(np.ones(self.moving.shape, np.float32)) > 0

    def _transform_into(self, grid: ImageGrid) -> sitk.Transform:
        """Compose the transform from fixed voxels to voxels of `grid`."""
        between = self.flow_grid or self.fixed
        transforms: list[sitk.Transform] = [  # applied from the last to the first
            _affine_transform(np.linalg.inv(LPS_FROM_RAS @ grid.affine)),
            _affine_transform(LPS_FROM_RAS @ between.affine),
        ]
        if self.initial is not None:
            transforms.insert(1, self.initial)
        if self.flow_vox is not None:
            vectors = self.flow_vox.transpose(3, 2, 1, 0).astype(np.float64, order="C")
            field = sitk.GetImageFromArray(vectors, isVector=True)
            transforms.append(sitk.DisplacementFieldTransform(field))
        if self.flow_grid is not None:
            transforms.append(_affine_transform(np.linalg.inv(between.affine) @ self.fixed.affine))
        return sitk.CompositeTransform(transforms)


def _affine_transform(matrix: NDArray[np.floating]) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def _read_field(path: Path) -> sitk.Transform:
    load_nifti(path)  # refuses what the file cannot hold, which ITK would allocate
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def _read_transform(path: Path) -> sitk.Transform:
    if not can_be_read(path):
        raise RuntimeError("ITK fails on it, or ends the process that reads it")
    transform: sitk.Transform = sitk.ReadTransform(str(path))
    return transform
