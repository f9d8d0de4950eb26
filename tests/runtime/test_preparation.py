"""Registrations on working grids that are not the fixed image's."""

import nibabel as nib
import numpy as np
import pytest

from rwcnet_runtime import InputError, Registrar
from rwcnet_runtime.memory import Memory, bytes_needed

SHIFT_MM = np.array([3.0, -2.0, 2.5])  # RAS


@pytest.fixture(scope="module")
def registrar():
    return Registrar(backend="onnxruntime", refine=0)


def _blobs(points, background):
    """Some balls in a ball, smooth, so that a shift can be seen everywhere in it."""
    centres = np.random.default_rng(1).uniform(-18, 18, (40, 3))
    image = np.zeros(points.shape[:-1])
    for n, centre in enumerate(centres):
        image += (40 + n) * np.exp(-((points - centre) ** 2).sum(-1) / 2 / 4**2)
    inside = 1 / (1 + np.exp((points**2).sum(-1) ** 0.5 - 24))
    return background + inside * (300 + image)


def _save(path, shape, spacing, centre_voxel, shift=(0, 0, 0), background=-1000, noise=0.0):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.array(spacing) * centre_voxel
    points = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    data = _blobs(points - shift, background) + np.random.default_rng(0).normal(0, noise, shape)
    image = nib.Nifti1Image(data.astype(np.float32), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)
    return path


def _error_mm(found):
    """Mean distance to the shift, over voxels within 20 mm of the middle."""
    grid = found.fixed.grid
    points = grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))
    middle = np.linalg.norm(points, axis=-1) < 20
    return np.linalg.norm(found.displacement_mm - SHIFT_MM, axis=-1)[middle].mean()


def test_large_margins_are_cropped_and_the_result_lies_on_the_fixed_grid(registrar, tmp_path):
    small = (60, 60, 60), (1.0, 1.0, 1.0), (29.5, 29.5, 29.5)
    large = (100, 60, 80), (1.0, 1.0, 1.0), (64.5, 29.5, 40.5)
    a = _save(tmp_path / "a.nii", *small, noise=5)
    b = _save(tmp_path / "b.nii", *small, SHIFT_MM, noise=5)
    whole = registrar.register(a, b)
    a = _save(tmp_path / "c.nii", *large, noise=5)
    b = _save(tmp_path / "d.nii", *large, SHIFT_MM, noise=5)
    cropped = registrar.register(a, b)
    assert whole.report["working_grid"]["why"] == "voxels of the fixed image"
    assert np.prod(cropped.report["working_grid"]["shape"]) < 0.8 * 100 * 60 * 80
    assert "around the foreground" in cropped.report["working_grid"]["why"]
    assert cropped.displacement_mm.shape == (100, 60, 80, 3)
    assert _error_mm(whole) < 0.6  # mm, of 4.4 at the start
    assert _error_mm(cropped) < 0.6
    # No tear where the crop ends.
    assert np.abs(np.diff(cropped.displacement_mm, axis=0)).max() < 2  # mm in 1 mm


def test_a_fine_image_is_registered_on_larger_voxels(registrar, tmp_path):
    fine = (120, 120, 60), (0.5, 0.5, 1.0), (59.5, 59.5, 29.5)
    a, b = (_save(tmp_path / n, *fine, shift) for n, shift in (("a.nii", 0), ("b.nii", SHIFT_MM)))
    by_spacing = Registrar(backend="onnxruntime", refine=0, spacing=1).register(a, b)
    found = by_spacing.report["working_grid"]
    assert (found["shape"], found["factors"]) == ([60, 60, 60], [2, 2, 1])
    assert (found["spacing_mm"], found["why"]) == ([1, 1, 1], "--spacing 1")
    assert by_spacing.displacement_mm.shape == (120, 120, 60, 3)
    assert by_spacing.warped.shape == (120, 120, 60)
    assert _error_mm(by_spacing) < 0.6  # mm
    middle = (slice(40, 80), slice(40, 80), slice(20, 40))
    difference = np.abs(by_spacing.warped - by_spacing.fixed.data)[middle]
    assert difference.mean() < 0.2 * np.abs(by_spacing.fixed.data[middle]).std()


def test_a_thick_slab_is_registered_on_its_own_voxels(registrar, tmp_path):
    slab = (48, 48, 12), (1.3, 1.3, 5.0), (23.5, 23.5, 5.5)
    a, b = (_save(tmp_path / n, *slab, shift) for n, shift in (("a.nii", 0), ("b.nii", SHIFT_MM)))
    found = registrar.register(a, b)
    assert found.report["working_grid"]["shape"] == [48, 48, 12]
    assert _error_mm(found) < 2.5  # mm, of 4.4 at the start; a slice is 5


def test_little_memory_takes_larger_voxels_and_too_little_is_one_sentence(
    registrar, tmp_path, monkeypatch
):
    shape = (52, 52, 52), (1.0, 1.0, 1.0), (25.5, 25.5, 25.5)
    a, b = (_save(tmp_path / n, *shape, shift) for n, shift in (("a.nii", 0), ("b.nii", SHIFT_MM)))

    def machine(limit, free):
        memory = Memory(limit, free)
        monkeypatch.setattr("rwcnet_runtime.preparation.memory_at_hand", lambda: memory)

    size = 52**3
    usable = bytes_needed(size, size, registrar.backend.bytes_per_voxel, size - 1)
    machine(usable / 0.9, None)
    found = registrar.register(a, b)
    assert found.report["working_grid"]["factors"] == [2, 2, 2]
    assert "memory" in found.report["working_grid"]["why"]
    machine(16e9, 1e6)
    with pytest.raises(InputError, match=r"needs about 0\.\d GB more and 0\.0 GB are free"):
        registrar.register(a, b)
    machine(0.1e9, None)
    with pytest.raises(InputError, match="memory of this machine does not hold"):
        registrar.register(a, b)


def test_a_spacing_that_is_none_is_refused(tmp_path):
    shape = (40, 40, 40), (1.0, 1.0, 1.0), (19.5, 19.5, 19.5)
    a = _save(tmp_path / "a.nii", *shape)
    for spacing in (0, -2, 90):
        with pytest.raises(InputError, match=f"--spacing {spacing:g}"):
            Registrar(backend="onnxruntime", refine=0, spacing=spacing).register(a, a)
