"""Write a bundle: stages, encoders, the chain between stages, and the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import onnx

from rwcnet_export.graphs import compose_graph, enter_graph, feature_graph, stage_graph
from rwcnet_export.ops.call import DOMAIN, VERSION
from rwcnet_ref.model import Cascade
from rwcnet_runtime.bundle import MANIFEST, Manifest, StageEntry, sha256
from rwcnet_runtime.preprocess import INTENSITY_RULE


def weights_sha256(cascade: Cascade) -> str:
    """Return a hash of all weights and stored averages, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(cascade.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


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
) -> Path:
    """Export a cascade in fp32.

    Parameters
    ----------
    cascade
        The model with its weights; left as it was.
    folder
        Made if it is not there. Files of the same names are replaced.
    stages
        Which stages to export, 0 is the coarsest. The manifest lists only files that exist, so a
        folder with some of the stages is no bundle the runtime opens until all are there.
    licence, training_data
        Of the weights, for the manifest.

    Returns
    -------
    Path
        The manifest.
    """
    configs = cascade.config.stages
    for n in stages:
        _save(stage_graph(cascade.stage(n)), folder / "fp32" / f"stage{n + 1}.onnx")
        _save(feature_graph(cascade.stage(n)), folder / f"features{n + 1}.onnx")
        if n:
            _save(enter_graph(cascade, n), folder / f"enter{n + 1}.onnx")
    _save(compose_graph(cascade), folder / "compose.onnx")
    manifest = Manifest(
        name=cascade.config.name,
        stages=tuple(
            StageEntry(c.resolution, c.steps, c.radius, c.hidden, c.patch, c.halo) for c in configs
        ),
        multiple=cascade.config.multiple,
        working_spacing_mm=None,
        intensity=INTENSITY_RULE,
        op_domain=DOMAIN,
        op_version=VERSION,
        weights={
            "licence": licence,
            "training_data": training_data,
            "sha256": weights_sha256(cascade),
        },
        files={
            path.relative_to(folder).as_posix(): sha256(path)
            for path in sorted(folder.rglob("*.onnx"))
        },
    )
    target = folder / MANIFEST
    target.write_text(manifest.to_json())
    return target
