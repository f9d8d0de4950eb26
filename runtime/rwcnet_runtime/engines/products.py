"""The two products that engines are built with."""

from __future__ import annotations

from dataclasses import dataclass

from rwcnet_runtime.errors import BackendError, InputError
from rwcnet_runtime.versions import version_of


@dataclass(frozen=True)
class Product:
    """A builder of engines.

    Attributes
    ----------
    name
        What the user calls it, and the extra that installs it.
    module
        What Python imports.
    title
        What messages call it.
    distributions
        What brings it: any of these, whole; bindings without libraries are not among them.
    timing_cache
        Whether measured times of kernels are kept between builds. TensorRT-RTX measures nothing
        when it builds, and wants a GPU as soon as it is given such a cache.
    plugin
        Whether it takes `rwcnet_runtime.kernels.plugin`. TensorRT-RTX aborts on a plugin.
    """

    name: str
    module: str
    title: str
    distributions: tuple[str, ...]
    timing_cache: bool
    plugin: bool

    @property
    def version(self) -> str | None:
        """Its version here, None where it is not installed; nothing is imported for that."""
        return next(filter(None, map(version_of, self.distributions)), None)


TENSORRT = Product(
    "tensorrt",
    "tensorrt",
    "TensorRT",
    ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    timing_cache=True,
    plugin=True,
)
TENSORRT_RTX = Product(
    "tensorrt-rtx",
    "tensorrt_rtx",
    "TensorRT-RTX",
    ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    timing_cache=False,
    plugin=False,
)
PRODUCTS = (TENSORRT, TENSORRT_RTX)


def find_product(name: str) -> Product:
    """Return an installed product by its name.

    Raises
    ------
    InputError
        If there is none of that name.
    BackendError
        If it is not installed.
    """
    found = {product.name: product for product in PRODUCTS}.get(name)
    if found is None:
        names = " or ".join(product.name for product in PRODUCTS)
        raise InputError(f"there is no engine builder {name}: choose {names}")
    if found.version is None:
        raise BackendError(f'{found.title} is not installed: pip install "rwcnet[{found.name}]"')
    return found
