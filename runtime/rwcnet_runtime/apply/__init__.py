"""Bring images, points, surfaces and streamlines from one side of a registration to the other."""

from rwcnet_runtime.apply.chain import Chain, Given, read_chain
from rwcnet_runtime.apply.files import apply
from rwcnet_runtime.apply.request import Request
from rwcnet_runtime.apply.steps import Moved

__all__ = ["Chain", "Given", "Moved", "Request", "apply", "read_chain"]
