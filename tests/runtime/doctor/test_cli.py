"""What rwcnet-doctor says, on machines with and without things."""

import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.devices import Gpu
from rwcnet_runtime.doctor import holdings, machine
from rwcnet_runtime.doctor.cli import doctor_app
from rwcnet_runtime.engines import products
from rwcnet_runtime.engines import stages as engine_stages
from rwcnet_runtime.engines.cache import PlanCache
from rwcnet_runtime.engines.stages import compile_stages

ORT = "1.2.3"


@pytest.fixture
def installed(monkeypatch):
    """Decide which distributions there are."""

    def put(**versions):
        known = {name.replace("_", "-"): version for name, version in versions.items()}
        for module in (machine, products):
            monkeypatch.setattr(module, "version_of", known.get)

    put(onnxruntime=ORT)
    return put


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    for module in (holdings, machine, engine_stages):
        monkeypatch.setattr(module, "gpus", list)


def sections(*arguments):
    """Return lines by section, the exit code, and what went to stderr."""
    result = CliRunner().invoke(doctor_app, [str(a) for a in arguments])
    found, title = {}, ""
    for line in result.stdout.splitlines():
        if line.startswith("  "):
            found[title].append(line.strip())
        else:
            title = line
            found[title] = []
    return found, result.exit_code, result.stderr


def test_the_shipped_bundle_on_a_bare_machine(installed):
    found, code, _ = sections()
    assert code == 0
    assert found["Backends"][0].startswith(f"onnxruntime {ORT}: ")
    assert "CPUExecutionProvider" in found["Backends"][0]
    assert found["Backends"][1:] == [
        'openvino is not installed: pip install "rwcnet[openvino]"',
        'tensorrt is not installed: pip install "rwcnet[tensorrt]"',
        'tensorrt-rtx is not installed: pip install "rwcnet[tensorrt-rtx]"',
    ]
    assert found["Devices"][1] == "no CUDA device found"
    bundle = Bundle.open()
    assert found["Bundle"] == [
        str(bundle.folder),
        f"base, schema {bundle.manifest.schema_version}, sha256 {bundle.sha256}",
        f"{len(bundle.manifest.files)} files, every sha256 as the manifest says",
        f"3 stages in {', '.join(bundle.engines)}",
        "weights: MIT",
    ]
    assert {"fp32 runs with openvino: float32", "fp32 runs with onnxruntime: float32"} <= {
        *found["Precisions"]
    }
    (first,) = (line for line in found["Operators"] if line.startswith("fp32/stage1.onnx"))
    assert "nodes, of which run as function bodies: rwcnet::LocalCorrelation3d (4), " in first
    assert "rwcnet::Warp3d" in first
    assert found["Cached engines"][0].startswith("no engine has been cached in ")


def test_two_runtimes_in_one_place_are_warned_of(installed):
    installed(onnxruntime=ORT, onnxruntime_gpu="1.2.4")
    found, _, _ = sections()
    assert found["Backends"][2].startswith("warning: onnxruntime and onnxruntime-gpu")


def test_devices_and_versions_are_named(installed, monkeypatch):
    installed(onnxruntime=ORT, openvino="2026.4", tensorrt_cu13="11.4")
    monkeypatch.setattr(machine, "gpus", lambda: [Gpu("NVIDIA L4", "8.9", "580.1")])
    # The stand-in for the parser is not there either: that is one line, not the end.
    found, code, _ = sections()
    assert code == 0
    assert "openvino 2026.4" in found["Backends"]
    assert "tensorrt 11.4" in found["Backends"]
    assert found["Devices"][1:] == ["NVIDIA L4: compute capability 8.9, driver 580.1"]
    assert any("TensorRT 11.4 failed on" in line for line in found["Operators"])


