"""The local correlation by dot product written with slices: what our body is compared with."""

from __future__ import annotations

import itertools


def slice_bodies(n: int) -> dict[str, str]:
    """Return ONNX functions (fixed, moving, weight, bias) => (out) for n offsets along an axis."""
    return {"slices, costs": _costs(n), "slices, summed": _summed(n), "unfolded": _unfolded(n)}


def _function(n: int, lines: list[str]) -> str:
    pads = [0, 0, *[n // 2] * 3] * 2
    start = [
        "LocalCorrelation3d <radius, metric> (fixed, moving, weight, bias) => (out) {",
        f"pads = Constant <value_ints = {pads}> ()",
        "padded = Pad (moving, pads)",
        "size = Shape <start = 2> (fixed)",
        "one = Constant <value_ints = [1]> ()",
        "spatial = Constant <value_ints = [2, 3, 4]> ()",
    ]
    return "\n".join([*start, *lines, "}"])


def _cost(name: str, offset: tuple[int, ...]) -> list[str]:
    """Write the correlation with one offset, (b, 1, i, j, k)."""
    return [
        f"first{name} = Constant <value_ints = {list(offset)}> ()",
        f"end{name} = Add (first{name}, size)",
        f"there{name} = Slice (padded, first{name}, end{name}, spatial)",
        f"product{name} = Mul (fixed, there{name})",
        f"cost{name} = ReduceSum <keepdims = 1> (product{name}, one)",
    ]


def _costs(n: int) -> str:
    """Write down all costs, then project them: the cost volume exists."""
    offsets = list(itertools.product(range(n), repeat=3))
    lines = list(itertools.chain.from_iterable(_cost(f"_{k}", o) for k, o in enumerate(offsets)))
    joined = ", ".join(f"cost_{k}" for k in range(n**3))
    return _function(
        n,
        [
            *lines,
            f"costs = Concat <axis = 1> ({joined})",
            f"kernel_shape = Constant <value_ints = {[-1, n**3, 1, 1, 1]}> ()",
            "kernel = Reshape (weight, kernel_shape)",
            "out = Conv (costs, kernel, bias)",
        ],
    )


def _summed(n: int) -> str:
    """Add up what each offset gives to the outputs: one cost is alive at a time."""
    lines = [
        "shift_shape = Constant <value_ints = [1, -1, 1, 1, 1]> ()",
        "total_0 = Reshape (bias, shift_shape)",
        f"column_shape = Constant <value_ints = {[1, -1, n**3, 1, 1, 1]}> ()",
        "columns = Reshape (weight, column_shape)",
        f"{', '.join(f'wide_{k}' for k in range(n**3))} = "
        f"Split <axis = 2, num_outputs = {n**3}> (columns)",
        "two = Constant <value_ints = [2]> ()",
    ]
    for k, offset in enumerate(itertools.product(range(n), repeat=3)):
        total = "out" if k == n**3 - 1 else f"total_{k + 1}"
        lines += [
            *_cost(f"_{k}", offset),
            f"column_{k} = Squeeze (wide_{k}, two)",
            f"part_{k} = Mul (cost_{k}, column_{k})",
            f"{total} = Add (total_{k}, part_{k})",
        ]
    return _function(n, lines)


def _unfolded(n: int) -> str:
    """Unfold along k and j by 2 n slices, then project the n^2 costs of each offset along i."""
    lines = [
        "depth = Shape <start = 2, end = 3> (fixed)",
        "height = Shape <start = 3, end = 4> (fixed)",
        "width = Shape <start = 4, end = 5> (fixed)",
        "axis_i = Constant <value_ints = [3]> ()",
        "axis_j = Constant <value_ints = [4]> ()",
        "axis_k = Constant <value_ints = [4]> ()",
        "two = Constant <value_ints = [2]> ()",
        "still = Unsqueeze (fixed, one)",
        f"kernel_shape = Constant <value_ints = {[-1, n, n * n, 1, 1, 1]}> ()",
        "kernels = Reshape (weight, kernel_shape)",
        f"{', '.join(f'wide_{a}' for a in range(n))} = "
        f"Split <axis = 1, num_outputs = {n}> (kernels)",
    ]
    for c in range(n):
        lines += [
            f"first_k{c} = Constant <value_ints = [{c}]> ()",
            f"end_k{c} = Add (first_k{c}, width)",
            f"slice_k{c} = Slice (padded, first_k{c}, end_k{c}, axis_k)",
            f"along_k{c} = Unsqueeze (slice_k{c}, one)",
        ]
    lines.append(f"by_k = Concat <axis = 1> ({', '.join(f'along_k{c}' for c in range(n))})")
    for b in range(n):
        lines += [
            f"first_j{b} = Constant <value_ints = [{b}]> ()",
            f"end_j{b} = Add (first_j{b}, height)",
            f"along_j{b} = Slice (by_k, first_j{b}, end_j{b}, axis_j)",
        ]
    lines.append(f"by_jk = Concat <axis = 1> ({', '.join(f'along_j{b}' for b in range(n))})")
    for a in range(n):
        total = "out" if a == n - 1 else f"total_{a}"
        lines += [
            f"first_i{a} = Constant <value_ints = [{a}]> ()",
            f"end_i{a} = Add (first_i{a}, depth)",
            f"there_{a} = Slice (by_jk, first_i{a}, end_i{a}, axis_i)",
            f"product_{a} = Mul (still, there_{a})",
            f"costs_{a} = ReduceSum <keepdims = 0> (product_{a}, two)",
            f"kernel_{a} = Squeeze (wide_{a}, one)",
        ]
        if a == 0:
            lines.append(f"{total} = Conv (costs_{a}, kernel_{a}, bias)")
        else:
            lines += [
                f"part_{a} = Conv (costs_{a}, kernel_{a})",
                f"{total} = Add (total_{a - 1}, part_{a})",
            ]
    return _function(n, lines)
