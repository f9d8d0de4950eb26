"""What the cascade asks of a backend: open a graph, run it on buffers, cut and join buffers.

A buffer is (b, c, i, j, k) float32 where the backend computes: an array of numpy on the host,
memory of a GPU elsewhere. What one graph returns the next one takes, without leaving the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.devices import thread_count
from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.patches import Patch

Array: TypeAlias = npt.NDArray[np.float32]
# Only the backend that made it looks inside; all others read its `shape`.
Buffer: TypeAlias = Any


class Graph(Protocol):
    """A graph, opened."""

    def run(self, **inputs: Buffer) -> list[Buffer]:
        """Run it on buffers by input name; returns its outputs in order.

        Raises
        ------
        BackendError
            If the run fails.
        """

    def rest(self) -> None:
        """Give back working memory, as the graph is not run again soon."""


class Backend(ABC):
    """A program on a device. This class keeps buffers on the host, as arrays of numpy.

    Attributes
    ----------
    name
        What the user calls it.
    device
        Where it computes: "cpu" or "cuda:0".
    programs
        Distributions that it is, whose versions are recorded where they are installed.
    arithmetic
        What the stages of each precision are computed in; others it does not take.
    extra
        What `pip install "rwcnet[...]"` brings it.
    on_gpu
        Whether it needs one.
    bytes_per_voxel
        Memory of the host that a registration takes for each voxel of a large image, as measured
        with the bundle `base`; on GPUs guessed.
    threads
        CPU threads it computes with.
    say
        Called with one line when something takes long; may be set.
    """

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]
    extra: ClassVar[str] = ""
    on_gpu: ClassVar[bool] = False
    bytes_per_voxel: ClassVar[int] = 100
    arithmetic: ClassVar[Mapping[str, str]]

    def __init__(self, threads: int | None = None) -> None:
        self.device = "cpu"
        self.threads = threads or thread_count()
        self.say: Callable[[str], None] = lambda line: None

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Say why it does not work here, and what to do; None where it does."""

    @abstractmethod
    def open(self, bundle: Bundle, name: str, engine: str) -> Graph:
        """Open a graph of a bundle by its path in the folder.

        Parameters
        ----------
        bundle
            Checked.
        name
            One of the manifest's files.
        engine
            Precision it is computed in.

        Raises
        ------
        BundleError
            If the bundle does not hold it, or the file is refused.
        """

    def stage(self, bundle: Bundle, index: int, engine: str) -> Graph:
        """Open stage `index` (0 is the coarsest) in a precision.

        Raises
        ------
        BackendError
            If the bundle does not hold the precision, or the backend does not take it.
        """
        self.require(engine)
        return self.open(bundle, bundle.stage_name(index, engine), engine)

    @classmethod
    def engines(cls, bundle: Bundle) -> list[str]:
        """Return the precisions that it computes the stages of a bundle in."""
        return [engine for engine in bundle.engines if engine in cls.arithmetic]

    @classmethod
    def require(cls, engine: str) -> None:
        """Refuse a precision that the backend does not compute in.

        Raises
        ------
        BackendError
            If `arithmetic` does not have it.
        """
        if engine not in cls.arithmetic:
            raise BackendError(
                f"{cls.name} runs {' and '.join(cls.arithmetic)} here, not {engine}: choose "
                "another --engine or --backend"
            )

    def prepare(self, shape: tuple[int, int, int]) -> None:  # noqa: B027 - most take any size
        """Make ready for an image size (i, j, k), padded, before the graphs run on it.

        Raises
        ------
        BackendError
            If the backend cannot take it.
        """

    def upload(self, array: Array) -> Buffer:
        """Bring an array to the device."""
        return array

    def download(self, buffer: Buffer) -> Array:
        """Bring a buffer to the host."""
        array: Array = buffer
        return array

    def empty(self, shape: Sequence[int]) -> Buffer:
        """Return a buffer to paste into."""
        return np.empty(shape, np.float32)

    def cut(self, buffer: Buffer, patches: Sequence[Patch]) -> Buffer:
        """Return what patches read of (1, c, i, j, k), as a batch."""
        return np.concatenate([buffer[:, :, *patch.read] for patch in patches])

    def paste(self, parts: Buffer, patches: Sequence[Patch], whole: Buffer) -> None:
        """Put what patches answer for, of a batch, into (1, c, i, j, k)."""
        for part, patch in zip(parts, patches, strict=True):
            i, j, k = patch.own
            whole[0, :, i, j, k] = part[:, *patch.inner]

    def synchronize(self) -> None:  # noqa: B027 - on the host nothing is under way
        """Wait until all that was asked for is computed."""
