"""Whatever a builder does in its child process becomes a result or one sentence."""

import json

import pytest

from rwcnet_runtime.engines.build import build, parse
from rwcnet_runtime.engines.products import find_product
from rwcnet_runtime.errors import BackendError, InputError

SIZES = ((1, 8, 8, 8), (1, 16, 16, 16), (2, 32, 32, 32))
PROFILE = {"fixed": SIZES, "moving": SIZES, "hidden": ((1, 4, 4, 4), (1, 8, 8, 8), (2, 16, 16, 16))}


def built(product, tmp_path, **options):
    plan = tmp_path / "engine.plan"
    options = {"gpu": False, "plugin": False} | options
    summary = build(product, tmp_path / "stage2.onnx", plan, PROFILE, **options)
    return json.loads(plan.read_bytes()), summary


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("import os; os.abort()", "crashed on .*stage2.onnx with SIGABRT"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "was killed while it was at .*stage2.onnx, .* memory ran out: give a smaller --shape",
        ),
        ("import time; time.sleep(60)", "not done with .*stage2.onnx after 1 s and was stopped"),
        ("raise OSError('no such library')", "failed on .*stage2.onnx: OSError: no such library"),
        ("raise SystemExit(1)", "failed on .*stage2.onnx: no reason given"),
        (
            "OnnxParser.parse_from_file = lambda self, path: False\n"
            "OnnxParser.get_error = lambda self, n: Error('Resize', 'no cubic')",
            "the graph is refused: no cubic",
        ),
        (
            "def fail(self, network, config):\n"
            "    self.logger.log(1, 'too\\nlarge')\n"
            "Builder.build_serialized_network = fail",
            "no engine came of it: too large",
        ),
    ],
)
def test_one_sentence_a_misfortune(install, tmp_path, more, says):
    product = install("tensorrt-rtx", more)
    limit_s = 1 if "stopped" in says else 60
    with pytest.raises(BackendError, match=f"^TensorRT-RTX 9.9 .*{says}") as caught:
        built(product, tmp_path, limit_s=limit_s)
    assert "\n" not in str(caught.value)


def test_what_the_builder_is_asked_for(install, tmp_path):
    asked, _ = built(install("tensorrt-rtx"), tmp_path)
    assert asked == {
        "onnx": str(tmp_path / "stage2.onnx"),
        "flags": 1 << 3,  # strongly typed
        "cleared": ["TF32"],
        "verbosity": "detailed",
        "timing": None,
        "sizes": {
            name: [[b, 16 if name == "hidden" else 1, *grid] for b, *grid in sizes]
            for name, sizes in PROFILE.items()
        },
    }


def test_times_are_kept_from_one_build_to_the_next(install, tmp_path):
    product, places = install("tensorrt"), (tmp_path / "old", tmp_path / "new")
    asked, _ = built(product, tmp_path, timing_cache=places)
    assert (asked["timing"], places[1].read_bytes()) == ("", b"t")
    places[1].replace(places[0])
    asked, _ = built(product, tmp_path, timing_cache=places)
    assert (asked["timing"], places[1].read_bytes()) == ("t", b"tt")


# Sizes are no layers of a precision, whatever their type.
NETWORK = ("network", 7, 2, 1, 1, 1)


@pytest.mark.parametrize(
    ("gpu", "more", "summary"),
    [
        (False, "", NETWORK),
        (True, "", ("engine", 8, 2, 2, 2, 1)),
        (
            True,
            "Runtime.deserialize_cuda_engine = lambda self, plan: None",
            NETWORK,
        ),
    ],
)
def test_layers_are_counted(install, tmp_path, gpu, more, summary):
    _, found = built(install("tensorrt", more), tmp_path, gpu=gpu)
    names = ("of", "layers", "fp32_layers", "fp16_layers", "bf16_layers", "plugin_layers")
    assert found == dict(zip(names, summary, strict=True))


def test_the_plugin_is_registered_where_it_is_asked_for(install, tmp_path):
    product = install("tensorrt")
    counts = [built(product, tmp_path, plugin=plugin)[1]["plugin_layers"] for plugin in (0, 1)]
    assert counts == [1, 2]
    (tmp_path / "site" / "tensorrt" / "plugin.py").unlink()
    with pytest.raises(BackendError, match=r"TensorRT 9\.9 failed .* needs TensorRT 10\.13"):
        built(product, tmp_path, plugin=True)


def test_what_a_parser_refuses_is_named(install, tmp_path):
    (tmp_path / "stage2.onnx").write_bytes(b"")
    product = install("tensorrt-rtx")
    assert parse(product, tmp_path / "stage2.onnx") == {"nodes": 4, "refused": []}
    install(
        "tensorrt-rtx",
        "OnnxParser.num_errors = 1\n"
        "OnnxParser.get_error = lambda self, n: Error('Resize', 'no cubic')",
    )
    found = parse(product, tmp_path / "stage2.onnx")
    assert found == {"nodes": 4, "refused": ["Resize (no cubic)"]}


def test_products_by_name(install, monkeypatch):
    product = install("tensorrt")
    assert find_product("tensorrt") == product
    assert product.version == "9.9"
    with pytest.raises(InputError, match="choose tensorrt or tensorrt-rtx"):
        find_product("trt")
    monkeypatch.setattr("rwcnet_runtime.engines.products.version_of", lambda name: None)
    for name, title in (("tensorrt", "TensorRT"), ("tensorrt-rtx", "TensorRT-RTX")):
        with pytest.raises(
            BackendError, match=rf'^{title} is not installed: pip install "rwcnet\[{name}\]"$'
        ):
            find_product(name)
