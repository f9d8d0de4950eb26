"""From torch modules to ONNX models: one traced wrapper a graph, any batch and any size."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from torch import Tensor, nn

from rwcnet_export.ops import OPSET, add_functions, replace_ops
from rwcnet_ref.grid import compose
from rwcnet_ref.model import Cascade, Stage


class Enter(nn.Module):
    """Between stages: bring flow and hidden state to the next grid and warp the moving image."""

    def __init__(self, cascade: Cascade, index: int) -> None:
        super().__init__()
        self.cascade, self.index = cascade, index

    def forward(self, moving: Tensor, flow: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        """Take `moving` on the finer grid, `flow` and `hidden` on the coarser."""
        warped, lifted, hidden = self.cascade.enter(moving, (flow, hidden), self.index)
        assert lifted is not None
        return warped, lifted, hidden


class Compose(nn.Module):
    """After a stage: its flow on top of the flow below, both on its grid."""

    def __init__(self, cascade: Cascade) -> None:
        super().__init__()
        self.warp = cascade.warp

    def forward(self, step: Tensor, below: Tensor) -> Tensor:
        """Compose two flows."""
        return compose(self.warp, step, below)


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
    *,
    coarse: Sequence[str] = (),
) -> onnx.ModelProto:
    """Export a module with dynamic batch and size.

    Parameters
    ----------
    module
        Called with the inputs in order; left as it was.
    inputs
        Name and example of each input, (b, c, i, j, k) with b over 1.
    outputs
        Name of each output.
    coarse
        Inputs on a grid of half the size of the others.

    Returns
    -------
    onnx.ModelProto
        Opset 20, the operators of domain `rwcnet` as model-local functions.
    """
    module = copy.deepcopy(module).eval()
    replace_ops(module)
    batch = torch.export.Dim("batch", min=1)
    half = [torch.export.Dim(f"half_{axis}", min=2) for axis in "ijk"]
    whole = (
        [2 * dim for dim in half] if coarse else [torch.export.Dim(axis, min=2) for axis in "ijk"]
    )
    shapes = [
        {0: batch} | {n + 2: dim for n, dim in enumerate(half if name in coarse else whole)}
        for name in inputs
    ]
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
    onnx.checker.check_model(model, full_check=True)
    return model


def stage_graph(stage: Stage) -> onnx.ModelProto:
    """Export one stage with its steps unrolled."""
    size = (2, 1, 16, 12, 20)
    example = {
        "fixed": torch.rand(size),
        "moving": torch.rand(size),
        "hidden": torch.zeros((2, stage.config.hidden, *size[2:])),
    }
    return to_onnx(stage, example, ("flow", "hidden_out"))


def feature_graph(stage: Stage) -> onnx.ModelProto:
    """Export a stage's feature encoder alone."""
    return to_onnx(stage.features, {"image": torch.rand(2, 1, 16, 12, 20)}, ("features",))


def enter_graph(cascade: Cascade, index: int) -> onnx.ModelProto:
    """Export `Enter` for the stage `index` that is about to run."""
    example = {
        "moving": torch.rand(2, 1, 16, 12, 20),
        "flow": torch.rand(2, 3, 8, 6, 10),
        "hidden": torch.rand(2, cascade.config.stages[index - 1].hidden, 8, 6, 10),
    }
    names = ("warped", "flow_out", "hidden_out")
    return to_onnx(Enter(cascade, index), example, names, coarse=("flow", "hidden"))


def compose_graph(cascade: Cascade) -> onnx.ModelProto:
    """Export `Compose`."""
    example = {"step": torch.rand(2, 3, 16, 12, 20), "below": torch.rand(2, 3, 16, 12, 20)}
    return to_onnx(Compose(cascade), example, ("flow",))
