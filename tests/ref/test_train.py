import copy
import json
import math
import sys
from dataclasses import replace

import pytest
import torch

from rwcnet_ref import train
from rwcnet_ref.config import TINY
from rwcnet_ref.grid import downsample
from rwcnet_ref.losses import gradient_penalty
from rwcnet_ref.model import Cascade
from rwcnet_ref.pairs import PairSource
from rwcnet_ref.train import Schedule, Training, loss_of, step_flows, validate

PLAN = Schedule(size=8, batch=2, steps=4, amplitude=4, shapes=0.3, two_heads=0.3)


def fresh(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Cascade(TINY)


@pytest.fixture
def begin(head, tmp_path, monkeypatch):
    """Begin or resume the training of a stage on four copies of a head."""
    monkeypatch.setattr(train, "VALIDATION_PAIRS", 2)

    def make(cascade, index=1, plan=PLAN, folder="run"):
        (tmp_path / folder).mkdir(exist_ok=True)
        training = Training(cascade, index, plan, [head] * 4, tmp_path / folder)
        training.resume()
        return training

    return make


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def draw(count=1, **options):
    random = torch.Generator().manual_seed(0)
    source = PairSource((8, 8, 8), 1, 2.0, **options)
    return [source.draw(random) for _ in range(count)]


@pytest.mark.parametrize("index", range(3))
def test_only_the_stage_in_training_changes(begin, index):
    cascade = fresh()
    before = copy.deepcopy(cascade.state_dict())
    begin(cascade, index).run()
    changed = moved(before, cascade.state_dict())
    assert all(name.startswith(f"stages.{index}.") for name in changed)
    parameters = {f"stages.{index}.{name}" for name, _ in cascade.stage(index).named_parameters()}
    assert parameters <= changed
    assert f"stages.{index}.features.4.running_mean" in changed


# Averages are written in the steps before the share.
@pytest.mark.parametrize(("frozen_from", "counted"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_averages_are_frozen_in_the_end(begin, frozen_from, counted):
    cascade = fresh()
    begin(cascade, plan=replace(PLAN, frozen_averages=frozen_from)).run()
    assert cascade.stage(1).features[4].num_batches_tracked == counted


def test_training_saves_and_logs_every_so_many_steps(begin, tmp_path):
    training = begin(fresh())
    training.run(every=3)
    lines = [json.loads(line) for line in (tmp_path / "run/stage2.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert {"loss", "dice", "dice_start", "error", "error_start"} <= lines[0].keys()
    assert training.checkpoint == tmp_path / "run/stage2.ckpt"
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == [
        "stage2.ckpt",
        "stage2.jsonl",
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_an_interrupted_training_ends_in_the_same_weights(begin, monkeypatch, index):
    begin(straight := fresh(), index, folder="straight").run(every=2)

    calls = iter(range(10))

    def interrupt(*arguments, **options):
        if next(calls) == 3:  # after the third step, of which two are saved
            raise KeyboardInterrupt
        return loss_of(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(train, "loss_of", interrupt)
        begin(fresh(), index, folder="broken").run(every=2)

    resumed = begin(other := fresh(seed=1), index, folder="broken")
    assert resumed.step == 2
    resumed.run(every=2)
    assert moved(straight.state_dict(), other.state_dict()) == set()
    # The test can fail: without the checkpoint the weights are others.
    begin(unsaved := fresh(seed=1), index, folder="unsaved").run(every=2)
    assert moved(straight.state_dict(), unsaved.state_dict()) != set()


def test_a_finished_training_stays_as_it_is(begin):
    begin(fresh()).run()
    done = begin(other := fresh(seed=1))
    before = copy.deepcopy(other.state_dict())
    done.run()
    assert moved(before, other.state_dict()) == set()


def test_a_loss_that_is_no_number_stops_the_training(begin):
    training = begin(fresh())
    training.stage.head[-1].bias.data.fill_(math.nan)
    with pytest.raises(RuntimeError, match="loss is nan at step 0"):
        training.run(every=1)
    assert not training.checkpoint.exists()


@pytest.mark.parametrize("index", range(3))
def test_training_sees_what_inference_sees(random, lively, index):
    cascade = lively(TINY)
    fixed, moving = torch.rand((2, 1, 1, 16, 12, 8), generator=random)
    factor = TINY.stages[index].resolution
    flows = step_flows(cascade, index, downsample(fixed, factor), downsample(moving, factor))
    assert len(flows) == TINY.stages[index].steps
    expected, _ = list(cascade.totals(fixed, moving))[index]
    torch.testing.assert_close(flows[-1], expected, rtol=0, atol=1e-4)  # voxels


def test_the_stages_below_get_no_gradient(random):
    cascade = fresh().eval()
    fixed, moving = torch.rand((2, 1, 1, 8, 8, 8), generator=random)
    _, flow, hidden = cascade.entering(fixed, moving, 2)
    assert not flow.requires_grad
    hidden.sum().backward()
    held = {name for name, p in cascade.named_parameters() if p.grad is not None}
    assert held == {"stages.2.inherit.weight", "stages.2.inherit.bias"}


def test_a_batch_of_pairs_costs_the_mean_of_them(lively):
    # Without the penalty: it takes the batch as one flow.
    cascade, plan = lively(TINY), replace(PLAN, smooth=0.0)
    pairs = draw(2)
    together = loss_of(cascade, 2, pairs, plan, dice=0.5)
    alone = torch.stack([loss_of(cascade, 2, [pair], plan, dice=0.5) for pair in pairs])
    torch.testing.assert_close(together, alone.mean(), rtol=0, atol=1e-4)
    assert (alone[0] - alone[1]).abs() > 1e-2


def test_pairs_without_truth_cost_dice_and_roughness_alone(lively):
    cascade = lively(TINY)
    pair = replace(draw()[0], flow=None)
    flow = step_flows(cascade, 0, pair.fixed, pair.moving)[-1]
    without = loss_of(cascade, 0, [pair], PLAN, dice=0.0)
    torch.testing.assert_close(without, PLAN.smooth * gradient_penalty(flow), rtol=0, atol=1e-6)
    assert loss_of(cascade, 0, [pair], PLAN, dice=0.5) > without + 0.1


def test_validation_measures_start_and_end(lively):
    cascade = lively(TINY)
    pair = draw()[0]
    values = validate(cascade, 2, [pair, replace(pair, flow=None)])
    assert 0 < values["dice_start"] < 1
    expected = pair.flow.square().sum(1).sqrt().mean()
    assert values["error_start"] == pytest.approx(float(expected), abs=0.02)  # voxels
    cascade.stage(2).forward = None  # `validate` unrolls; forward is for inference
    assert validate(cascade, 2, [pair])["error"] == pytest.approx(values["error"], abs=1e-6)


def test_pairs_start_easy_and_two_heads_come_late(begin):
    training = begin(fresh(), index=0)
    first, grown, last = (
        training._source(share, training.heads) for share in (0.0, train.EASY, 1.0)
    )
    assert first.same_contrast > grown.same_contrast == last.same_contrast
    assert first.texture > grown.texture == last.texture
    assert (first.two_heads, last.two_heads) == (0.0, PLAN.two_heads)
    assert last.shapes == PLAN.shapes
    assert first.resolution == 4
    assert len(training.heads) == 2  # two are held out


@pytest.mark.parametrize("stages", [(1,), (1, 2), (1, 2, 3)], ids=str)
def test_the_command_trains_stage_after_stage(tmp_path, monkeypatch, head, stages):
    monkeypatch.setattr(train, "read_label_maps", lambda folder: [head] * 4)
    monkeypatch.setattr(train, "SCHEDULES", dict.fromkeys((1, 2, 3), PLAN))
    monkeypatch.setattr(train, "VALIDATION_PAIRS", 1)
    for stage in stages:
        arguments = ["--preset", "tiny", "--data", ".", "-o", str(tmp_path), "--stage", str(stage)]
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        train.main()
    assert (tmp_path / f"stage{stages[-1]}.ckpt").is_file()
