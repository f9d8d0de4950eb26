"""The bundle: a folder of ONNX graphs and the manifest that says what they are.

The format is owned here, by its reader; the export package writes manifests with this module.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rwcnet_runtime.errors import BackendError, BundleError
from rwcnet_runtime.manifest_checks import (
    LARGEST_BYTES,
    brief,
    check_files,
    check_multiple,
    check_range,
    check_texts,
    is_number,
    is_size,
)
from rwcnet_runtime.preprocess import FIXED_RANGE, PERCENTILES

SCHEMA_VERSION = 4
MANIFEST = "manifest.json"
DEFAULT = "base"
REFINEMENT_FEATURES = ("mind", "learned", "both")
# What other values would mean is not implemented, so they are refused instead of ignored.
_UNDERSTOOD: dict[str, tuple[Any, ...]] = {
    "reduction": ("average", "nearest"),
    "intensity": (PERCENTILES, FIXED_RANGE),
    "working_spacing_mm": (None,),
    "op_domain": ("rwcnet",),
    "op_version": (1,),
}


@dataclass(frozen=True)
class StageEntry:
    """What the runtime needs to know of one stage; lengths in voxels of that stage's grid.

    Attributes
    ----------
    resolution
        Divisor of the image size: 4 is quarter resolution.
    steps, radius
        Recurrent steps and search radius of the correlation; for the record.
    inherits
        Whether the stage takes the hidden state of the stage below.
    stride
        Voxels of the stage's images between two points of its hidden state.
    patch, halo
        Largest edge of a patch, and how much of it only gives context.
    parts
        Patches along each axis where `patch` is None: 1 runs the image whole.
    """

    resolution: int
    steps: int
    radius: int
    inherits: bool
    stride: int
    patch: int | None
    halo: int
    parts: int

    def __post_init__(self) -> None:
        sizes = (self.resolution, self.steps, self.radius, self.stride, self.parts)
        possible = (
            all(map(is_size, sizes))
            and is_size(self.halo, least=0)
            and (self.patch is None or (is_size(self.patch) and self.patch > 2 * self.halo))
            and (self.parts == 1 or (self.patch is None and self.halo == 0))
            and type(self.inherits) is bool
        )
        if not possible:
            raise ValueError(f"a stage of {self}")


@dataclass(frozen=True)
class RefinementEntry:
    """How a flow is refined, see `rwcnet_runtime.refinement`.

    Attributes
    ----------
    features
        What is compared: "mind", "learned" or "both".
    steps
        At most so many; 0 refines only when it is asked for.
    regularisation
        Weight of the roughness of the change.
    rate
        Adam's learning rate, in voxels of half the image's grid.
    """

    features: str
    steps: int
    regularisation: float
    rate: float

    def __post_init__(self) -> None:
        possible = (
            self.features in REFINEMENT_FEATURES
            and is_size(self.steps, least=0)
            and all(map(is_number, (self.regularisation, self.rate)))
            and self.regularisation >= 0
            and self.rate > 0
        )
        if not possible:
            raise ValueError(f"a refinement of {self}")


@dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``.

    Attributes
    ----------
    name
        Preset the graphs were made from.
    stages
        Coarse to fine.
    multiple
        Image sizes must be padded to a multiple of this.
    reduction
        How images are brought to coarser grids: "average" of the voxels, or the "nearest" one.
    working_spacing_mm
        Voxel size the model works at; None means the fixed image's own grid.
    intensity
        Name of the rule images are normalised by, see `rwcnet_runtime.preprocess.normalise`.
    intensity_range
        The intensities that become 0 and 1, where the rule is a fixed range; else None.
    op_domain, op_version
        Of the operators written as model-local functions.
    weights
        ``licence``, ``training_data`` and ``sha256`` of the weights.
    files
        sha256 of every other file, keyed by its path in the folder.
    refinement
        What the runtime does after the stages; None where the bundle has no graphs for it.
    """

    name: str
    stages: tuple[StageEntry, ...]
    multiple: int
    reduction: str
    working_spacing_mm: float | None
    intensity: str
    intensity_range: tuple[float, float] | None
    op_domain: str
    op_version: int
    weights: dict[str, str]
    files: dict[str, str]
    refinement: RefinementEntry | None = None
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Return the text of ``manifest.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Parse ``manifest.json``.

        Raises
        ------
        BundleError
            If it is not such a text, or of another schema version.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            found = fields["schema_version"]
            if found != SCHEMA_VERSION:
                raise BundleError(
                    f"the bundle has schema version {brief(found)}, this runtime reads "
                    f"{SCHEMA_VERSION}: "
                    + ("update rwcnet, or " if found > SCHEMA_VERSION else "")
                    + "export it again with this version of rwcnet"
                )
            stages = tuple(StageEntry(**entry) for entry in fields.pop("stages"))
            if not stages or stages[-1].resolution != 1:
                raise ValueError("no stage works at full resolution")
            if fields.get("refinement") is not None:
                fields["refinement"] = RefinementEntry(**fields["refinement"])
            if fields["intensity_range"] is not None:
                fields["intensity_range"] = check_range(fields["intensity_range"])
            manifest = cls(stages=stages, **fields)
            check_texts(manifest.weights | {"name": manifest.name})
            check_files(manifest.files)
            check_multiple(manifest.multiple, (s.resolution * s.stride * s.parts for s in stages))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BundleError(
                f"{MANIFEST} cannot be read ({brief(error)}): export the bundle again"
            ) from error
        for field, wanted in _UNDERSTOOD.items():
            found = getattr(manifest, field)
            if found not in wanted:
                raise BundleError(
                    f"the bundle's {field} is {brief(repr(found))}, this runtime knows only "
                    f"{' and '.join(map(repr, wanted))}: export it again with this version of "
                    "rwcnet"
                )
        if (manifest.intensity_range is None) != (manifest.intensity == PERCENTILES):
            raise BundleError(
                f"the bundle's intensity_range is {manifest.intensity_range}, which does not go "
                f"with the rule {manifest.intensity!r}: export it again"
            )
        return manifest


def sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes, however many they are."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_small(path: Path) -> bytes:
    """Read a file of JSON that has a few kB.

    Raises
    ------
    ValueError
        If it is far larger than any; it is not read then.
    """
    with path.open("rb") as file:
        data = file.read(LARGEST_BYTES + 1)
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"more than {LARGEST_BYTES / 2**20:g} MiB")
    return data


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, every file of it checked against its hash.

    Attributes
    ----------
    folder
        Where the files lie.
    manifest
        What they are.
    sha256
        Of the manifest, which holds the hashes of all other files: names the whole bundle.
    """

    folder: Path
    manifest: Manifest
    sha256: str

    @classmethod
    def open(cls, folder: Path | None = None) -> Bundle:
        """Open a bundle, by default the one inside the package.

        Raises
        ------
        BundleError
            If there is none, or a file is missing or altered.
        """
        if folder is None:
            folder = Path(str(resources.files("rwcnet_runtime"))) / "bundles" / DEFAULT
        path = folder / MANIFEST
        if not path.is_file():
            raise BundleError(
                f"no bundle in {folder}: there is no {MANIFEST}; rwcnet-export writes one"
            )
        try:
            text = read_small(path)
            manifest = Manifest.from_json(text)
            for name, expected in manifest.files.items():
                file = folder / name
                if not file.is_file():
                    raise BundleError(
                        f"{file} is missing from the bundle: export or install it again"
                    )
                if not file.resolve().is_relative_to(folder.resolve()):
                    raise BundleError(
                        f"{file} is a link that leads out of the bundle: put the file itself there"
                    )
                if sha256(file) != expected:
                    raise BundleError(
                        f"{file} is not the file the manifest names (its sha256 differs): export "
                        "or install the bundle again"
                    )
        except (OSError, ValueError) as error:
            raise BundleError(
                f"the bundle in {folder} cannot be read ({brief(error)}): export or install it "
                "again"
            ) from error
        return cls(folder, manifest, hashlib.sha256(text).hexdigest())

    @property
    def engines(self) -> list[str]:
        """Precisions whose stages are in the bundle."""
        return sorted({Path(name).parent.name for name in self.manifest.files if "stage" in name})

    @property
    def chain(self) -> list[str]:
        """Graphs that run between stages, in any precision of theirs."""
        entered = range(2, len(self.manifest.stages) + 1)
        return [*(f"enter{n}.onnx" for n in entered), "compose.onnx"]

    def stage_name(self, index: int, engine: str) -> str:
        """Return the path in the folder of stage `index` (0 is the coarsest) in a precision.

        Raises
        ------
        BackendError
            If the bundle does not hold that precision.
        """
        if engine not in self.engines:
            raise BackendError(
                f"this bundle holds no {engine} stages, only {', '.join(self.engines)}: choose one "
                "of these with --engine"
            )
        return f"{engine}/stage{index + 1}.onnx"

    def stage_path(self, index: int, engine: str) -> Path:
        """Return the graph of a stage in a precision, see `stage_name` and `graph_path`."""
        return self.graph_path(self.stage_name(index, engine))

    def graph_path(self, name: str) -> Path:
        """Return a graph by its path in the folder; only checked files are given out.

        Raises
        ------
        BundleError
            If the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(
                f"the bundle in {self.folder} has no {name}: export all stages into it"
            )
        return self.folder / name
