import itertools

import pytest
import torch
import torch.nn.functional as F

from rwcnet_ref.patches import in_patches, lay_out, patch_axis


@pytest.mark.parametrize("length", [1, 31, 32, 33, 47, 48, 64, 65, 100, 257])
@pytest.mark.parametrize(("patch", "halo"), [(32, 8), (32, 0), (17, 8), (33, 5)])
def test_parts_tile_the_axis_and_see_a_halo(length, patch, halo):
    edge, parts = patch_axis(length, patch, halo)
    assert edge <= min(length, patch)
    covered = [x for _, first, last in parts for x in range(first, last)]
    assert covered == list(range(length))
    for start, first, last in parts:
        assert start >= 0
        assert start + edge <= length
        assert first < last
        assert start == 0 or first - start >= halo
        assert start + edge == length or start + edge - last >= halo


@pytest.mark.parametrize(("length", "count"), [(32, 1), (33, 2), (48, 2), (49, 3), (64, 3)])
def test_there_are_no_more_patches_than_needed(length, count):
    # Each inner patch of 32 answers for 16 voxels, the two at the ends for 24.
    assert len(patch_axis(length, 32, 8)[1]) == count


@pytest.mark.parametrize("halo", [0, 1, 3])
def test_a_local_function_is_joined_without_seams(random, halo):
    x = torch.rand((2, 3, 13, 8, 20), generator=random)

    def blur(image):
        return F.avg_pool3d(image, 3, 1, 1), 2 * image[:, :1]

    flow, hidden = in_patches(blur, lay_out(x.shape[2:], patch=8, halo=halo), x)
    same = (flow - blur(x)[0]).abs().max() < 1e-6
    assert same == (halo >= 1)
    torch.testing.assert_close(hidden, 2 * x[:, :1], rtol=0, atol=0)


def test_all_inputs_are_cut_alike_into_patches_of_one_size(random):
    seen = []

    def run(a, b):
        seen.append(a.shape[2:])
        torch.testing.assert_close(b, a + 1, rtol=0, atol=0)
        return a, b

    x = torch.rand((1, 1, 20, 12, 9), generator=random)
    in_patches(run, lay_out(x.shape[2:], patch=10, halo=2), x, x + 1)
    assert len(set(seen)) == 1
    assert max(seen[0]) <= 10
    assert len(seen) == len(list(itertools.product(range(3), range(2))))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_without_a_halo_do_not_overlap(random, parts):
    x = torch.rand((1, 2, 12, 6, 18), generator=random)
    patches = lay_out(x.shape[2:], parts=parts)
    assert len(patches) == parts**3
    assert all(patch.read == patch.own for patch in patches)
    assert {x[:, :, *patch.read].shape[2:] for patch in patches} == {
        tuple(n // parts for n in x.shape[2:])
    }
    same, _ = in_patches(lambda image: (image, image), patches, x)
    torch.testing.assert_close(same, x, rtol=0, atol=0)
