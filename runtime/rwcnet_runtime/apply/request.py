"""What a user asks rwcnet-apply for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rwcnet_runtime.apply.chain import Given
from rwcnet_runtime.apply.pictures import ITK_SUFFIXES, NIFTI_SUFFIXES
from rwcnet_runtime.apply.point_sets import FRAMES
from rwcnet_runtime.apply.resampling import INTERPOLATIONS
from rwcnet_runtime.errors import InputError

SIDES = ("fixed", "moving")
IMAGES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
POINTS = (".csv", ".fcsv", ".vtk", ".gii")
STREAMLINES = (".trk", ".tck")


@dataclass(frozen=True)
class Request:
    """What shall be done; checked when it is made.

    Attributes
    ----------
    source, target : Path
        The files read and written. Points, surfaces and streamlines keep their format.
    transforms : sequence of Given
        From fixed to moving points, as `read_chain` takes them.
    origin, destination : str, optional
        The side, of `SIDES`, that `source` belongs to and the one that it shall go to. One is
        enough; images go from "moving" to "fixed" if none is given.
    reference : Path, optional
        Image whose grid an image is brought to, or that ``.trk`` belongs to then. If it is not
        given, the displacement field at that end.
    interpolation : str, optional
        Of images and label maps, one of `INTERPOLATIONS`. By default "linear" for images and
        "nearest" for label maps.
    labels : bool, optional
        Whether an image is a label map; by default its values tell.
    frame : str, optional
        Of points, one of `FRAMES`, where the file does not say it.

    Raises
    ------
    InputError
        If the parts do not fit each other.
    """

    source: Path
    target: Path
    transforms: Sequence[Given]
    origin: str | None = None
    destination: str | None = None
    reference: Path | None = None
    interpolation: str | None = None
    labels: bool | None = None
    frame: str | None = None

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--from", self.origin, SIDES),
            ("--to", self.destination, SIDES),
            ("--interpolation", self.interpolation, INTERPOLATIONS),
            ("--frame", self.frame, FRAMES),
        ):
            if value is not None and value not in known:
                raise InputError(f"{option} is {value!r}; give one of {', '.join(known)}.")
        if self.origin is not None and self.origin == self.destination:
            raise InputError("--from and --to name one image; give one as fixed, one as moving.")
        if not self.transforms:
            raise InputError("no transform is given; name one with -t.")
        if not self.source.name.endswith((*IMAGES, *POINTS, *STREAMLINES)):
            suffixes = ", ".join((*IMAGES, *POINTS, *STREAMLINES))
            raise InputError(f"{self.source} ends in none of {suffixes}; convert it.")
        if not self.is_image:
            self._check_points()
        elif self.frame:
            raise InputError("--frame is about points; images say where they lie.")

    def _check_points(self) -> None:
        if self.origin is None and self.destination is None:
            raise InputError(
                "points go the other way than images: say with --from and --to whether they are "
                "brought from the moving to the fixed image or from the fixed to the moving one."
            )
        if self.interpolation or self.labels is not None:
            raise InputError("--interpolation, --labels and --image are about images; leave them.")
        if self.reference and self.source.suffix != ".trk":
            raise InputError(f"--reference is about images and .trk, not {self.source.suffix}.")
        if self.frame and self.source.suffix in STREAMLINES:
            raise InputError(f"{self.source.suffix} says where its points are; leave --frame out.")
        if self.source.suffix != self.target.suffix:
            raise InputError(
                f"{self.target} does not end in {self.source.suffix} as the input; choose such an "
                "output name with -o."
            )

    @property
    def is_image(self) -> bool:
        """Whether voxels are brought over and not points."""
        return self.source.name.endswith(IMAGES)

    @property
    def to_fixed(self) -> bool:
        """Whether it goes from the moving to the fixed side."""
        return (
            self.origin == "moving"
            or self.destination == "fixed"
            or not (self.origin or self.destination)
        )

    @property
    def record(self) -> Path:
        """Where it is written down what was done."""
        return self.target.with_name(self.target.name + ".json")
