import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rwcnet_export.graphs import stage_graph
from rwcnet_export.passes import optimise
from rwcnet_export.passes.outcome import Outcome, total

SIZE = (1, 4, 5, 6, 7)


def weights(*shape):
    """Return weights of about unit gain, always the same for one shape."""
    random = np.random.default_rng(sum(shape))
    return (random.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)


def run(model):
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    image = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
    return session.run(None, {"image": image})


def optimised(body, outputs, arrays, name):
    """Rewrite a graph; hold it to its old results; return its operators and one pass's outcome."""
    channels = ", ".join(f"float[b, {c}, i, j, k] {output}" for output, c in outputs.items())
    text = f"toy (float[b, {SIZE[1]}, i, j, k] image) => ({channels}) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, key) for key, array in arrays.items()
    )
    rewritten, outcomes = optimise(model)
    for before, after in zip(run(model), run(rewritten), strict=True):
        assert np.abs(before).max() > 0.1
        # Sums of the same 108 products at most, in whatever order.
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)
    assert [x.name for x in rewritten.graph.output] == list(outputs)
    (found,) = (outcome for outcome in outcomes if outcome.name == name)
    return [node.op_type for node in rewritten.graph.node], found


def test_two_gates_of_one_input_become_one_convolution():
    body = """
        update_sum = Conv <pads = [1, 1, 1, 1, 1, 1]> (image, update_weight, update_bias)
        reset_sum = Conv <pads = [1, 1, 1, 1, 1, 1]> (image, reset_weight, reset_bias)
        update = Sigmoid (update_sum)
        reset = Sigmoid (reset_sum)
        """
    arrays = {
        "update_weight": weights(3, 4, 3, 3, 3),
        "update_bias": weights(3),
        "reset_weight": weights(2, 4, 3, 3, 3),
        "reset_bias": weights(2),
    }
    operators, found = optimised(
        body, {"update": 3, "reset": 2}, arrays, "gate convolutions merged"
    )
    assert (found.fired, found.found, found.among) == (1, 2, 2)
    assert operators == ["Conv", "Split", "Sigmoid", "Sigmoid"]


@pytest.mark.parametrize(
    ("second", "shape"),
    [
        ("<pads = [2, 2, 2, 2, 2, 2], dilations = [2, 2, 2]>", (2, 4, 3, 3, 3)),
        ("<pads = [0, 0, 0, 0, 0, 0]>", (2, 4, 1, 1, 1)),
        ("<pads = [1, 1, 1, 1, 1, 1], group = 2>", (2, 2, 3, 3, 3)),
    ],
    ids=["dilated", "other window", "grouped"],
)
def test_convolutions_that_differ_stay_two(second, shape):
    body = f"""
        first = Conv <pads = [1, 1, 1, 1, 1, 1]> (image, a)
        second = Conv {second} (image, b)
        """
    arrays = {"a": weights(3, 4, 3, 3, 3), "b": weights(*shape)}
    operators, found = optimised(
        body, {"first": 3, "second": 2}, arrays, "gate convolutions merged"
    )
    assert (found.fired, found.found, found.among) == (0, 0, 2)
    assert operators == ["Conv", "Conv"]


def test_constants_are_folded():
    body = """
        two = Constant <value_float = 2.0> ()
        half = Reciprocal (two)
        quarter = Mul (half, half)
        out = Mul (image, quarter)
        """
    operators, found = optimised(body, {"out": 4}, {}, "constants folded")
    assert (found.fired, found.found, found.among) == (3, 3, 4)
    assert operators == ["Mul"]


def test_a_projection_moves_before_the_mean_over_neighbours():
    body = """
        mean = AveragePool <kernel_shape = [3, 3, 3], pads = [1, 1, 1, 1, 1, 1],
                            count_include_pad = 1> (image)
        out = Conv (mean, projection)
        """
    arrays = {"projection": weights(2, 4, 1, 1, 1)}
    operators, found = optimised(body, {"out": 2}, arrays, "projections moved before means")
    assert (found.fired, found.found, found.among) == (1, 1, 1)
    assert operators == ["Conv", "AveragePool"]


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        ("Conv (mean, projection, bias)", (2, 4, 1, 1, 1)),  # zeros at the border get no bias
        ("Conv <pads = [1, 1, 1, 1, 1, 1]> (mean, projection)", (2, 4, 3, 3, 3)),
        ("Conv (mean, projection)", (5, 4, 1, 1, 1)),  # more channels to average, not fewer
    ],
    ids=["bias", "window", "wider"],
)
def test_other_convolutions_stay_behind_the_mean(call, shape):
    body = f"""
        mean = AveragePool <kernel_shape = [3, 3, 3], pads = [1, 1, 1, 1, 1, 1],
                            count_include_pad = 1> (image)
        out = {call}
        """
    arrays = {"projection": weights(*shape), "bias": weights(2)}
    operators, found = optimised(body, {"out": shape[0]}, arrays, "projections moved before means")
    assert (found.fired, found.found, found.among) == (0, 0, 1)
    assert operators == ["AveragePool", "Conv"]


def test_what_two_steps_have_in_common_is_computed_once():
    body = """
        first_root = Abs (image)
        first = Sqrt (first_root)
        second_root = Abs (image)
        second = Sqrt (second_root)
        out = Add (first, second)
        """
    operators, found = optimised(body, {"out": 4}, {}, "nodes shared between steps")
    assert (found.fired, found.found, found.among) == (2, 2, 5)
    assert operators == ["Abs", "Sqrt", "Add"]


def test_a_pass_that_finds_nothing_says_what_it_looked_at_and_functions_are_kept(cascade):
    model = stage_graph(cascade, 0)
    rewritten, outcomes = optimise(model)
    assert list(rewritten.functions) == list(model.functions)
    assert rewritten.SerializeToString() == model.SerializeToString()
    nodes = len(model.graph.node)
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert [str(outcome) for outcome in outcomes] == [
        f"gate convolutions merged: 0 (0 of {convolutions} convolutions share their input and "
        "their window with another)",
        f"constants folded: 0 (0 of {nodes} nodes depend on no input)",
        "projections moved before means: 0 (0 of 0 average poolings are read by a narrower "
        "projection alone)",
        f"nodes shared between steps: 0 (0 of {nodes} nodes repeat another)",
    ]


def test_outcomes_of_several_graphs_add_up():
    one, other = (Outcome("a pass", *counts, "nodes fit") for counts in ((1, 2, 5), (0, 1, 7)))
    assert str(total([one, other])) == "a pass: 1 (3 of 12 nodes fit)"
