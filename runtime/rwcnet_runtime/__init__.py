"""Run RWCNet bundles on images: geometry, patches, stage chaining, files. No PyTorch.

>>> from rwcnet_runtime import register
>>> register("fixed.nii.gz", "moving.nii.gz").save(Path("registration"))  # doctest: +SKIP
"""

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.errors import BackendError, BundleError, InputError, RwcnetError
from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.registration import Registration, register
from rwcnet_runtime.volumes import Volume, read_volume

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "ImageGrid",
    "InputError",
    "Mapping",
    "Registration",
    "RwcnetError",
    "Volume",
    "jacobian_determinant",
    "read_volume",
    "register",
]
