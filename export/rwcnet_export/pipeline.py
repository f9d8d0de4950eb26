"""`pipeline.onnx`: a bundle's graphs and all that the runtime does around them, in one file.

Every graph becomes a model-local function, so that what is left is the chain of stages. Intensities
and padding are in `preprocess`, patches in `patches`, named after the modules whose work they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from rwcnet_export.ops import OPSET
from rwcnet_export.ops.call import DOMAIN, VERSION
from rwcnet_export.patches import JOIN, LAYOUT, in_patches_function
from rwcnet_export.preprocess import intensity_functions, padding_function
from rwcnet_runtime.bundle import Manifest, StageEntry

PIPELINE = "pipeline.onnx"

_IMPORTS = f'opset_import: ["" : {OPSET}, "{DOMAIN}" : {VERSION}]'
_SIGNATURE = """
    pipeline (float[1, 1, i, j, k] fixed, float[1, 1, i, j, k] moving)
    => (float[1, 3, i, j, k] flow, float[1, 1, i, j, k] warped)"""
_BEFORE = """
    size = Shape <start = 2> (fixed)
    pads, first = rwcnet.Margins (size)
    fixed_scaled, fixed_usable = rwcnet.Intensities (fixed)
    moving_scaled, moving_usable = rwcnet.Intensities (moving)
    still = Pad (fixed_scaled, pads)
    other = Pad (moving_scaled, pads)"""
# Zero is added to what was found, as 0 / 1; or no number, as 0 / 0.
_AFTER = """
    spatial = Constant <value_ints = [2, 3, 4]> ()
    last = Add (first, size)
    found = Slice (padded_flow, first, last, spatial)
    resampled = rwcnet.Resample (moving, found)
    nothing = Constant <value = float {0.0}> ()
    usable = And (fixed_usable, moving_usable)
    usable_f = Cast <to = 1> (usable)
    verdict = Div (nothing, usable_f)
    flow = Add (found, verdict)
    warped = Add (resampled, verdict)"""


def pipeline_graph(folder: Path, manifest: Manifest, resample: onnx.ModelProto) -> onnx.ModelProto:
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
        float32: the moving image sampled at x + flow(x), 0 outside. Opset 20. Where the runtime
        refuses an image (NaN, infinite, no range of intensities) both are NaN throughout.

    Raises
    ------
    ValueError
        If two of the graphs define one operator differently: a file has room for one body.
    """
    models = {"Resample": resample}
    for n in range(1, len(manifest.stages) + 1):
        models[f"Stage{n}"] = onnx.load(folder / f"fp32/stage{n}.onnx")
        if n > 1:
            models[f"Enter{n}"] = onnx.load(folder / f"enter{n}.onnx")
            models["ComposeFlows"] = onnx.load(folder / "compose.onnx")
    functions = {name: _function(name, model) for name, model in models.items()}
    chain = _chain(manifest, functions)
    for n, entry in enumerate(manifest.stages, start=1):
        if _in_patches(entry):
            stage = functions[f"Stage{n}"]
            text = in_patches_function(f"Patches{n}", stage.name, entry, stage.input, stage.output)
            functions |= {f.name: f for f in map(parse_function, (LAYOUT, JOIN, text))}
    texts = [padding_function(manifest.multiple), *intensity_functions(manifest.intensity_range)]
    functions |= {f.name: f for f in map(parse_function, texts)}
    for operator in (f for model in models.values() for f in model.functions):
        if functions.setdefault(operator.name, operator) != operator:
            raise ValueError(f"two graphs in {folder} have different bodies of {operator.name}")

    lines = "\n".join([_BEFORE, *chain, _AFTER])
    model = onnx.parser.parse_model(f"<ir_version: 10, {_IMPORTS}>{_SIGNATURE} {{{lines}}}")
    model.functions.extend(functions.values())
    model.producer_name = "rwcnet"
    onnx.helper.set_model_props(model, _metadata(manifest))
    onnx.checker.check_model(model, full_check=True)
    return model


def parse_function(text: str) -> onnx.FunctionProto:
    """Return a function of domain `rwcnet` from its text."""
    return onnx.parser.parse_function(f'<domain: "{DOMAIN}", {_IMPORTS}>\n{text}')


def _function(name: str, model: onnx.ModelProto) -> onnx.FunctionProto:
    """Return a graph as a function; its weights become constants of it."""
    graph = model.graph
    weights = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in graph.initializer
    ]
    inputs, outputs = ([value.name for value in x] for x in (graph.input, graph.output))
    nodes = [*weights, *graph.node]
    return onnx.helper.make_function(DOMAIN, name, inputs, outputs, nodes, model.opset_import)


def _chain(manifest: Manifest, functions: Mapping[str, onnx.FunctionProto]) -> list[str]:
    """Return the lines from `still` and `other` to `padded_flow`.

    They are `rwcnet_runtime.cascade.Cascade.run`. How many outputs a graph has says whether there
    is a hidden state.
    """
    lines: list[str] = []
    below: list[str] = []  # total flow, and hidden state where the next stage takes it
    for n, entry in enumerate(manifest.stages, start=1):
        inputs = [f"fixed{n}", f"moving{n}"]
        for name, image in zip(inputs, ("still", "other"), strict=True):
            lines.append(_reduce(name, image, entry.resolution, manifest.reduction))
        if n > 1:
            entered = [f"warped{n}", f"below{n}", f"inherited{n}"]
            entered = entered[: len(functions[f"Enter{n}"].output)]
            lines.append(_call(f"Enter{n}", [f"moving{n}", *below], entered))
            inputs = [f"fixed{n}", entered[0], *entered[2:]]
        found = [f"step{n}", f"hidden{n}"][: len(functions[f"Stage{n}"].output)]
        lines.append(_call(f"Patches{n}" if _in_patches(entry) else f"Stage{n}", inputs, found))
        if n > 1:
            lines.append(_call("ComposeFlows", [f"step{n}", f"below{n}"], [f"total{n}"]))
            found[0] = f"total{n}"
        below = found
    return [*lines, f"padded_flow = Identity ({below[0]})"]


def _call(function: str, inputs: list[str], outputs: list[str]) -> str:
    return f"{', '.join(outputs)} = {DOMAIN}.{function} ({', '.join(inputs)})"


def _reduce(name: str, image: str, factor: int, reduction: str) -> str:
    """Return the line that brings an image to a coarser grid: averages, or every n-th voxel."""
    kernel = {"average": factor, "nearest": 1}[reduction]
    return (
        f"{name} = AveragePool <kernel_shape = {[kernel] * 3}, strides = {[factor] * 3}> ({image})"
    )


def _in_patches(entry: StageEntry) -> bool:
    return entry.patch is not None or entry.parts > 1


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
        "flow": "warped(x) = moving(x + flow(x)), channel c along array axis c, in voxels",
        "spacing": "that of the given grid, which gives flow in mm along its axes when multiplied",
        "warped": "raw intensities, linear interpolation, 0 outside [-0.5, n - 0.5) of an axis",
        "intensity": manifest.intensity,
        "intensity_range": "" if ends is None else f"{ends[0]} {ends[1]}",
        "refused": "NaN, infinite or hardly any range of intensities: outputs are NaN throughout",
    }
