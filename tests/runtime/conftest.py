"""A stand-in for TensorRT, which says what it was asked for, and bundles without an exporter."""

import shutil
from dataclasses import replace

import pytest

from rwcnet_runtime.bundle import MANIFEST, Bundle, sha256
from rwcnet_runtime.engines.products import PRODUCTS

# Its plan is what it was asked for, as JSON.
STAND_IN = """
import json

class ILogger:
    ERROR = 1

class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 3

class BuilderFlag:
    TF32 = "TF32"

class ProfilingVerbosity:
    DETAILED = "detailed"

class DataType:
    FLOAT, HALF, BF16 = "float", "half", "bf16"

class LayerInformationFormat:
    JSON = "json"

class Tensor:
    def __init__(self, name, channels, dtype="float", is_shape_tensor=False):
        self.name, self.shape, self.dtype = name, (-1, channels, -1, -1, -1), dtype
        self.is_shape_tensor = is_shape_tensor

class Layer:
    def __init__(self, kind, dtype, *shape):
        self.type = f"LayerType.{kind}"
        self.output = dtype and Tensor("out", 1, dtype, *shape)
    def get_output(self, n):
        return self.output

class Network:
    layers = [
        Layer("CONVOLUTION", "half"), Layer("CAST", "float"), Layer("PLUGIN_V3", "float"),
        Layer("RESIZE", "bf16"), Layer("GATHER", "int64"), Layer("UNARY", "float", True),
        Layer("TRIP_LIMIT", None),
    ]
    num_layers = 7
    @property
    def num_inputs(self):
        return len(self.inputs)
    def get_input(self, n):
        return self.inputs[n]
    def get_layer(self, n):
        return self.layers[n]

class Error:
    def __init__(self, operator, reason):
        self.node_operator, self.desc = lambda: operator, lambda: reason

class OnnxParser:
    num_subgraphs, num_errors = 1, 0
    def __init__(self, network, logger):
        self.network = network
    def parse_from_file(self, path):
        name = path.rpartition("/")[2].removesuffix(".onnx")
        images = [Tensor("fixed", 1), Tensor("moving", 1)]
        carried = [Tensor("moving", 1), Tensor("flow", 3)]
        hidden = [Tensor("hidden", 16)]
        self.network.path, self.network.inputs = path, {
            "stage1": images, "stage2": images + hidden, "stage3": images,
            "enter2": carried + hidden, "enter3": carried,
            "compose": [Tensor("step", 3), Tensor("below", 3)],
        }[name]
        return True
    def supports_model_v2(self, model):
        return True
    def get_subgraph_nodes(self, n):
        return [0, 1, 2, 3]

class Profile:
    def __init__(self):
        self.sizes = {}
    def set_shape(self, name, *sizes):
        self.sizes[name] = sizes

class TimingCache:
    def __init__(self, known):
        self.known = known
    def serialize(self):
        return self.known + b"t"

class Config:
    cleared, profiling_verbosity, timing = [], None, None
    def clear_flag(self, flag):
        self.cleared.append(flag)
    def add_optimization_profile(self, profile):
        self.profile = profile
    def create_timing_cache(self, known):
        return TimingCache(known)
    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.timing = cache
    def get_timing_cache(self):
        return self.timing

class Builder:
    def __init__(self, logger):
        self.logger = logger
    def create_network(self, flags):
        self.flags = flags
        return Network()
    def create_builder_config(self):
        return Config()
    def create_optimization_profile(self):
        return Profile()
    def build_serialized_network(self, network, config):
        return json.dumps({
            "onnx": network.path, "flags": self.flags, "cleared": config.cleared,
            "sizes": config.profile.sizes,
            "verbosity": config.profiling_verbosity,
            "timing": config.timing and config.timing.known.decode(),
        }).encode()

class Inspector:
    def get_engine_information(self, format):
        return json.dumps({"Layers": [
            {"LayerType": "gemm", "Outputs": [{"Format/Datatype": "Half"}]},
            {"LayerType": "PluginV3", "Outputs": [{"Format/Datatype": "Float"}]},
            {"LayerType": "kgen", "Outputs": [{"Format/Datatype": "Row major linear FP32"}]},
            {"LayerType": "gemm", "Outputs": [{"Format/Datatype": "BFloat16"}]},
            {"LayerType": "kgen", "Outputs": [{"Format/Datatype": "Row major linear BF16 format"}]},
            {"LayerType": "kgen", "Outputs": [{"Format/Datatype": "Two wide row major FP16"}]},
            {"LayerType": "shape", "Outputs": [{"Format/Datatype": "Int64"}]},
            {"LayerType": "signal", "Outputs": []},
        ]})

class Engine:
    def create_engine_inspector(self):
        return Inspector()

class Runtime:
    def __init__(self, logger):
        pass
    def deserialize_cuda_engine(self, plan):
        return Engine()
"""
# Its part for plugins: a layer more says that one was registered.
PLUGIN = """
import tensorrt

class TensorDesc:
    pass

class KernelLaunchParams:
    pass

class AutoTuneCombination:
    pass

class SymIntExprs:
    pass

def register(name):
    tensorrt.Network.layers = [*tensorrt.Network.layers, tensorrt.Layer("PLUGIN_V3", "float")]
    tensorrt.Network.num_layers += 1
    return lambda function: function

autotune = aot_impl = lambda name: lambda function: function
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the cache of whoever runs it."""
    monkeypatch.setenv("RWCNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a stand-in for a product of the given name; more code may follow it."""

    def put(name, more=""):
        product = next(product for product in PRODUCTS if product.name == name)
        folder = tmp_path / "site"
        about = folder / f"{product.module}-9.9.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
        (folder / product.module).mkdir(exist_ok=True)
        (folder / product.module / "__init__.py").write_text(STAND_IN + more)
        if product.plugin:
            (folder / product.module / "plugin.py").write_text(PLUGIN)
        monkeypatch.syspath_prepend(folder)
        return product

    return put


@pytest.fixture
def with_precisions(tmp_path):
    """The shipped fp32 stages, and once more under other names, changed or damaged."""

    def make(*good, damaged=(), change=bytes):
        folder = shutil.copytree(Bundle.open().folder, tmp_path / "bundle")
        manifest = Bundle.open(folder).manifest
        files = {name: x for name, x in manifest.files.items() if "stage" not in name}
        for path in (folder / "fp32").iterdir():
            files[f"fp32/{path.name}"] = sha256(path)
        shutil.rmtree(folder / "fp16")
        for precision in (*good, *damaged):
            shutil.copytree(folder / "fp32", folder / precision)
            for path in (folder / precision).iterdir():
                path.write_bytes(b"no graph" if precision in damaged else change(path.read_bytes()))
                files[f"{precision}/{path.name}"] = sha256(path)
        (folder / MANIFEST).write_text(replace(manifest, files=files).to_json())
        return folder

    return make
