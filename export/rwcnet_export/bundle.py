"""Write a bundle: stages, encoders, the chain between stages, and the manifest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx

from rwcnet_export.graphs import (
    Writer,
    compose_graph,
    enter_graph,
    feature_graph,
    resample_graph,
    stage_graph,
    to_onnx,
)
from rwcnet_export.ops.call import DOMAIN, VERSION
from rwcnet_export.passes.outcome import Outcome
from rwcnet_export.pipeline import PIPELINE, pipeline_graph
from rwcnet_export.precision import lower
from rwcnet_export.refinement import ON_REQUEST, REFINEMENTS, mind_graph, refine_graph
from rwcnet_ref.config import ModelConfig
from rwcnet_ref.model import Cascade
from rwcnet_runtime.bundle import MANIFEST, Bundle, Manifest, StageEntry, sha256
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.preprocess import FIXED_RANGE, PERCENTILES


def weights_sha256(cascade: Cascade) -> str:
    """Return a hash of all weights and stored averages, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(cascade.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def stage_file(folder: Path, index: int, engine: str = "fp32") -> Path:
    """Return where a bundle keeps the graph of stage `index` (0 is the coarsest)."""
    return folder / engine / f"stage{index + 1}.onnx"


def copy_bundle(
    source: Path, target: Path, cascade: Cascade, intensity_range: tuple[float, float] | None
) -> None:
    """Copy a bundle that a single stage is to be exported into, so that it keeps the others.

    Raises
    ------
    InputError
        If it was made from other weights, sizes or intensities: the manifest speaks for all its
        stages.
    BundleError
        If it is damaged.
    """
    bundle = Bundle.open(source)
    manifest = bundle.manifest
    found = manifest.weights["sha256"], manifest.stages, manifest.intensity_range
    if found != (weights_sha256(cascade), _entries(cascade.config), intensity_range):
        raise InputError(
            f"{source} was made from other weights, sizes or intensities than this stage: export "
            "all stages, or choose another folder with -o"
        )
    for name in (*manifest.files, MANIFEST):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _entries(config: ModelConfig) -> tuple[StageEntry, ...]:
    return tuple(
        StageEntry(
            c.resolution, c.steps, c.radius, config.inherits(n), c.stride, c.patch, c.halo, c.parts
        )
        for n, c in enumerate(config.stages)
    )


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_bundle(
    cascade: Cascade,
    folder: Path,
    *,
    stages: Iterable[int],
    licence: str,
    training_data: str,
    intensity_range: tuple[float, float] | None = None,
    engines: Collection[str] = (),
    progress: Callable[[str], None] = lambda part: None,
) -> dict[str, list[Outcome]]:
    """Export a cascade.

    Parameters
    ----------
    cascade
        The model with its weights; left as it was.
    folder
        Made if it is not there. Files of the same names are replaced.
    stages
        Which stages to export, 0 is the coarsest. The manifest lists all graphs in the folder; the
        runtime runs it once every stage is there, and then the pipeline is written too.
    licence, training_data
        Of the weights, for the manifest.
    intensity_range
        The intensities that the model was trained to find as 0 and 1; None where images were
        normalised by their own percentiles.
    engines
        Precisions to write beside fp32: "fp16", "bf16".
    progress
        Called with a few words before each part of the work.

    Returns
    -------
    dict
        For each graph that was made, by its name, what each pass did to it.
    """
    outcomes: dict[str, list[Outcome]] = {}

    def noted(name: str) -> Writer:
        return partial(to_onnx, note=partial(outcomes.__setitem__, name))

    for n in stages:
        progress(f"exporting stage {n + 1}")
        stage = stage_graph(cascade, n, noted(f"stage{n + 1}"))
        _save(stage, stage_file(folder, n))
        for engine in engines:
            _save(lower(stage, engine), stage_file(folder, n, engine))
        features = feature_graph(cascade, n, noted(f"features{n + 1}"))
        _save(features, folder / f"features{n + 1}.onnx")
        if n:
            enter = enter_graph(cascade, n, noted(f"enter{n + 1}"))
            _save(enter, folder / f"enter{n + 1}.onnx")
    progress("exporting what joins the stages")
    _save(compose_graph(cascade, noted("compose")), folder / "compose.onnx")
    progress("exporting the refinement")
    _save(mind_graph(noted("mind")), folder / "mind.onnx")
    _save(refine_graph(note=partial(outcomes.__setitem__, "refine")), folder / "refine.onnx")
    manifest = Manifest(
        name=cascade.config.name,
        stages=_entries(cascade.config),
        multiple=cascade.config.multiple,
        reduction="nearest" if cascade.config.published else "average",
        working_spacing_mm=None,
        intensity=PERCENTILES if intensity_range is None else FIXED_RANGE,
        intensity_range=intensity_range,
        op_domain=DOMAIN,
        op_version=VERSION,
        weights={
            "licence": licence,
            "training_data": training_data,
            "sha256": weights_sha256(cascade),
        },
        files={},
        refinement=REFINEMENTS.get(cascade.config.name, ON_REQUEST),
    )
    if all(stage_file(folder, n).is_file() for n in range(len(cascade.config.stages))):
        resample = resample_graph(noted("resample"))
        _save(pipeline_graph(folder, manifest, resample), folder / PIPELINE)
    files = sorted(folder.rglob("*.onnx"))
    manifest = replace(
        manifest, files={path.relative_to(folder).as_posix(): sha256(path) for path in files}
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return outcomes
