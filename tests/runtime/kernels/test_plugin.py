"""TensorRT's own bindings accept the plugin, and get from it what the kernel needs.

Built into a plan and run it was not: that takes a GPU. What is tested is all of TensorRT that
is Python: the checks of signatures, symbolic shapes, and how it asks for the kernel and its launch.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rwcnet_export.ops.call import DOMAIN, PLUGIN
from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.kernels import plugin
from rwcnet_runtime.kernels.local_correlation import CorrelationKernel

SCRIPT = Path(__file__).with_name("as_tensorrt_calls.py")
COMPILER = shutil.which("cc") or shutil.which("gcc")
# What the bindings want of TensorRT's libraries: for the definition of a plugin they call none.
LIBRARIES = ["libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11"]
FUNCTIONS = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]
CASES = [
    {"type": "FLOAT", "radius": 2, "metric": "dot", "channels": 8, "outputs": 8},
    {"type": "HALF", "radius": 1, "metric": "absolute_difference", "channels": 4, "outputs": 2},
]
BATCH, SIZE = 3, [40, 48, 57]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the plugin answers TensorRT in each of the cases."""
    if importlib.util.find_spec("tensorrt_bindings") is None or COMPILER is None:
        pytest.skip("needs tensorrt-cu13-bindings 11 and a C compiler")
    folder = tmp_path_factory.mktemp("libraries")
    (folder / "nothing.c").write_text(
        "".join(f"void *{f}(void) {{ return 0; }}" for f in FUNCTIONS)
    )
    for name in LIBRARIES:
        command = [COMPILER, "-shared", "-fPIC", folder / "nothing.c", "-o", folder / name]
        subprocess.run(command, check=True)
    cases = json.dumps([case | {"batch": BATCH, "size": SIZE} for case in CASES])
    child = subprocess.run(
        [sys.executable, SCRIPT, cases],
        env=os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1])  # after TensorRT's own warnings


@pytest.mark.parametrize("nth", range(len(CASES)))
def test_tensorrt_gets_what_the_kernel_needs(answers, nth):
    answer, case = answers[nth], CASES[nth]
    half = case["type"] == "HALF"
    sizes = (case["channels"], case["outputs"], case["radius"], case["metric"])
    kernel = CorrelationKernel(*sizes, half)
    assert answer["dtype"] == [f"DataType.{case['type']}"]
    assert answer["shape"] == [BATCH, case["outputs"], *SIZE]
    assert answer["formats"] == ["DataType.FLOAT"] * 5 + ["DataType.HALF"] * 5
    assert answer["launch"] == {
        "grid_x": kernel.blocks(SIZE),
        "grid_y": BATCH,
        "grid_z": 1,
        "block_x": kernel.threads,
        "block_y": 1,
        "block_z": 1,
        "shared_mem": 0,  # all of it is in the source
    }
    # TensorRT passes inputs, then integers, then outputs.
    assert answer["sizes"] == SIZE
    assert answer["parameters"] == ["u64"] * 4 + ["u32"] * 3 + ["u64"]
    assert answer["name"] == "local_correlation"
    assert answer["half"] == half


def test_it_is_the_plugin_that_calls_name():
    assert f"{PLUGIN['plugin_namespace']}::LocalCorrelation3d" == plugin.ID
    assert PLUGIN["plugin_namespace"] == DOMAIN
    assert PLUGIN["aot"] == 1


def test_without_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BackendError, match=r"needs TensorRT 10\.13 or later.*pip install \"rwcnet\["
    ):
        plugin.register()
