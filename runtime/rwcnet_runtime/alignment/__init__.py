"""Linear alignment before the network: where the images lie, and a rigid or affine registration.

>>> from rwcnet_runtime.alignment import align
>>> found = align(fixed, moving)  # doctest: +SKIP
>>> found.method, found.reason  # doctest: +SKIP
"""

from rwcnet_runtime.alignment.align import INITS, Alignment, align

__all__ = ["INITS", "Alignment", "align"]
