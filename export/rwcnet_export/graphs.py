"""From torch modules to ONNX models: one traced wrapper a graph, any batch and any size."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import onnx
import torch
import torch._dynamo  # now: torch swallows a Ctrl-C that comes while it imports this later
from torch import Tensor, nn

from rwcnet_export.ops import OPSET, add_functions, replace_ops
from rwcnet_export.passes import optimise
from rwcnet_export.passes.outcome import Outcome
from rwcnet_ref.grid import Warp, clamp_to_grid, identity
from rwcnet_ref.model import Cascade, RecurrentStage

# From a module, its example inputs, the names of its outputs and the units of its axes to a graph.
Writer: TypeAlias = Callable[
    [nn.Module, dict[str, Tensor], Sequence[str], Mapping[str, int]], onnx.ModelProto
]


class Enter(nn.Module):
    """Between stages: bring flow and hidden state to the next grid and warp the moving image."""

    def __init__(self, cascade: Cascade, index: int) -> None:
        super().__init__()
        self.cascade, self.index = cascade, index

    def forward(
        self, moving: Tensor, flow: Tensor, hidden: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Take `moving` on the finer grid, `flow` and `hidden` on the coarser.

        `hidden` is left out, and not returned, where the stage inherits nothing.
        """
        # Not read then: any tensor will do.
        below = (flow, flow if hidden is None else hidden)
        results = self.cascade.enter(moving, below, self.index)
        return tuple(result for result in results if result is not None)


class HiddenKept(nn.Module):
    """A stage whose hidden state no other stage takes: its flow alone."""

    def __init__(self, stage: RecurrentStage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, fixed: Tensor, moving: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Return the last flow."""
        flow: Tensor = self.stage(fixed, moving, hidden)[0]
        return flow


class Resample(nn.Module):
    """At the end: the moving image where the flow points, as the runtime resamples it."""

    def __init__(self) -> None:
        super().__init__()
        self.warp = Warp()

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        """Sample (b, 1, i, j, k) at x + flow(x): half a voxel beyond the outermost, then zero."""
        points = identity(flow) + flow
        size = torch.tensor(flow.shape[2:]).view(1, 3, 1, 1, 1)
        inside = ((points >= -0.5) & (points < size - 0.5)).all(dim=1, keepdim=True)
        sampled: Tensor = self.warp(image, clamp_to_grid(flow))
        return torch.where(inside, sampled, 0.0)


class Compose(nn.Module):
    """After a stage: its flow on top of the flow below, both on its grid."""

    def __init__(self, cascade: Cascade) -> None:
        super().__init__()
        self.cascade = cascade

    def forward(self, step: Tensor, below: Tensor) -> Tensor:
        """Compose two flows."""
        return self.cascade.compose(step, below)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep what is not about our graph from the user: rewrites tried, torchvision not installed."""
    loggers = [
        logging.getLogger(name)
        for name in ("onnxscript", "torch.onnx._internal.exporter._registration")
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _drop_metadata(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: stack traces and paths are no part of a product."""
    graph = model.graph
    noted = (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info)
    for part in (model, graph, *noted):
        del part.metadata_props[:]


def to_onnx(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    units: Mapping[str, int],
    note: Callable[[list[Outcome]], None] = lambda outcomes: None,
) -> onnx.ModelProto:
    """Export a module with dynamic batch and size, optimised.

    Parameters
    ----------
    module, inputs, outputs, units
        Those of `trace`.
    note
        Told what each pass did.
    """
    model, outcomes = optimise(trace(module, inputs, outputs, units))
    note(outcomes)
    onnx.checker.check_model(model, full_check=True)
    return model


def trace(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    units: Mapping[str, int],
) -> onnx.ModelProto:
    """Write a module as ONNX, as the exporter leaves it.

    Parameters
    ----------
    module
        Called with the inputs in order; left as it was.
    inputs
        Name and example of each input, (b, c, i, j, k) with b over 1.
    outputs
        Name of each output.
    units
        For each input: its axes are this times what the axes of all inputs have in common.

    Returns
    -------
    onnx.ModelProto
        Opset 20, the operators of domain `rwcnet` as model-local functions.
    """
    batch = torch.export.Dim("batch", min=1)
    common = [torch.export.Dim(axis, min=2) for axis in "ijk"]
    shapes = [
        {0: batch}
        | {
            n: units[name] * dim if units[name] > 1 else dim
            for n, dim in enumerate(common, start=2)
        }
        for name in inputs
    ]
    return trace_sizes(module, inputs, outputs, shapes)


def trace_sizes(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    shapes: Sequence[Mapping[int, Any]],
) -> onnx.ModelProto:
    """Write a module as ONNX, see `trace`; `shapes` names the dynamic axes of each input."""
    module = copy.deepcopy(module).eval()
    replace_ops(module)
    with _quiet_exporter():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamic_shapes=tuple(shapes),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_name, model.producer_version = "rwcnet", ""
    _drop_metadata(model)
    add_functions(model)
    return model


def stage_graph(cascade: Cascade, index: int, write: Writer = to_onnx) -> onnx.ModelProto:
    """Export stage `index` with its steps unrolled."""
    unit, stage = cascade.config.unit, cascade.stage(index)
    units = {"fixed": unit * stage.config.stride, "moving": unit * stage.config.stride}
    example = {name: torch.rand((2, 1, *_example(edge))) for name, edge in units.items()}
    if cascade.config.inherits(index):
        units["hidden"] = unit
        example["hidden"] = torch.zeros((2, stage.config.hidden, *_example(unit)))
    if cascade.config.inherits(index + 1):
        return write(stage, example, ("flow", "hidden_out"), units)
    return write(HiddenKept(stage), example, ("flow",), units)


def feature_graph(cascade: Cascade, index: int, write: Writer = to_onnx) -> onnx.ModelProto:
    """Export the feature encoder of stage `index` alone."""
    stage = cascade.stage(index)
    unit, encoder = cascade.config.unit * stage.config.stride, stage.features
    assert isinstance(encoder, nn.Module)
    image = torch.rand((2, 1, *_example(unit)))
    return write(encoder, {"image": image}, ("features",), {"image": unit})


def enter_graph(cascade: Cascade, index: int, write: Writer = to_onnx) -> onnx.ModelProto:
    """Export `Enter` for the stage `index` that is about to run."""
    below = cascade.config.stages[index - 1]
    edge = below.grid // cascade.config.stages[index].resolution
    units = {"moving": edge, "flow": below.stride, "hidden": 1}
    channels = {"moving": 1, "flow": 3, "hidden": below.hidden}
    names = ["warped", "flow_out", "hidden_out"]
    if not cascade.config.inherits(index):
        del units["hidden"], names[2]
    example = {n: torch.rand((2, channels[n], *_example(unit))) for n, unit in units.items()}
    return write(Enter(cascade, index), example, names, units)


def compose_graph(cascade: Cascade, write: Writer = to_onnx) -> onnx.ModelProto:
    """Export `Compose`."""
    example = {name: torch.rand((2, 3, *_example(1))) for name in ("step", "below")}
    return write(Compose(cascade), example, ("flow",), dict.fromkeys(example, 1))


def resample_graph(write: Writer = to_onnx) -> onnx.ModelProto:
    """Export `Resample`."""
    example = {"image": torch.rand((2, 1, *_example(1))), "flow": torch.rand((2, 3, *_example(1)))}
    return write(Resample(), example, ("resampled",), dict.fromkeys(example, 1))


def _example(unit: int) -> tuple[int, int, int]:
    """Return a small grid to trace on, no axis like another."""
    return 3 * unit, 2 * unit, 4 * unit
