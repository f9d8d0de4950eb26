import pytest
import torch

from rwcnet_ref.update import ConvGRU, FlowHead, MotionEncoder

SIZE = (4, 5, 6)


@pytest.fixture
def gru():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ConvGRU(hidden=4, inputs=3).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_motion_ends_with_the_flow_itself(random, dtype):
    flow = torch.randn((1, 3, *SIZE), generator=random)
    correlation = torch.randn((1, 8, *SIZE), generator=random).to(dtype)
    motion = MotionEncoder(8, 10).to(dtype).requires_grad_(False)(correlation, flow)
    assert motion.shape == (1, 10, *SIZE)
    assert motion.dtype == dtype
    torch.testing.assert_close(motion[:, -3:], flow.to(dtype), rtol=0, atol=0)


def test_a_closed_update_gate_keeps_the_state(random, gru):
    hidden = torch.randn((1, 4, *SIZE), generator=random)
    inputs = torch.randn((1, 3, *SIZE), generator=random)
    gru.gates.bias[:4] = -100
    torch.testing.assert_close(gru(hidden, inputs), hidden, rtol=0, atol=1e-6)


def test_an_open_update_gate_takes_the_candidate(random, gru):
    hidden = torch.randn((1, 4, *SIZE), generator=random)
    inputs = torch.randn((1, 3, *SIZE), generator=random)
    gru.gates.bias[:4] = 100
    gru.gates.bias[4:] = -100  # and the reset gate hides the old state from it
    blank = gru.candidate(torch.cat([torch.zeros_like(hidden), inputs], 1)).tanh()
    torch.testing.assert_close(gru(hidden, inputs), blank, rtol=0, atol=1e-6)


def test_a_state_within_one_stays_within_one(random, gru):
    hidden = 2 * torch.rand((1, 4, *SIZE), generator=random) - 1
    for _ in range(5):
        hidden = gru(hidden, 10 * torch.randn((1, 3, *SIZE), generator=random))
    assert hidden.abs().max() <= 1


def test_an_untrained_head_moves_next_to_nothing(random):
    flow = FlowHead(16).requires_grad_(False)(torch.randn((1, 16, *SIZE), generator=random))
    assert flow.shape == (1, 3, *SIZE)
    assert 0 < flow.abs().max() < 0.5  # voxels
