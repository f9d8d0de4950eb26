"""Bring images, points, surfaces and streamlines from one side of a registration to the other."""

from rwcnet_runtime.apply.chain import Chain, Given, read_chain
from rwcnet_runtime.apply.steps import Moved

__all__ = ["Chain", "Given", "Moved", "read_chain"]
