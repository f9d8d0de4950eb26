import numpy as np
import onnx
import onnxruntime as ort
import pytest

from rwcnet_export.graphs import stage_graph
from rwcnet_export.passes import optimise

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
    """Rewrite a graph; hold it to its old results; return its operators and how often it fired."""
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
    (fired,) = (outcome.fired for outcome in outcomes if outcome.name == name)
    return [node.op_type for node in rewritten.graph.node], fired


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
    operators, fired = optimised(
        body, {"update": 3, "reset": 2}, arrays, "gate convolutions merged"
    )
    assert fired == 1
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
    operators, fired = optimised(
        body, {"first": 3, "second": 2}, arrays, "gate convolutions merged"
    )
    assert fired == 0
    assert operators == ["Conv", "Conv"]


def test_constants_are_folded():
    body = """
        two = Constant <value_float = 2.0> ()
        half = Reciprocal (two)
        quarter = Mul (half, half)
        out = Mul (image, quarter)
        """
    operators, fired = optimised(body, {"out": 4}, {}, "constants folded")
    assert fired == 3
    assert operators == ["Mul"]


def test_a_projection_moves_before_the_mean_over_neighbours():
    body = """
        mean = AveragePool <kernel_shape = [3, 3, 3], pads = [1, 1, 1, 1, 1, 1],
                            count_include_pad = 1> (image)
        out = Conv (mean, projection)
        """
    arrays = {"projection": weights(2, 4, 1, 1, 1)}
    operators, fired = optimised(body, {"out": 2}, arrays, "projections moved before means")
    assert fired == 1
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
    operators, fired = optimised(body, {"out": shape[0]}, arrays, "projections moved before means")
    assert fired == 0
    assert operators == ["AveragePool", "Conv"]


def test_what_two_steps_have_in_common_is_computed_once():
    body = """
        first_root = Abs (image)
        first = Sqrt (first_root)
        second_root = Abs (image)
        second = Sqrt (second_root)
        out = Add (first, second)
        """
    operators, fired = optimised(body, {"out": 4}, {}, "nodes shared between steps")
    assert fired == 2
    assert operators == ["Abs", "Sqrt", "Add"]


def test_a_pass_that_finds_nothing_says_why_and_functions_are_kept(cascade):
    model = stage_graph(cascade, 0)
    rewritten, outcomes = optimise(model)
    assert [outcome.fired for outcome in outcomes] == [0, 0, 0, 0]  # the export has run them
    assert all(f"({outcome.idle})" in str(outcome) for outcome in outcomes)
    assert list(rewritten.functions) == list(model.functions)
    assert rewritten.SerializeToString() == model.SerializeToString()
