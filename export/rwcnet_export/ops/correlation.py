"""`LocalCorrelation3d`: correlate within a cube of offsets and project, without the cost volume."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rwcnet_export.ops.call import PLUGIN
from rwcnet_ref.correlation import LocalCorrelation, Metric
from rwcnet_ref.published import AbsoluteDifference

# Channels of a map, all outputs of all features taken together, beside the features themselves.
_MOST_ALIVE = 32


class _Exportable(nn.Module):
    def __init__(self, weight: Tensor, bias: Tensor, radius: int, metric: Metric) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().contiguous())
        self.bias = nn.Parameter(bias.detach())
        self.radius, self.metric = radius, metric

    def forward(self, fixed: Tensor, moving: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            "rwcnet::LocalCorrelation3d",
            (fixed, moving, self.weight, self.bias),
            {"radius": self.radius, "metric": self.metric, **PLUGIN},
            dtype=fixed.dtype,
            shape=(fixed.shape[0], self.weight.shape[0], *fixed.shape[2:]),
            version=1,
        )


def exportable(module: nn.Module) -> nn.Module | None:
    """Return the exportable twin of a local correlation, None for any other module."""
    if isinstance(module, LocalCorrelation):
        return _Exportable(module.weight, module.bias, module.radius, "dot")
    if isinstance(module, AbsoluteDifference):
        return _Exportable(module.kernel(), module.bias, module.radius, "absolute_difference")
    return None


def function_body(metric: str, channels: int = 0, outputs: int = 0) -> str:
    """Return the ONNX function of a metric as text.

    `radius` and `metric` are for the plugin: here the weight's shape, and which of the bodies it
    is, say the same.

    Parameters
    ----------
    metric
        "dot" or "absolute_difference".
    channels, outputs
        Of the features and of the result, 0 where that is not known. Where both are, the body of
        "dot" has no more than 32 channels alive at a time, or those of one feature if these are
        more; else it is one for any number of channels, all alive at once.
    """
    if metric == "absolute_difference":
        return _ABSOLUTE_DIFFERENCE
    if not (channels and outputs):
        return _dot(1)
    together = max(1, _MOST_ALIVE // outputs)  # channels of the features
    return _dot(math.ceil(channels / together))


def _dot(groups: int) -> str:
    """Return the body that goes through the channels of the features in so many groups.

    Correlation and projection are both linear, so for each feature channel the projection weights
    are a (2r+1)^3 convolution kernel of the moving channel:
    out[o] = bias[o] + sum_c fixed[c] * conv(moving[c], weight[o]). With an odd kernel, SAME_UPPER
    pads r zeros on every side, as the definition does. Groups are written out, since not every
    engine takes a loop with a convolution whose sizes are known at run time only.
    """
    lines = [
        "LocalCorrelation3d <radius, metric> (fixed, moving, weight, bias) => (out) {",
        "size = Shape <start = 2> (fixed)",
        "one = Constant <value_ints = [1]> ()",
        "two = Constant <value_ints = [2]> ()",
        "any = Constant <value_ints = [-1]> ()",
        "batch = Shape <start = 0, end = 1> (fixed)",
        "outputs = Shape <start = 0, end = 1> (weight)",
        "single_shape = Concat <axis = 0> (any, one, size)",
        "by_channel_shape = Concat <axis = 0> (batch, any, outputs, size)",
    ]
    fixed = [f"fixed{n}" for n in range(groups)]
    moving = [f"moving{n}" for n in range(groups)]
    if groups == 1:
        fixed, moving = ["fixed"], ["moving"]
    else:
        lines += [
            f"{', '.join(fixed)} = Split <axis = 1, num_outputs = {groups}> (fixed)",
            f"{', '.join(moving)} = Split <axis = 1, num_outputs = {groups}> (moving)",
        ]
    total = ""
    for n in range(groups):
        lines += [
            f"single{n} = Reshape ({moving[n]}, single_shape)",
            f'convolved{n} = Conv <auto_pad = "SAME_UPPER"> (single{n}, weight)',
            f"by_channel{n} = Reshape (convolved{n}, by_channel_shape)",
            f"still{n} = Unsqueeze ({fixed[n]}, two)",
            f"products{n} = Mul (still{n}, by_channel{n})",
            f"part{n} = ReduceSum <keepdims = 0> (products{n}, one)",
        ]
        if total:
            lines.append(f"sum{n} = Add ({total}, part{n})")
            total = f"sum{n}"
        else:
            total = f"part{n}"
    lines += [
        "bias_shape = Constant <value_ints = [1, -1, 1, 1, 1]> ()",
        "shift = Reshape (bias, bias_shape)",
        f"out = Add ({total}, shift)",
        "}",
    ]
    return "\n".join(lines)


# No such identity here: a loop over the offsets, one alive at a time. The sum over channels is
# part of the projection, as a matrix whose rows are all the weights of the offset; and the mean
# over neighbours, linear too, comes after it, on o channels instead of n^3. Features are rows of
# channels, and an offset is a constant added to where the rows are: TensorRT-RTX builds no loop
# whose slices begin elsewhere each time.
_ABSOLUTE_DIFFERENCE = """
    LocalCorrelation3d <radius, metric> (fixed, moving, weight, bias) => (out) {
        zero = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()
        any = Constant <value_ints = [-1]> ()
        batch = Shape <start = 0, end = 1> (fixed)
        channels = Shape <start = 1, end = 2> (fixed)
        size = Shape <start = 2> (fixed)
        outputs = Shape <start = 0, end = 1> (weight)
        n = Shape <start = 2, end = 3> (weight)
        n_squared = Mul (n, n)
        all_but_one = Sub (n, one)
        r = Div (all_but_one, two)
        pads = Concat <axis = 0> (zero, zero, r, r, r, zero, zero, r, r, r)
        padded = Pad (moving, pads)
        rows_shape = Concat <axis = 0> (batch, any, channels)
        fixed_last = Transpose <perm = [0, 2, 3, 4, 1]> (fixed)
        fixed_rows = Reshape (fixed_last, rows_shape)
        moving_last = Transpose <perm = [0, 2, 3, 4, 1]> (padded)
        moving_rows = Reshape (moving_last, rows_shape)

        # Where the rows of the first offset are, voxel by voxel.
        padded_size = Add (size, all_but_one)
        deep, high, line = Split <axis = 0, num_outputs = 3> (padded_size)
        plane = Mul (high, line)
        first = Constant <value = int64 {0}> ()
        step = Constant <value = int64 {1}> ()
        size0, size1, size2 = Split <axis = 0, num_outputs = 3> (size)
        last0 = Squeeze (size0)
        last1 = Squeeze (size1)
        last2 = Squeeze (size2)
        count0 = Range (first, last0, step)
        count1 = Range (first, last1, step)
        count2 = Range (first, last2, step)
        axis0 = Constant <value_ints = [-1, 1, 1]> ()
        axis1 = Constant <value_ints = [-1, 1]> ()
        along0 = Reshape (count0, axis0)
        along1 = Reshape (count1, axis1)
        row0 = Mul (along0, plane)
        row1 = Mul (along1, line)
        row01 = Add (row0, row1)
        row012 = Add (row01, count2)
        rows = Reshape (row012, any)

        planes_shape = Concat <axis = 0> (outputs, any)
        planes = Reshape (weight, planes_shape)
        by_offset = Transpose <perm = [1, 0]> (planes)
        offsets = Shape <start = 0, end = 1> (by_offset)
        trips = Squeeze (offsets)
        yes = Constant <value = bool {1}> ()
        matrix_shape = Concat <axis = 0> (channels, outputs)
        voxels = Shape (rows)
        total_shape = Concat <axis = 0> (batch, voxels, outputs)
        nothing_f = Constant <value = float {0.0}> ()
        nothing = CastLike (nothing_f, fixed)
        start = Expand (nothing, total_shape)
        total = Loop <body = add_offset (int64 k, bool going, so_far) => (on, more) {
            on = Identity (going)
            index = Unsqueeze (k, zero)
            a = Div (index, n_squared)
            within_plane = Mod (index, n_squared)
            b = Div (within_plane, n)
            c = Mod (within_plane, n)
            planes_on = Mul (a, plane)
            lines_on = Mul (b, line)
            rows_on = Add (lines_on, c)
            all_on = Add (planes_on, rows_on)
            shifted = Add (rows, all_on)
            there = Gather <axis = 1> (moving_rows, shifted)
            difference = Sub (fixed_rows, there)
            distance = Abs (difference)
            weights = Gather <axis = 0> (by_offset, k)
            matrix = Expand (weights, matrix_shape)
            part = MatMul (distance, matrix)
            more = Add (so_far, part)
        }> (trips, yes, start)
        last_shape = Concat <axis = 0> (batch, size, outputs)
        unpooled_last = Reshape (total, last_shape)
        unpooled = Transpose <perm = [0, 4, 1, 2, 3]> (unpooled_last)
        mean = AveragePool <kernel_shape = [3, 3, 3], pads = [1, 1, 1, 1, 1, 1],
                            count_include_pad = 1> (unpooled)
        bias_shape = Constant <value_ints = [1, -1, 1, 1, 1]> ()
        shift = Reshape (bias, bias_shape)
        out = Add (mean, shift)
    }"""
