"""Drive the plugin through TensorRT's bindings as TensorRT does, and print as JSON what it answers.

A script for a process of its own: the bindings are there, the libraries behind them are empty, so
that the registry and the expressions of dynamic sizes are played here.
"""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt


class Expression:
    """A size that is known: what a dimension of a dynamic shape becomes when a plan runs."""

    def __init__(self, value):
        self.value = value

    def is_constant(self):
        return False  # as for dynamic sizes


class Builder:
    def constant(self, value):
        return Expression(value)

    def operation(self, operation, first, second):
        a, b = first.value, second.value
        return Expression(
            {
                trt.DimensionOperation.SUM: a + b,
                trt.DimensionOperation.PROD: a * b,
                trt.DimensionOperation.CEIL_DIV: -(-a // b) if b else None,
            }[operation]
        )


class Scalars(dict):
    """The kernel's arguments between its inputs and outputs."""


class Registry(dict):
    def register_creator(self, creator, namespace):
        self[namespace, creator.name] = creator

    def get_creator(self, name, version, namespace):
        return self[namespace, name]


registry = Registry()
trt.get_plugin_registry = lambda: registry
trt.IDimensionExpr = Expression
trt.ISymExpr = SimpleNamespace
trt.DimsExprs = lambda length: [None] * length


def tensor(shape, dtype):
    """Describe a tensor whose batch and grid are not known when the plan is built."""
    description = trt.DynamicPluginTensorDesc()
    free = len(shape) == 5 and shape[1] != 1
    description.desc.dims = [-1 if free and n != 1 else size for n, size in enumerate(shape)]
    description.desc.type = dtype
    description.desc.format = trt.TensorFormat.LINEAR
    return description


def answers(dtype, radius, metric, channels, outputs, batch, size):
    """Return what the plugin answers TensorRT."""
    creator = registry.get_creator("LocalCorrelation3d", "1", "rwcnet")
    fields = [
        # As the parser of TensorRT 11.4 (and RTX 1.7) hands attributes over.
        trt.PluginField("radius", np.array([radius], np.int32), trt.PluginFieldType.INT32),
        trt.PluginField("metric", metric.encode() + b"\0", trt.PluginFieldType.CHAR),
    ]
    plugin = creator.create_plugin(
        "LocalCorrelation3d",
        "rwcnet",
        trt.PluginFieldCollection(fields),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.STRICT_AOT,
    )
    n = 2 * radius + 1
    maps = (batch, channels, *size)
    shapes = [maps, maps, (outputs, 1, n, n, n), (outputs,)]
    types = plugin.get_output_data_types([dtype] * 4, [len(shape) for shape in shapes])
    expressions = [[Expression(n) for n in shape] for shape in shapes]
    (shape,) = plugin.get_output_shapes(expressions, [], Builder())
    out = (batch, outputs, *size)
    tensors = [tensor(shape, dtype) for shape in (*shapes, out)]
    formats = plugin.get_supported_format_combinations(tensors, 4)
    plugin.configure_plugin(tensors[:4], tensors[4:])
    plugin.set_tactic(0)
    launch, scalars = SimpleNamespace(), Scalars()
    plugin.get_launch_params(expressions, tensors, 4, launch, scalars, Builder())
    flat = [x.desc for x in tensors]
    name, ptx = plugin.get_kernel(flat[:4], flat[4:])
    return {
        "dtype": [str(x) for x in types],
        "shape": [x.value for x in shape],
        "formats": [str(x.type) for x in formats],
        "launch": {name: x.expr.value for name, x in vars(launch).items()},
        "sizes": [scalars[n].expr.value for n in range(scalars.nbSymExprs)],
        "name": name,
        "half": b"cvt.rn.f16" in ptx,
        "parameters": re.findall(rb"\.param \.(\w+)", ptx.split(b".entry")[1].split(b")")[0]),
    }


if __name__ == "__main__":
    from rwcnet_runtime.kernels import plugin

    plugin.register()
    plugin.register()  # twice is once
    cases = json.loads(sys.argv[1])
    found = [answers(getattr(trt.DataType, case.pop("type")), **case) for case in cases]
    sys.stdout.write(json.dumps(found, default=bytes.decode))
