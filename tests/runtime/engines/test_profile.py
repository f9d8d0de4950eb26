from dataclasses import replace

import pytest

from rwcnet_runtime.bundle import Bundle, StageEntry
from rwcnet_runtime.engines.profile import (
    DEFAULT_SHAPES,
    chain_profile,
    covers,
    parse_shape,
    stage_profile,
)
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.patches import VOXELS_AT_ONCE, lay_out

WHOLE = StageEntry(
    resolution=4, steps=1, radius=1, inherits=True, stride=1, patch=None, halo=0, parts=1
)
PATCHES = replace(WHOLE, resolution=1, patch=32, halo=8)


def test_the_first_shape_is_the_usual_one():
    assert stage_profile(WHOLE, DEFAULT_SHAPES)["fixed"] == (
        (1, 16, 16, 16),
        (1, 40, 48, 56),
        (1, 64, 64, 64),
    )


def test_one_shape_is_all_there_is():
    assert stage_profile(WHOLE, [(64, 80, 96)])["moving"] == 3 * ((1, 16, 20, 24),)


def test_axes_are_taken_by_themselves():
    smallest, usual, largest = stage_profile(WHOLE, [(64, 80, 96), (80, 64, 96)])["fixed"]
    assert (smallest, usual, largest) == ((1, 16, 16, 24), (1, 16, 20, 24), (1, 20, 20, 24))


def test_a_hidden_state_lies_on_the_grid_of_the_recurrence():
    profile = stage_profile(replace(WHOLE, stride=2), [(64, 80, 96)])
    assert profile["hidden"] == 3 * ((1, 8, 10, 12),)
    assert stage_profile(replace(WHOLE, inherits=False), [(64, 80, 96)]).keys() == {
        "fixed",
        "moving",
    }


def test_the_chain_of_the_packaged_bundle_is_given_whole_images():
    manifest, shapes = Bundle.open().manifest, [(64, 80, 96), (32, 32, 32), (128, 128, 128)]
    coarse, middle, fine = manifest.stages
    assert (coarse.resolution, middle.resolution, fine.resolution) == (2, 1, 1)
    profile = chain_profile(manifest, "enter2.onnx", shapes)
    assert profile["moving"] == ((1, 32, 32, 32), (1, 64, 80, 96), (1, 128, 128, 128))
    assert profile["flow"] == ((1, 16, 16, 16), (1, 32, 40, 48), (1, 64, 64, 64))
    composed = chain_profile(manifest, "compose.onnx", shapes)
    assert composed["step"] == composed["below"]
    assert composed["step"] == ((1, 16, 16, 16), (1, 64, 80, 96), (1, 128, 128, 128))


def test_what_a_profile_covers():
    one = stage_profile(WHOLE, [(64, 80, 96)])
    assert covers(stage_profile(WHOLE, DEFAULT_SHAPES), one)
    assert covers(one, one)
    assert not covers(one, stage_profile(WHOLE, DEFAULT_SHAPES))
    assert not covers(one, stage_profile(WHOLE, [(64, 80, 100)]))
    assert not covers({"fixed": one["fixed"]}, one)


def test_parts_cut_each_axis():
    parts = replace(WHOLE, resolution=2, parts=2)
    assert stage_profile(parts, [(64, 96, 128)])["fixed"] == (
        (1, 16, 24, 32),
        (8, 16, 24, 32),
        (8, 16, 24, 32),
    )


def test_every_image_between_the_smallest_and_the_largest_fits():
    """33 voxels are cut into two patches far smaller than the 32 that go in one."""
    smallest, _, largest = stage_profile(PATCHES, [(28, 32, 48), (60, 32, 28)])["fixed"]
    for i in range(28, 61):
        for k in range(28, 49):
            read = lay_out((i, 32, k), PATCHES.patch, PATCHES.halo)[0].read
            edges = [axis.stop - axis.start for axis in read]
            for low, edge, high in zip(smallest[1:], edges, largest[1:], strict=True):
                assert low <= edge <= high
    assert largest[1:] == (32, 32, 32)


def test_the_batch_is_what_the_runtime_sends_at_once():
    _, usual, largest = stage_profile(PATCHES, [(32, 32, 32), (256, 256, 256)])["fixed"]
    assert usual[0] == 1
    assert largest[0] == VOXELS_AT_ONCE // 32**3 == 64


@pytest.mark.parametrize(
    ("text", "multiple", "nearest"),
    [
        ("161x192x224", 4, "160x192x224"),
        ("162x190x1", 4, "164x192x4"),  # up, where two are as near
        ("0x4x4", 4, "4x4x4"),
        ("100x100x100", 32, "96x96x96"),
    ],
)
def test_the_nearest_shape_that_fits_is_said(text, multiple, nearest):
    with pytest.raises(InputError, match=f"multiple of {multiple}, .* fits is {nearest}$"):
        parse_shape(text, multiple)
    assert parse_shape(nearest, multiple) == tuple(map(int, nearest.split("x")))


@pytest.mark.parametrize("text", ["160", "160x192", "160x192x224x1", "axbxc", "-4x4x4", "4x4x4 "])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(InputError, match="give one such as 160x192x224"):
        parse_shape(text, 4)
