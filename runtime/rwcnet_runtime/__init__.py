"""Run RWCNet bundles on images: geometry, patches, stage chaining, files. No PyTorch.

>>> from rwcnet_runtime import register
>>> register("fixed.nii.gz", "moving.nii.gz").save(Path("registration"))  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwcnet_runtime.bundle import Bundle
    from rwcnet_runtime.errors import BackendError, BundleError, InputError, RwcnetError
    from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant
    from rwcnet_runtime.mapping import Mapping
    from rwcnet_runtime.registrar import Registrar, register
    from rwcnet_runtime.registration import Registration
    from rwcnet_runtime.volumes import Volume, read_volume

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "ImageGrid",
    "InputError",
    "Mapping",
    "Registrar",
    "Registration",
    "RwcnetError",
    "Volume",
    "jacobian_determinant",
    "read_volume",
    "register",
]

_HOMES = {
    "bundle": {"Bundle"},
    "errors": {"BackendError", "BundleError", "InputError", "RwcnetError"},
    "geometry": {"ImageGrid", "jacobian_determinant"},
    "mapping": {"Mapping"},
    "registrar": {"Registrar", "register"},
    "registration": {"Registration"},
    "volumes": {"Volume", "read_volume"},
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, only then: a command starts before its second of imports."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
