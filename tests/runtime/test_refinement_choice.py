"""The bundle's default, what is asked for instead, and what is refused."""

from dataclasses import replace

import pytest

from rwcnet_runtime.backends.onnxruntime_cpu import OnnxRuntimeCpu
from rwcnet_runtime.backends.openvino import OpenVino
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.errors import BundleError, InputError
from rwcnet_runtime.refinement_choice import choose_refinement, refinement_backend


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The one inside the package."""
    return Bundle.open()


def test_the_bundle_says_how_unless_told_otherwise(bundle: Bundle) -> None:
    default = bundle.manifest.refinement
    assert default is not None
    assert choose_refinement(bundle) == default
    assert choose_refinement(bundle, 7, "learned") == replace(default, steps=7, features="learned")
    assert choose_refinement(bundle, 0) is None
    on_request = replace(bundle.manifest, refinement=replace(default, steps=0))
    assert choose_refinement(replace(bundle, manifest=on_request)) is None


def test_what_cannot_be_chosen_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"--refine -1 is no number of steps: give 0 or more"):
        choose_refinement(bundle, -1)
    with pytest.raises(InputError, match="choose from mind, learned, both"):
        choose_refinement(bundle, 5, "intensity")
    with pytest.raises(InputError, match="--refine-features is about steps"):
        choose_refinement(bundle, 0, "mind")
    older = replace(bundle, manifest=replace(bundle.manifest, refinement=None))
    assert choose_refinement(older) is None
    with pytest.raises(BundleError, match="cannot refine: export it again"):
        choose_refinement(older, 5)


def test_onnx_runtime_refines_beside_other_backends() -> None:
    mine = OnnxRuntimeCpu(3)
    assert refinement_backend(mine) is mine
    beside = refinement_backend(OpenVino(3))
    assert isinstance(beside, OnnxRuntimeCpu)
    assert beside.threads == 3
