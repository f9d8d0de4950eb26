"""From an fp32 graph to one in fp16 or bf16, with every cast written into the graph.

The rule: all nodes compute in the low type, except

- the flow path, which is what lies between the last convolution, that of the flow head, and a flow:
  the output of that name, or where a `Warp3d` samples. A coordinate near 200 has steps of an eighth
  of a voxel in fp16 and of one voxel in bf16, and what a flow is added up from must not drift;
- normalisations over the extent of an image, which add up millions of squares.

Sizes and indices have no precision. Norms over the few channels of a voxel are low like the rest:
they add up no more than a few squares.

Inputs and outputs stay float32. A tensor is cast once, where a node of the other kind first reads
it, so that no two low nodes ever have casts between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

LOW_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
ENGINES = ("fp32", *LOW_TYPES)

# The first opset in which every operator we use takes bf16; fp16 needs no other than fp32. From 20
# to 22 these operators gained types and nothing else.
_BF16_OPSET = 22
_FLOW = "flow"
# What makes values from others that are no flow: a path followed from a flow ends there.
_NO_FLOW = frozenset({"Conv", "LocalCorrelation3d", "Shape"})
_NORMALISATIONS = frozenset({"InstanceNormalization"})
# These write the type of their output into their attributes, and it is float32.
_TYPED = frozenset({"Cast", "Constant", "ConstantOfShape"})
# Inputs that are float32 whatever the node computes in: the scales of a Resize, the flow.
_FLOAT_INPUTS = {"Resize": (2,), "Warp3d": (1,)}


@dataclass(frozen=True)
class Count:
    """Nodes of a graph with floating outputs: in the low type, in float32, and casts."""

    low: int
    full: int
    casts: int

    def __str__(self) -> str:
        return f"{self.low} nodes low, {self.full} in fp32, {self.casts} casts"


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the element type of every tensor in a graph of which types were inferred."""
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def flow_path(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors between the flow head and a flow.

    Parameters
    ----------
    graph
        Of a stage, with its `Warp3d` still calls.

    Returns
    -------
    set of str
        Names; sizes and indices among them count for nothing.
    """
    makers = {name: node for node in graph.node for name in node.output}
    waiting = [value.name for value in graph.output if value.name == _FLOW]
    waiting += [node.input[1] for node in graph.node if node.op_type == "Warp3d"]
    path: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in path or name not in makers or makers[name].op_type in _NO_FLOW:
            continue
        path.update(makers[name].output)
        waiting += makers[name].input
    return path


class _Lowering:
    """One pass through a graph; what is known of its tensors by their names."""

    def __init__(self, graph: onnx.GraphProto, engine: str) -> None:
        self.engine, self.low = engine, LOW_TYPES[engine]
        self.types = element_types(graph)
        self.full = flow_path(graph)
        self.outputs = {value.name for value in graph.output}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.casts: dict[tuple[str, int], str] = {}

    def nodes(self, graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
        """Yield the nodes in their new types, each cast before its first reader."""
        for node in graph.node:
            if node.op_type == "Shape":  # takes any type, and reads no value
                yield node
                continue
            wanted = self.low if self._is_low(node) else TensorProto.FLOAT
            for n, name in enumerate(node.input):
                if self.types.get(name) in (self.low, TensorProto.FLOAT):
                    floats = n in _FLOAT_INPUTS.get(node.op_type, ())
                    kind = TensorProto.FLOAT if floats else wanted
                    yield from self._cast(name, kind)
                    node.input[n] = self.casts.get((name, kind), name)
            yield node
            for n, name in enumerate(node.output):
                if wanted == self.low and self.types.get(name) == TensorProto.FLOAT:
                    yield from self._lower_output(node, n)

    def _is_low(self, node: onnx.NodeProto) -> bool:
        return (
            node.op_type not in _NORMALISATIONS | _TYPED
            and self.full.isdisjoint(node.output)
            and any(self.types[name] == TensorProto.FLOAT for name in node.output)
        )

    def _cast(self, name: str, kind: int) -> Iterator[onnx.NodeProto]:
        if self.types[name] == kind or (name, kind) in self.casts:
            return
        suffix = "fp32" if kind == TensorProto.FLOAT else self.engine
        self.casts[name, kind] = cast = f"{name}_{suffix}"
        if name in self.weights:
            self.weights[cast] = _in_type(self.weights[name], cast, kind)
        else:
            yield helper.make_node("Cast", [name], [cast], name=f"cast_{cast}", to=kind)

    def _lower_output(self, node: onnx.NodeProto, n: int) -> Iterator[onnx.NodeProto]:
        name = node.output[n]
        if name not in self.outputs:
            self.types[name] = self.low
            return
        # An output of the graph keeps its name and its type.
        node.output[n] = self.casts[name, self.low] = f"{name}_{self.engine}"
        to = TensorProto.FLOAT
        yield helper.make_node("Cast", [node.output[n]], [name], name=f"cast_{name}", to=to)


def _in_type(tensor: TensorProto, name: str, kind: int) -> TensorProto:
    with np.errstate(over="ignore"):  # infinite then, which no comparison of flows misses
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
    return numpy_helper.from_array(values, name)


def set_opset(opsets: Iterable[onnx.OperatorSetIdProto], version: int) -> None:
    """Change the version of the operators of ONNX itself, in place."""
    for opset in opsets:
        if opset.domain == "":
            opset.version = version


def lower(model: onnx.ModelProto, engine: str) -> onnx.ModelProto:
    """Return a stage in a lower precision.

    Parameters
    ----------
    model
        The graph of a stage as `stage_graph` gives it, float32; left as it was.
    engine
        "fp16" or "bf16".

    Returns
    -------
    onnx.ModelProto
        Inputs and outputs are float32 and named as before. The functions of domain `rwcnet` are
        the same: they compute in the type of what they are given, coordinates always in float32.
    """
    lowered = shape_inference.infer_shapes(model, strict_mode=True)
    graph = lowered.graph
    lowering = _Lowering(graph, engine)
    nodes = list(lowering.nodes(graph))
    read = {name for node in nodes for name in node.input}
    weights = [tensor for name, tensor in lowering.weights.items() if name in read]
    for field, content in ((graph.node, nodes), (graph.initializer, weights)):
        copies = [type(part).FromString(part.SerializeToString()) for part in content]
        del field[:]
        field.extend(copies)
    for value in graph.value_info:
        value.type.tensor_type.elem_type = lowering.types[value.name]
    if engine == "bf16":
        for part in (lowered, *lowered.functions):
            set_opset(part.opset_import, _BF16_OPSET)
    onnx.checker.check_model(lowered, full_check=True)
    return lowered


def count(model: onnx.ModelProto) -> Count:
    """Return how many nodes of a lowered stage compute in which type."""
    types = element_types(shape_inference.infer_shapes(model).graph)
    computing = [node for node in model.graph.node if node.op_type != "Cast"]
    made = [{types.get(name) for name in node.output} for node in computing]
    low = sum(not kinds.isdisjoint(LOW_TYPES.values()) for kinds in made)
    full = sum(TensorProto.FLOAT in kinds for kinds in made)
    return Count(low, full, len(model.graph.node) - len(computing))
