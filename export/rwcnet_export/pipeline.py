"""`pipeline.onnx`: a bundle's graphs and all that the runtime does around them, in one file.

Every graph becomes a model-local function, so that the graph itself is the chain of stages and
nothing else. Two files hold the rest: `preprocess` and `patches`, named after what they repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from rwcnet_export.ops import OPSET
from rwcnet_export.ops.call import DOMAIN, VERSION
from rwcnet_export.patches import JOIN, LAYOUT, in_patches_function
from rwcnet_export.preprocess import intensity_functions, padding_function
from rwcnet_runtime.bundle import Manifest, StageEntry

PIPELINE = "pipeline.onnx"


@dataclass(frozen=True)
class _Part:
    """A graph as a function, and what it brings along."""

    function: onnx.FunctionProto
    operators: list[onnx.FunctionProto]

    @classmethod
    def of(cls, name: str, model: onnx.ModelProto) -> _Part:
        """Turn a model into a function; its weights become constants of it."""
        graph = model.graph
        weights = [
            onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
            for tensor in graph.initializer
        ]
        function = onnx.helper.make_function(
            DOMAIN,
            name,
            [value.name for value in graph.input],
            [value.name for value in graph.output],
            [*weights, *graph.node],
            model.opset_import,
        )
        return cls(function, list(model.functions))


def parse_function(text: str) -> onnx.FunctionProto:
    """Return a function of domain `rwcnet` from its text."""
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}, "{DOMAIN}" : {VERSION}]>'
    return onnx.parser.parse_function(f"{head}\n{text}")


def _reduced(name: str, image: str, entry: StageEntry, reduction: str) -> str:
    """Return the line that brings an image to the grid of a stage: averages, or every n-th voxel."""
    kernel = {"average": entry.resolution, "nearest": 1}[reduction]
    return (
        f"{name} = AveragePool <kernel_shape = {[kernel] * 3}, "
        f"strides = {[entry.resolution] * 3}> ({image})"
    )


def _calls(manifest: Manifest, parts: dict[str, _Part]) -> list[str]:
    """Return the chain of stages as lines, from `still` and `other` to `flow_padded`."""
    lines: list[str] = []
    below: list[str] = []  # total flow, and hidden state where the next stage takes it
    for n, entry in enumerate(manifest.stages, start=1):
        lines += [
            _reduced(f"fixed{n}", "still", entry, manifest.reduction),
            _reduced(f"moving{n}", "other", entry, manifest.reduction),
        ]
        inputs = [f"fixed{n}", f"moving{n}"]
        if n > 1:
            given = ", ".join([f"moving{n}", *below])
            entered = [f"{x}{n}" for x in ("warped", "below", "inherited")]
            entered = entered[: len(parts[f"Enter{n}"].function.output)]
            lines.append(f"{', '.join(entered)} = {DOMAIN}.Enter{n} ({given})")
            inputs = [f"fixed{n}", entered[0], *entered[2:]]
        found = [f"step{n}", f"hidden{n}"][: len(parts[f"Stage{n}"].function.output)]
        function = f"Patches{n}" if _in_patches(entry) else f"Stage{n}"
        lines.append(f"{', '.join(found)} = {DOMAIN}.{function} ({', '.join(inputs)})")
        total = found[0]
        if n > 1:
            total = f"total{n}"
            lines.append(f"{total} = {DOMAIN}.ComposeFlows (step{n}, below{n})")
        below = [total, *found[1:]]
    return [*lines, f"flow_padded = Identity ({below[0]})"]


def _in_patches(entry: StageEntry) -> bool:
    return entry.patch is not None or entry.parts > 1


def pipeline_graph(
    folder: Path, manifest: Manifest, resample: onnx.ModelProto
) -> onnx.ModelProto:
    """Link the fp32 graphs of a bundle into one that registers raw images.

    Parameters
    ----------
    folder
        Where the graphs of all stages lie.
    manifest
        What they are; its `files` are not looked at.
    resample
        What `rwcnet_export.graphs.resample_graph` returns.

    Returns
    -------
    onnx.ModelProto
        `fixed` and `moving`, (1, 1, i, j, k) float32 raw intensities on one grid of any size, to
        `flow`, (1, 3, i, j, k) float32 in voxels of that grid, and `warped`, (1, 1, i, j, k)
        float32: the moving image sampled at x + flow(x), 0 outside. Opset 20. Of images that the
        runtime refuses (NaN, infinite, or no range of intensities) both are NaN throughout.
    """
    parts = {"Resample": _Part.of("Resample", resample)}
    parts["ComposeFlows"] = _Part.of("ComposeFlows", onnx.load(folder / "compose.onnx"))
    for n in range(1, len(manifest.stages) + 1):
        parts[f"Stage{n}"] = _Part.of(f"Stage{n}", onnx.load(folder / f"fp32/stage{n}.onnx"))
        if n > 1:
            parts[f"Enter{n}"] = _Part.of(f"Enter{n}", onnx.load(folder / f"enter{n}.onnx"))
    lines = [
        "zero_f = Constant <value = float {0.0}> ()",
        "spatial = Constant <value_ints = [2, 3, 4]> ()",
        "size = Shape <start = 2> (fixed)",
        "pads, before = rwcnet.Margins (size)",
        "fixed_scaled, fixed_usable = rwcnet.Intensities (fixed)",
        "moving_scaled, moving_usable = rwcnet.Intensities (moving)",
        # Both by the size of one: images of two sizes then fail, instead of passing as one.
        "still = Pad (fixed_scaled, pads)",
        "other = Pad (moving_scaled, pads)",
        *_calls(manifest, parts),
        "after = Add (before, size)",
        "found = Slice (flow_padded, before, after, spatial)",
        "resampled = rwcnet.Resample (moving, found)",
        # 0 divided by 1 is 0, and by 0 no number.
        "usable = And (fixed_usable, moving_usable)",
        "usable_f = Cast <to = 1> (usable)",
        "verdict = Div (zero_f, usable_f)",
        "flow = Add (found, verdict)",
        "warped = Add (resampled, verdict)",
    ]
    head = f'<ir_version: 10, opset_import: ["" : {OPSET}, "{DOMAIN}" : {VERSION}]>'
    signature = (
        "pipeline (float[1, 1, i, j, k] fixed, float[1, 1, i, j, k] moving) "
        "=> (float[1, 3, i, j, k] flow, float[1, 1, i, j, k] warped)"
    )
    model = onnx.parser.parse_model("\n".join([head, signature, "{", *lines, "}"]))
    texts = [padding_function(manifest.multiple), *intensity_functions(manifest.intensity_range)]
    cut = [n for n, entry in enumerate(manifest.stages, start=1) if _in_patches(entry)]
    if cut:
        texts += [LAYOUT, JOIN]
    for n in cut:
        function = parts[f"Stage{n}"].function
        entry = manifest.stages[n - 1]
        texts.append(
            in_patches_function(
                f"Patches{n}", function.name, entry, function.input, function.output
            )
        )
    # The operators of all graphs of a bundle have one body each.
    operators = {f.name: f for part in parts.values() for f in part.operators}
    model.functions.extend(operators[name] for name in sorted(operators))
    model.functions.extend(part.function for part in parts.values())
    model.functions.extend(map(parse_function, texts))
    model.producer_name = "rwcnet"
    onnx.helper.set_model_props(model, _metadata(manifest))
    onnx.checker.check_model(model, full_check=True)
    return model


def _metadata(manifest: Manifest) -> dict[str, str]:
    """Return what the file says of itself, as ONNX Runtime hands it out."""
    ends = manifest.intensity_range
    return {
        "name": manifest.name,
        "licence": manifest.weights["licence"],
        "training_data": manifest.weights["training_data"],
        "weights_sha256": manifest.weights["sha256"],
        "bundle_schema_version": str(manifest.schema_version),
        "axes": "(batch, channel, i, j, k), the axes of images reoriented to RAS+",
        "inputs": "raw intensities, fixed and moving on one grid of any size",
        "flow": "warped(x) = moving(x + flow(x)); channel c along array axis c, in voxels of the "
        "given grid",
        "spacing": "none is known to the graph: times the grid's spacing, flow is in mm along its "
        "axes",
        "warped": "raw intensities, linear interpolation, 0 outside [-0.5, n - 0.5) of an axis",
        "intensity": manifest.intensity,
        "intensity_range": "" if ends is None else f"{ends[0]} {ends[1]}",
        "refused": "images with NaN, infinite or a single intensity: outputs are NaN throughout",
    }
