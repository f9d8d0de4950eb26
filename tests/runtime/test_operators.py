"""What the reader of bytes finds is what onnx finds."""

from collections import Counter

import onnx
import pytest

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.errors import BundleError
from rwcnet_runtime.operators import outputs_of, read_operators


def name(domain, operator):
    return f"{domain}::{operator}" if domain else operator


def calls(graph):
    for node in graph.node:
        yield name(node.domain, node.op_type)
        for attribute in node.attribute:
            for subgraph in [attribute.g, *attribute.graphs]:
                yield from calls(subgraph)


@pytest.mark.parametrize("file", sorted(Bundle.open().manifest.files))
def test_every_graph_of_the_shipped_bundle(file):
    path = Bundle.open().graph_path(file)
    model, found = onnx.load(path), read_operators(path)
    assert found.calls == Counter(calls(model.graph))
    assert found.functions == {name(f.domain, f.name) for f in model.functions}


def test_subgraphs_count_and_other_domains_show(tmp_path):
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 20, "other" : 1]>
        g (bool b, float[2] x) => (float[2] y) {
            y = If (b) <
                then_branch = t () => (float[2] a) { a = Relu (x) },
                else_branch = e () => (float[2] c) { c = other.Thing (x) }
            >
        }
        """
    )
    onnx.save(model, tmp_path / "model.onnx")
    found = read_operators(tmp_path / "model.onnx")
    assert found.calls == {"If": 1, "Relu": 1, "other::Thing": 1}
    assert found.functions == set()


@pytest.mark.parametrize("data", [b"no model", b"\x3a\x7f", b"\x3a", b"\x3a\xff\xff"])
def test_what_is_no_onnx_file_is_one_sentence(data, tmp_path):
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="is no ONNX file"):
        read_operators(tmp_path / "model.onnx")


def test_outputs_of_an_operator_are_found_by_its_calls():
    bundle = Bundle.open()
    found = [outputs_of(bundle.stage_path(n, "fp32"), "rwcnet::Warp3d") for n in range(3)]
    assert [len(names) for names in found] == [3, 3, 0]  # the last stage has one step
    for n, names in enumerate(found):
        model = onnx.load(bundle.stage_path(n, "fp32"))
        assert names == [node.output[0] for node in model.graph.node if node.op_type == "Warp3d"]
