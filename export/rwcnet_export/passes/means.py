"""A projection before the mean over neighbours: fewer channels to average.

Both are linear and act on different axes, so they commute as long as the projection adds no bias:
a border where the mean counts zeros would get less of it.
"""

from __future__ import annotations

import onnx_ir as ir

from rwcnet_export.passes.outcome import Outcome


def _projects(node: ir.Node, averaged: ir.Value) -> bool:
    """Whether a node is a 1x1x1 convolution without bias, to fewer channels than it gets."""
    if node.op_type != "Conv" or node.domain != "" or len(node.inputs) > 2:
        return False
    weight = node.inputs[1]
    if weight is None or weight.shape is None or node.inputs[0] is not averaged:
        return False
    outputs, channels, *window = tuple(weight.shape)
    plain = all(
        node.attributes.get_ints(name, [default] * 3) == [default] * len(window)
        for name, default in (("strides", 1), ("dilations", 1))
    )
    grouped = node.attributes.get_int("group", 1) != 1
    padded = any(node.attributes.get_ints("pads", [0]))
    smaller = isinstance(outputs, int) and isinstance(channels, int) and outputs < channels
    return set(window) == {1} and plain and smaller and not grouped and not padded


def project_before_mean(model: ir.Model) -> Outcome:
    """Exchange an average pooling and the projection that follows it, in place.

    Returns
    -------
    Outcome
        Fired is how many pairs were exchanged.
    """
    exchanged = 0
    pools = [node for node in model.graph if node.op_type == "AveragePool" and node.domain == ""]
    for pool in pools:
        averaged = pool.outputs[0]
        users = averaged.consumers()
        if len(users) != 1 or averaged.is_graph_output() or not _projects(users[0], averaged):
            continue
        projection = users[0]
        # The mean now reads the projection, and what read the projection reads the mean.
        first = ir.node("Conv", [pool.inputs[0], projection.inputs[1]], name=projection.name)
        second = ir.node("AveragePool", first.outputs, dict(pool.attributes), name=pool.name)
        ir.convenience.replace_nodes_and_values(
            model.graph,
            projection,
            [pool, projection],
            [first, second],
            projection.outputs,
            second.outputs,
        )
        exchanged += 1
    wanted = "average poolings are read by a narrower projection alone"
    return Outcome("projections moved before means", exchanged, exchanged, len(pools), wanted)
