"""Rigid and affine registration of coarse images by SimpleITK."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from rwcnet_runtime.alignment.coarse import Coarse

_BINS = 32
_ITERATIONS = 30  # with some ten values of the metric each
_CONVERGED, _WINDOW = 1e-5, 5  # slope of the last values of the metric, and how many
_SAMPLES = 25_000  # of the fixed image, about
_SEED = 1

# Held while the number of threads of the whole process is another than the user's.
_OF_ONE_THREAD = threading.Lock()

Linear = TypeVar("Linear", sitk.Euler3DTransform, sitk.AffineTransform)


def as_affine(transform: sitk.Euler3DTransform) -> sitk.AffineTransform:
    """Return the same map with the same centre, free to stretch and shear."""
    affine = sitk.AffineTransform(3)
    affine.SetCenter(transform.GetCenter())
    affine.SetMatrix(transform.GetMatrix())
    affine.SetTranslation(transform.GetTranslation())
    return affine


def stretches(transform: sitk.AffineTransform) -> NDArray[np.float64]:
    """Return by how much a transform stretches along its three principal axes, largest first."""
    found: NDArray[np.float64] = np.linalg.svd(
        np.reshape(transform.GetMatrix(), (3, 3)), compute_uv=False
    )
    return found


def optimise(fixed: Coarse, moving: Coarse, start: Linear) -> Linear | None:
    """Maximise Mattes' mutual information over the parameters of a transform.

    Conjugate gradients with a line search, on one thread and with a fixed seed: the same twice.

    Parameters
    ----------
    fixed, moving : Coarse
        On any grids.
    start : sitk.Euler3DTransform or sitk.AffineTransform
        Fixed to moving points, LPS mm; it is left as it is.

    Returns
    -------
    sitk.Euler3DTransform or sitk.AffineTransform, optional
        Of the kind of `start`; none if the images left each other on the way.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricFixedMask(fixed.seen)
    seen = np.count_nonzero(sitk.GetArrayViewFromImage(fixed.seen))
    if seen > _SAMPLES:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(_SAMPLES / seen, _SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsConjugateGradientLineSearch(
        learningRate=1.0,
        numberOfIterations=_ITERATIONS,
        convergenceMinimumValue=_CONVERGED,
        convergenceWindowSize=_WINDOW,
        estimateLearningRate=method.Once,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    found = type(start)(start)
    method.SetInitialTransform(found, inPlace=True)
    try:
        with _one_thread():
            method.Execute(fixed.image, moving.image)
    except RuntimeError:
        return None
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let all of ITK use one thread.

    The number of threads of a registration does not reach its metric, which would then add up what
    its threads find in the order in which they end. The one that does is that of the process: other
    work of ITK that begins meanwhile is slower but finds the same, since no two of its threads add
    to one number. Of two alignments at once, one waits: it would keep 1 as what to restore.
    """
    with _OF_ONE_THREAD:
        before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        try:
            yield
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
