"""`LocalCorrelation3d`: correlate within a cube of offsets and project, without the cost volume."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rwcnet_export.ops.call import PLUGIN
from rwcnet_ref.correlation import LocalCorrelation


class _Exportable(nn.Module):
    def __init__(self, definition: LocalCorrelation) -> None:
        super().__init__()
        self.weight, self.bias, self.radius = definition.weight, definition.bias, definition.radius

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            "rwcnet::LocalCorrelation3d",
            (fixed, moving, self.weight, self.bias),
            {"radius": self.radius, "metric": "dot", **PLUGIN},
            dtype=fixed.dtype,
            shape=(fixed.shape[0], self.weight.shape[0], *fixed.shape[2:]),
            version=1,
        )


def exportable(module: nn.Module) -> nn.Module | None:
    """Return the exportable twin of a `LocalCorrelation`, None for any other module."""
    return _Exportable(module) if isinstance(module, LocalCorrelation) else None


def function_body() -> str:
    """Return the ONNX function as text.

    Correlation and projection are both linear, so for each feature channel the projection weights
    are a (2r+1)^3 convolution kernel of the moving channel:
    ``out[o] = bias[o] + sum_c fixed[c] * conv(moving[c], weight[o])``. With an odd kernel,
    SAME_UPPER pads r zeros on every side, as the definition does. `radius` and `metric` are for
    the plugin: here the weight's shape says the same.
    """
    return """
    LocalCorrelation3d <radius, metric> (fixed, moving, weight, bias) => (out) {
        size = Shape <start = 2> (fixed)
        one = Constant <value_ints = [1]> ()
        any = Constant <value_ints = [-1]> ()
        outputs = Shape <start = 0, end = 1> (weight)
        single_shape = Concat <axis = 0> (any, one, size)
        single = Reshape (moving, single_shape)
        convolved = Conv <auto_pad = "SAME_UPPER"> (single, weight)
        channels = Shape <start = 1, end = 2> (fixed)
        by_channel_shape = Concat <axis = 0> (any, channels, outputs, size)
        by_channel = Reshape (convolved, by_channel_shape)
        two = Constant <value_ints = [2]> ()
        still = Unsqueeze (fixed, two)
        products = Mul (still, by_channel)
        total = ReduceSum <keepdims = 0> (products, one)
        bias_shape = Constant <value_ints = [1, -1, 1, 1, 1]> ()
        shift = Reshape (bias, bias_shape)
        out = Add (total, shift)
    }"""
