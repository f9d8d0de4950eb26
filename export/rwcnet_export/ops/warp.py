"""`Warp3d`: trilinear sampling where a flow points, zeros outside the image."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from rwcnet_export.ops.call import PLUGIN
from rwcnet_ref.grid import Warp


class _Exportable(nn.Module):
    def forward(self, image: Tensor, flow_vox: Tensor) -> Tensor:
        return torch.onnx.ops.symbolic(
            "rwcnet::Warp3d",
            (image, flow_vox),
            dict(PLUGIN),
            dtype=image.dtype,
            shape=image.shape,
            version=1,
        )


def exportable(module: nn.Module) -> nn.Module | None:
    """Return the exportable twin of a `Warp`, None for any other module."""
    return _Exportable() if isinstance(module, Warp) else None


def function_body() -> str:
    """Return the ONNX function as text: eight gathers from the image, channels last.

    Gathers run on every engine, and on a CPU twice as fast as GridSample (which OpenVINO and
    TensorRT before 11.2.1 do not have in 5-D). A corner outside the image weighs nothing.
    """
    lines = [
        "Warp3d (image, flow) => (warped) {",
        "shape = Shape (image)",
        "batch = Shape <start = 0, end = 1> (image)",
        "channels = Shape <start = 1, end = 2> (image)",
        "zero = Constant <value = int64 {0}> ()",
        "one = Constant <value = int64 {1}> ()",
        "zero_f = Constant <value = float {0.0}> ()",
        "one_f = Constant <value = float {1.0}> ()",
        "any = Constant <value_ints = [-1]> ()",
        "flow_f = Cast <to = 1> (flow)",
        "flow0, flow1, flow2 = Split <axis = 1, num_outputs = 3> (flow_f)",
    ]
    for axis in range(3):
        grid = [1, 1, 1, 1, 1]
        grid[axis + 2] = -1
        lines += [
            f"index{axis} = Constant <value = int64 {{{axis + 2}}}> ()",
            f"n{axis} = Gather (shape, index{axis})",
            f"count{axis} = Range (zero, n{axis}, one)",
            f"count_f{axis} = Cast <to = 1> (count{axis})",
            f"axis_shape{axis} = Constant <value_ints = {grid}> ()",
            f"here{axis} = Reshape (count_f{axis}, axis_shape{axis})",
            f"x{axis} = Add (here{axis}, flow{axis})",
            f"low{axis} = Floor (x{axis})",
            f"part{axis}_1 = Sub (x{axis}, low{axis})",
            f"part{axis}_0 = Sub (one_f, part{axis}_1)",
            f"last{axis} = Sub (n{axis}, one)",
            f"last_f{axis} = Cast <to = 1> (last{axis})",
            f"corner{axis}_0 = Identity (low{axis})",
            f"corner{axis}_1 = Add (low{axis}, one_f)",
        ]
        for side in range(2):
            name = f"{axis}_{side}"
            lines += [
                # Clipped before the cast: a float beyond int64 has no defined cast.
                f"clipped{name} = Clip (corner{name}, zero_f, last_f{axis})",
                f"inside{name} = Equal (clipped{name}, corner{name})",
                f"inside_f{name} = Cast <to = 1> (inside{name})",
                f"weight{name} = Mul (part{name}, inside_f{name})",
                f"at{name} = Cast <to = 7> (clipped{name})",
            ]
    lines += [
        "plane = Mul (n1, n2)",
        "volume = Mul (n0, plane)",
        "batch_scalar = Squeeze (batch)",
        "batches = Range (zero, batch_scalar, one)",
        "batch_shape = Constant <value_ints = [-1, 1, 1, 1, 1]> ()",
        "batch_index = Reshape (batches, batch_shape)",
        "batch_start = Mul (batch_index, volume)",
        "last_first = Transpose <perm = [0, 2, 3, 4, 1]> (image)",
        "rows_shape = Concat <axis = 0> (any, channels)",
        "rows = Reshape (last_first, rows_shape)",
    ]
    lines += [f"row0_{side}_0 = Mul (at0_{side}, plane)" for side in range(2)]
    lines += [f"row0_{side} = Add (row0_{side}_0, batch_start)" for side in range(2)]
    lines += [f"row1_{side} = Mul (at1_{side}, n2)" for side in range(2)]
    total = ""
    for a, b in itertools.product(range(2), repeat=2):
        lines += [
            f"row{a}{b} = Add (row0_{a}, row1_{b})",
            f"weight{a}{b} = Mul (weight0_{a}, weight1_{b})",
        ]
        for c in range(2):
            corner = f"{a}{b}{c}"
            lines += [
                f"row{corner} = Add (row{a}{b}, at2_{c})",
                f"flat{corner} = Reshape (row{corner}, any)",
                f"value{corner} = Gather <axis = 0> (rows, flat{corner})",
                f"weight{corner}_f = Mul (weight{a}{b}, weight2_{c})",
                f"weight{corner} = CastLike (weight{corner}_f, image)",
                f"column_shape{corner} = Constant <value_ints = [-1, 1]> ()",
                f"column{corner} = Reshape (weight{corner}, column_shape{corner})",
                f"term{corner} = Mul (value{corner}, column{corner})",
            ]
            if total:
                lines.append(f"sum{corner} = Add ({total}, term{corner})")
                total = f"sum{corner}"
            else:
                total = f"term{corner}"
    lines += [
        "size = Shape <start = 2> (image)",
        "joined_shape = Concat <axis = 0> (batch, size, channels)",
        f"joined = Reshape ({total}, joined_shape)",
        "warped = Transpose <perm = [0, 4, 1, 2, 3]> (joined)",
        "}",
    ]
    return "\n".join(lines)