def test_engines_in_the_cache_are_listed_with_what_refuses_a_node(install, with_precisions):
    folder = with_precisions()
    product = install(
        "tensorrt-rtx",
        "OnnxParser.num_errors = 1\n"
        "OnnxParser.get_error = lambda self, n: Error('Resize', 'no cubic')",
    )
    compile_stages(Bundle.open(folder), product, [(64, 64, 64)], [1])
    found, _, _ = sections("--bundle", folder)
    assert "fp32/stage2.onnx: TensorRT-RTX refuses Resize (no cubic)" in found["Operators"]
    (mine, others) = found["Cached engines"]
    assert mine.startswith("fp32/stage2.onnx: tensorrt-rtx 9.9 without a GPU, ")
    assert mine.endswith(" seconds old; there is no GPU here to run it on")
    assert others.startswith("0 engines of other bundles, 0.0 MiB, in ")
    for plan in PlanCache().plans():
        plan.path.write_bytes(b"something else")
    found, _, _ = sections("--bundle", folder)
    assert "is damaged" in found["Cached engines"][0]


def test_an_engine_of_another_machine_is_named(install, with_precisions, monkeypatch):
    folder, here = with_precisions(), Gpu("NVIDIA L4", "8.9", "580.1")
    monkeypatch.setattr(engine_stages, "gpus", lambda: [here])
    compile_stages(Bundle.open(folder), install("tensorrt"), [(64, 64, 64)], [1])
    for gpu, fit in (
        (here, "fits this machine"),
        (replace(here, driver="581"), "not for this machine: driver 580.1 (here 581)"),
    ):
        monkeypatch.setattr(holdings, "gpus", lambda gpu=gpu: [gpu])
        found, _, _ = sections("--bundle", folder)
        assert found["Cached engines"][0].endswith(f" seconds old; {fit}")


def test_a_cache_that_others_can_write_to_is_refused(installed, tmp_path):
    (tmp_path / "cache" / "plans").mkdir(parents=True)
    (tmp_path / "cache" / "plans").chmod(0o777)
    _, code, said = sections()
    assert code == 2
    assert "chmod 700 it" in said


def test_a_tampered_bundle_is_one_sentence_after_what_is_known(installed, with_precisions):
    folder = with_precisions()
    with (folder / "compose.onnx").open("ab") as file:
        file.write(b"x")
    found, code, said = sections("--bundle", folder)
    assert code == 2
    assert found.keys() == {"Backends", "Devices"}
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    assert "compose.onnx is not the file the manifest names" in said


def test_a_pair_in_every_precision(installed, with_precisions, tmp_path):
    values = np.random.default_rng(0).random((24, 20, 28), dtype=np.float32)
    image = nib.Nifti1Image(values, np.eye(4))
    image.set_sform(np.eye(4), code=1)
    nib.save(image, tmp_path / "image.nii.gz")
    pair = 2 * (tmp_path / "image.nii.gz",)
    folder = with_precisions("fp16", damaged=("bf16",))
    found, code, _ = sections("--bundle", folder, "--check", *pair)
    assert code == 0
    assert "against fp32 in ONNX Runtime on the CPU" in found["Check"][0]
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in found["Check"][2:]}
    assert rows.keys() == {("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp16")}
    assert rows["onnxruntime", "fp16"] == 3 * ["0.0000"]  # the same graphs
    assert float(rows["openvino", "fp32"][2]) < 0.001
    assert any(line.startswith("bf16 does not run with onnxr") for line in found["Precisions"])
    assert any("bf16/stage1.onnx is no ONNX file" in line for line in found["Operators"])


def test_an_operator_without_a_body_is_named(installed, with_precisions):
    def rename(data):
        # The definition alone: its name is its field 1, which the first byte says; a call's is 4.
        return data.replace(b"\x0a\x12LocalCorrelation3d", b"\x0a\x12LocalCorrelation3x")

    folder = with_precisions("other", change=rename)
    found, code, _ = sections("--bundle", folder)
    assert code == 0
    assert (
        "other/stage3.onnx: nothing runs rwcnet::LocalCorrelation3d, which the file does not define"
    ) in found["Operators"]


def test_it_needs_neither_torch_nor_onnx():
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'onnx', 'onnxscript', 'safetensors', 'scipy'))\n"
        "from rwcnet_runtime.doctor.cli import doctor_app\n"
        "doctor_app(['--help'])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
