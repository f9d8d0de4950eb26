"""What `rwcnet_runtime.patches` does, as ONNX functions: lay patches out, run them, join them."""

from __future__ import annotations

from collections.abc import Sequence

from rwcnet_runtime.bundle import StageEntry

# Of one axis, int64. `length`, `largest` (edge of a patch) and `halo` are (1,). Out come the common
# `edge` (1,), the `starts` of the patches, and for each voxel the place of the one that answers for
# it, where the patches lie end to end.
LAYOUT = """
    PatchLayout (length, largest, halo) => (edge, starts, source) {
        zero = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()
        end = Constant <value_ints = [-1]> ()
        both = Add (halo, halo)
        step = Sub (largest, both)
        room = Sub (length, both)
        room_1 = Add (room, step)
        room_2 = Sub (room_1, one)
        fitting = Div (room_2, step)
        count = Max (fitting, one)
        others = Sub (count, one)
        overlaps = Mul (both, others)
        read = Add (length, overlaps)
        read_up = Add (read, others)
        edge = Div (read_up, count)

        zero_s = Squeeze (zero)
        one_s = Squeeze (one)
        count_s = Squeeze (count)
        length_s = Squeeze (length)
        numbers = Range (zero_s, count_s, one_s)
        way = Sub (length, edge)
        shares = Mul (numbers, way)
        gaps = Max (others, one)
        starts = Div (shares, gaps)

        negative_edge = Neg (edge)
        all_but_last = Slice (starts, zero, end)
        starts_before = Concat <axis = 0> (negative_edge, all_but_last)
        ends_before = Add (starts_before, edge)
        sums = Add (ends_before, starts)
        answers_from = Div (sums, two)
        voxels = Range (zero_s, length_s, one_s)
        column = Unsqueeze (voxels, one)
        reached = GreaterOrEqual (column, answers_from)
        reached_n = Cast <to = 7> (reached)
        reached_count = ReduceSum <keepdims = 0> (reached_n, one)
        patch = Sub (reached_count, one)
        start = Gather (starts, patch)
        within = Sub (voxels, start)
        patch_place = Mul (patch, edge)
        source = Add (patch_place, within)
    }"""

# Results of all patches, (patches, 1, c, *edge), to (1, c, i, j, k): end to end along each axis,
# and then every voxel from where PatchLayout says.
JOIN = """
    PatchJoin (parts, counts, edge, source0, source1, source2) => (joined) {
        one = Constant <value_ints = [1]> ()
        channels = Shape <start = 2, end = 3> (parts)
        apart_shape = Concat <axis = 0> (counts, channels, edge)
        apart = Reshape (parts, apart_shape)
        in_order = Transpose <perm = [3, 0, 4, 1, 5, 2, 6]> (apart)
        lengths = Mul (counts, edge)
        end_to_end_shape = Concat <axis = 0> (one, channels, lengths)
        end_to_end = Reshape (in_order, end_to_end_shape)
        joined_0 = Gather <axis = 2> (end_to_end, source0)
        joined_1 = Gather <axis = 3> (joined_0, source1)
        joined = Gather <axis = 4> (joined_1, source2)
    }"""


def in_patches_function(
    name: str, stage: str, entry: StageEntry, inputs: Sequence[str], outputs: Sequence[str]
) -> str:
    """Return a function as text that runs a stage patch by patch; calls `LAYOUT` and `JOIN`.

    Parameters
    ----------
    name
        Of the function.
    stage
        The function it calls for each patch.
    entry
        How the patches are laid out.
    inputs, outputs
        Of the stage, and in that order of this function: (1, c, i, j, k), all on one grid.
    """
    lines = [
        f"{name} ({', '.join(inputs)}) => ({', '.join(outputs)}) {{",
        "one = Constant <value_ints = [1]> ()",
        "spatial = Constant <value_ints = [2, 3, 4]> ()",
        f"size = Shape <start = 2> ({inputs[0]})",
        f"halo = Constant <value_ints = [{entry.halo}]> ()",
    ]
    if entry.patch is None:
        lines += [
            f"parts = Constant <value_ints = [{entry.parts}]> ()",
            f"rest = Constant <value_ints = [{entry.parts - 1}]> ()",
            "size_up = Add (size, rest)",
            "largest = Div (size_up, parts)",
        ]
    else:
        lines.append(f"largest = Constant <value_ints = {[entry.patch] * 3}> ()")
    lines += [
        "length0, length1, length2 = Split <axis = 0, num_outputs = 3> (size)",
        "largest0, largest1, largest2 = Split <axis = 0, num_outputs = 3> (largest)",
    ]
    for axis in range(3):
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        lines += [
            f"edge{axis}, starts{axis}, source{axis} = "
            f"rwcnet.PatchLayout (length{axis}, largest{axis}, halo)",
            f"count{axis} = Shape (starts{axis})",
            f"along{axis} = Constant <value_ints = {shape}> ()",
            f"apart{axis} = Reshape (starts{axis}, along{axis})",
        ]
    lines += [
        "edge = Concat <axis = 0> (edge0, edge1, edge2)",
        "counts = Concat <axis = 0> (count0, count1, count2)",
        "table_shape = Concat <axis = 0> (counts, one)",
        *(f"table{axis} = Expand (apart{axis}, table_shape)" for axis in range(3)),
        "table = Concat <axis = 3> (table0, table1, table2)",
        "rows_shape = Constant <value_ints = [-1, 3]> ()",
        "rows = Reshape (table, rows_shape)",
    ]
    cut = [f"{x}_cut = Slice ({x}, first, last, spatial)" for x in inputs]
    body = "\n".join(
        [
            "last = Add (first, edge)",
            *cut,
            f"{', '.join(f'{x}_part' for x in outputs)} = "
            f"rwcnet.{stage} ({', '.join(f'{x}_cut' for x in inputs)})",
        ]
    )
    found = ", ".join(f"float[1, c_{x}, x, y, z] {x}_part" for x in outputs)
    lines += [
        f"{', '.join(f'{x}_parts' for x in outputs)} = Scan <num_scan_inputs = 1, "
        f"body = one_patch (int64[3] first) => ({found}) {{\n{body}\n}}> (rows)",
        *(
            f"{x} = rwcnet.PatchJoin ({x}_parts, counts, edge, source0, source1, source2)"
            for x in outputs
        ),
        "}",
    ]
    return "\n".join(lines)
