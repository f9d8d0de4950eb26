"""Transforms of a registration in the formats of other programs, and the way back."""

from rwcnet_runtime.transforms.bids import xfm_name, xfm_sidecar
from rwcnet_runtime.transforms.compact import write_compact
from rwcnet_runtime.transforms.composite import write_composite
from rwcnet_runtime.transforms.inverse import Inverse, inverse_consistency, invert
from rwcnet_runtime.transforms.relative import write_fsl, write_learn2reg

__all__ = [
    "Inverse",
    "inverse_consistency",
    "invert",
    "write_compact",
    "write_composite",
    "write_fsl",
    "write_learn2reg",
    "xfm_name",
    "xfm_sidecar",
]
