"""What runs in the child process: TensorRT or TensorRT-RTX parses a graph, or builds its engine.

Both products have the same Python API under different names. A job comes as JSON on stdin, its
result goes as JSON to stdout; an error is the last line of stderr.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from rwcnet_runtime.engines.messages import error_log


class _BuildError(Exception):
    """Why there is no result, for the user."""


def _main(job: dict[str, Any]) -> dict[str, Any]:
    trt = import_module(job["module"])

    errors = error_log(trt)
    if job.get("plugin"):
        _register_plugin()
    builder = trt.Builder(errors)
    # Typed by the graph: what TensorRT 11 always does, asked for by name of the older ones.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, errors)
    if job["task"] == "parse":
        return _support(parser, Path(job["onnx"]))
    if not parser.parse_from_file(job["onnx"]):
        raise _BuildError(f"the graph is refused: {parser.get_error(0).desc()}")
    plan = _build(trt, builder, network, job, errors.found)
    Path(job["plan"]).write_bytes(plan)
    engine_layers = _engine_layers(trt, errors, plan) if job["gpu"] else None
    return _network_summary(trt, network) if engine_layers is None else summarise(engine_layers)


def _register_plugin() -> None:
    from rwcnet_runtime.errors import BackendError
    from rwcnet_runtime.kernels import plugin

    try:
        plugin.register()
    except BackendError as error:
        raise _BuildError(str(error)) from error


def _support(parser: Any, path: Path) -> dict[str, Any]:
    """Return how many nodes there are outside of functions, and which operators are refused."""
    parser.supports_model_v2(path.read_bytes())
    errors = [parser.get_error(n) for n in range(parser.num_errors)]
    return {
        "nodes": sum(len(parser.get_subgraph_nodes(n)) for n in range(parser.num_subgraphs)),
        "refused": [f"{error.node_operator()} ({error.desc()})" for error in errors],
    }


def _build(trt: Any, builder: Any, network: Any, job: dict[str, Any], errors: list[str]) -> Any:
    """Return the plan."""
    config = builder.create_builder_config()
    # What the graph says is fp32 is computed in fp32, in every precision.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or no layer tells its type
    shapes = builder.create_optimization_profile()
    for n in range(network.num_inputs):
        tensor = network.get_input(n)
        sizes = ((b, tensor.shape[1], *grid) for b, *grid in job["profile"][tensor.name])
        shapes.set_shape(tensor.name, *sizes)
    config.add_optimization_profile(shapes)
    timing = job["timing_cache"]
    if timing is not None:
        known = Path(timing["old"])
        cache = config.create_timing_cache(known.read_bytes() if known.is_file() else b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _BuildError(f"no engine came of it: {(errors or ['no reason given'])[0]}")
    if timing is not None:
        Path(timing["new"]).write_bytes(config.get_timing_cache().serialize())
    return plan


def _network_summary(trt: Any, network: Any) -> dict[str, Any]:
    """Count the layers of the parsed network: what there is to see without a GPU."""
    precisions = {
        trt.DataType.FLOAT: "fp32",
        trt.DataType.HALF: "fp16",
        trt.DataType.BF16: "bf16",
    }
    layers = [network.get_layer(n) for n in range(network.num_layers)]
    outputs = [layer.get_output(0) for layer in layers]  # None of a loop's trip limit
    return _summary(
        "network",
        # What sizes are computed with is no part of the arithmetic on images.
        [precisions.get(out.dtype) if out and not out.is_shape_tensor else None for out in outputs],
        [str(layer.type) for layer in layers],
    )


def _engine_layers(trt: Any, errors: Any, plan: Any) -> list[dict[str, Any]] | None:
    """Return what the inspector says of each layer of the engine; None where it does not load."""
    # `engine_host_code_allowed` stays as it is, False: no code of a plan runs on the CPU.
    engine = trt.Runtime(errors).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers: list[dict[str, Any]] = json.loads(text)["Layers"]
    return layers


def summarise(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Count the layers of an engine.

    Parameters
    ----------
    layers
        As the engine inspector describes them at detailed verbosity. Types are written "Float",
        "Half" and "BFloat16", or with an FP32, FP16 or BF16 in a longer text.

    Returns
    -------
    dict
        ``of`` is "engine"; ``layers``; ``fp32_layers``, ``fp16_layers`` and ``bf16_layers``, by the
        type of the first output; and ``plugin_layers``.
    """
    first = [layer["Outputs"][0] if layer.get("Outputs") else {} for layer in layers]
    return _summary(
        "engine",
        [_precision(output.get("Format/Datatype", "")) for output in first],
        [layer["LayerType"] for layer in layers],
    )


def _precision(text: str) -> str | None:
    """Return the precision that the inspector's text for a type names, None if it names none."""
    # In this order: the name of bf16 contains that of fp32.
    for name, pattern in (("bf16", "BF(LOAT)?16"), ("fp16", "FP16|HALF"), ("fp32", "FP32|FLOAT")):
        if re.search(pattern, text.upper()):
            return name
    return None


def _summary(of: str, precisions: list[str | None], kinds: list[str]) -> dict[str, Any]:
    """Count layers: the precision of each, None where it is no arithmetic, and its kind."""
    counts = {f"{name}_layers": precisions.count(name) for name in ("fp32", "fp16", "bf16")}
    plugins = sum("PLUGIN" in kind.upper() for kind in kinds)
    return {"of": of, "layers": len(kinds), **counts, "plugin_layers": plugins}


if __name__ == "__main__":
    try:
        result = _main(json.load(sys.stdin))
    except _BuildError as failure:
        sys.exit(" ".join(str(failure).split()))
    sys.stdout.write(json.dumps(result) + "\n")
