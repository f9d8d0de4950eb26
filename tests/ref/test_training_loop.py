import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from rwcnet_ref.build import build
from rwcnet_ref.checkpoint import load_weights
from rwcnet_ref.config import TINY
from rwcnet_ref.training import loop
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.loop import NotFiniteError, Training
from rwcnet_ref.training.settings import Settings
from rwcnet_ref.training.sources import open_data
from rwcnet_ref.training.stages import train
from rwcnet_runtime.errors import InputError

VALUES = {
    "model": {"preset": "tiny"},
    "data": {"kind": "synthetic", "validation": 2},
    "losses": {"error": 1.0, "gradient": 0.05, "dice": {"weight": 0.5, "after": 0.5}},
    "training": {
        "size": 8,
        "small": 0.0,
        "steps": 4,
        "batch": 2,
        "learning_rate": 1e-3,
        "ema": 0.9,
        "validate_every": 3,
        "save_every": 2,
    },
}


def settings(model=None, losses=None, **training):
    return Settings.from_dict(
        {
            **VALUES,
            "model": {**VALUES["model"], **(model or {})},
            "losses": losses or VALUES["losses"],
            "training": {**VALUES["training"], **training},
        }
    )


def fresh(config=TINY, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(config)


class Quiet:
    def begin(self, training):
        pass

    def progress(self, step, loss):
        pass

    def report(self, metrics):
        pass


@pytest.fixture
def begin(tmp_path):
    """Begin or resume the training of a stage."""

    def make(cascade, index=1, told=None, folder="run"):
        told = told or settings()
        place = RunFolder(tmp_path / folder)
        place.path.mkdir(exist_ok=True)
        data = open_data(told, torch.device("cpu"))
        return Training(cascade, index, told, data(cascade, index), place)

    return make


@pytest.fixture(autouse=True)
def own_global_random():
    """Training seeds torch's global generator; other tests are to see nothing of it."""
    with torch.random.fork_rng():
        yield


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("index", range(3))
def test_only_the_stage_in_training_changes(begin, index):
    cascade = fresh()
    before = copy.deepcopy(cascade.state_dict())
    training = begin(cascade, index)
    training.run()
    for after in (cascade, training.averaged.module):
        changed = moved(before, after.state_dict())
        parameters = {f"stages.{index}.{n}" for n, _ in cascade.stage(index).named_parameters()}
        assert parameters <= changed
        assert all(name.startswith(f"stages.{index}.") for name in changed)
        assert f"stages.{index}.features.4.running_mean" in changed


# Averages are written in the steps before the share.
@pytest.mark.parametrize(("frozen_from", "counted"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_averages_are_frozen_in_the_end(begin, frozen_from, counted):
    cascade = fresh()
    begin(cascade, told=settings(frozen_averages=frozen_from)).run()
    assert cascade.stage(1).features[4].num_batches_tracked == counted


def test_a_run_saves_and_logs_every_so_many_steps(begin, tmp_path):
    training, saved = begin(fresh()), []
    save = training.save
    training.save = lambda: (saved.append(training.step), save())
    reported = []
    assert training.run(report=reported.append)
    assert saved == [2, 4]
    found = lines(tmp_path / "run/stage2.jsonl")
    assert found == reported
    assert [line["step"] for line in found] == [3, 4]
    assert all(math.isfinite(value) for line in found for value in line.values())
    assert {"loss", "dice", "dice_start", "error", "folded_percent", "sdlogj"} <= found[0].keys()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names - {"events"} == {
        "settings.json",
        "stage2.ckpt",
        "stage2.jsonl",
        "stage2.best.safetensors",
    }


def test_tensorboard_gets_what_the_lines_hold(begin, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard"
    )
    begin(fresh()).run()
    events = accumulator.EventAccumulator(str(tmp_path / "run/events/stage2")).Reload()
    for line in lines(tmp_path / "run/stage2.jsonl"):
        found = {event.step: event.value for event in events.Scalars("error")}
        assert found[line["step"]] == pytest.approx(line["error"], rel=1e-6)


def state_of(training):
    return {
        "weights": training.cascade.state_dict(),
        "averaged": training.averaged.module.state_dict(),
        "optimiser": {
            f"{n}.{name}": value
            for n, values in training.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        },
    }


def with_dropout(cascade):
    # What a network may draw from torch's global generator.
    cascade.stage(1).features.register_forward_hook(
        lambda module, given, found: nn.functional.dropout(found, 0.5, module.training)
    )
    return cascade


@pytest.mark.parametrize("stopped", ["exception", "asked"])
def test_an_interrupted_training_of_20_steps_ends_bit_identical(begin, monkeypatch, stopped):
    told = settings(steps=20, save_every=5, validate_every=6, small=0.5, short=0.4)
    straight = begin(with_dropout(fresh()), told=told, folder="straight")
    straight.run()

    broken = begin(with_dropout(fresh()), told=told, folder="broken")
    if stopped == "exception":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
            patch.setattr(broken.data, "batch", interrupted(broken.data.batch, 8))
            broken.run()
    else:
        assert not broken.run(stop=lambda: broken.step == 7)

    torch.rand(5)  # the state of the global generator is another one now
    resumed = begin(with_dropout(fresh(seed=1)), told=told, folder="broken")
    assert resumed.step == (5 if stopped == "exception" else 7)
    resumed.run()
    for name, expected in state_of(straight).items():
        assert moved(expected, state_of(resumed)[name]) == set()
    drop_time = [
        [{n: v for n, v in line.items() if n != "seconds"} for line in lines(t.folder.log(1))]
        for t in (straight, resumed)
    ]
    assert drop_time[0] == drop_time[1]
    assert straight.best == resumed.best
    # The test can fail: without the checkpoint the weights are others.
    unsaved = begin(with_dropout(fresh(seed=1)), told=told, folder="unsaved")
    unsaved.run()
    assert moved(straight.cascade.state_dict(), unsaved.cascade.state_dict()) != set()


def interrupted(batch, at):
    calls = iter(range(100))

    def drawn(share, random):
        if next(calls) == at:  # the rehearsal draws once as well
            raise KeyboardInterrupt
        return batch(share, random)

    return drawn


def test_lines_after_the_checkpoint_are_dropped(begin, tmp_path):
    log = tmp_path / "run/stage2.jsonl"
    told = settings(steps=6, validate_every=2, save_every=3)
    training = begin(fresh(), told=told)
    training.run(stop=lambda: training.step == 3)
    log.write_text(log.read_text() + '{"step": 4, "loss": 7}\n{"step": 5, "lo')
    begin(fresh(), told=told).run()
    assert [line["step"] for line in lines(log)] == [2, 4, 6]
    assert all(line["loss"] != 7 for line in lines(log))


def test_a_finished_training_stays_as_it_is(begin, tmp_path):
    begin(fresh()).run()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    done = begin(fresh(seed=1))
    assert done.run()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_averaged_weights_are_an_exponential_average(begin, ema):
    training = begin(fresh(), told=settings(ema=ema, steps=3))
    name = "stages.1.head.2.weight"
    expected = None
    for count in range(3):
        training._advance()
        now = training.cascade.state_dict()[name]
        decay = min(ema, (1 + count) / (10 + count)) if count else 0.0
        expected = now.clone() if expected is None else decay * expected + (1 - decay) * now
        found = training.averaged.module.state_dict()[name]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert torch.equal(found, now) == (ema == 0)


def test_the_best_weights_are_kept(begin, monkeypatch):
    measured = iter([0.9, 0.3, 0.5, 0.4])
    training = begin(fresh(), told=settings(validate_every=1))
    at_step = {}

    def measure(cascade, *arguments):
        at_step[training.step] = copy.deepcopy(cascade.state_dict())
        # The rehearsal measures before the first step.
        return {"error": next(measured) if training.step else 1.0}

    monkeypatch.setattr(loop, "validate", measure)
    training.run()
    kept, about = load_weights(training.folder.best(1))
    assert moved(at_step[2], kept.state_dict()) == set()
    assert moved(at_step[4], kept.state_dict()) != set()
    assert about["licence"] == "not stated"
    assert training.best == 0.3


def test_a_loss_that_is_no_number_stops_and_leaves_the_batch(begin, tmp_path):
    training = begin(fresh(), told=settings(steps=6, save_every=2))
    training.run(stop=lambda: training.step == 3)
    before = training.folder.checkpoint(1).read_bytes()
    training.stage.head[-1].bias.data.fill_(math.nan)
    stored = copy.deepcopy(training.stage.gru.state_dict())
    with pytest.raises(NotFiniteError, match=r"loss is nan .* step 3 of stage 2: .*stage2.nan.pt"):
        training._advance()
    assert training.folder.checkpoint(1).read_bytes() == before
    assert moved(stored, training.stage.gru.state_dict()) == set()
    batch = torch.load(tmp_path / "run/stage2.nan.pt", weights_only=True)
    assert (batch["step"], len(batch["pairs"])) == (3, 2)
    assert batch["pairs"][0]["fixed"].shape == (1, 1, 8, 8, 8)
    assert batch["pairs"][0]["fixed_mask"] is None


def test_a_gradient_that_is_no_number_stops_as_well(begin):
    training = begin(fresh())
    training.stage.head[-1].weight.register_hook(lambda gradient: gradient * math.inf)
    before = copy.deepcopy(training.cascade.stage(1).head.state_dict())
    with pytest.raises(NotFiniteError, match="gradient"):
        training._advance()
    assert moved(before, training.cascade.stage(1).head.state_dict()) == set()


def test_rate_warms_up_and_falls(begin):
    training = begin(
        fresh(), told=settings(steps=100, warm_up=10, rate="cosine", learning_rate=1.0)
    )
    rates = []
    for training.step in (0, 9, 50, 99):
        rates.append(training._learning_rate())
    assert rates == pytest.approx([0.1, 0.98, 0.5, 2.5e-4], abs=3e-4)
    constant = begin(fresh(), told=settings(steps=100, learning_rate=0.2), folder="constant")
    assert constant._learning_rate() == 0.2


def test_bf16_trains_and_changes_the_numbers(begin):
    losses = {}
    for precision in ("fp32", "bf16"):
        training = begin(fresh(), told=settings(precision=precision), folder=precision)
        losses[precision] = training._advance()
        assert all(p.dtype == torch.float32 for p in training.cascade.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"losses": {"keypoints": 1.0}}, "losses do not suit the data: .*keypoints"),
        ({"losses": {"keypoints": 1.0, "error": 1.0}}, "losses keypoints need"),
        ({"losses": {"gradient": 1.0}}, "losses do not suit the data: only regularisers"),
        ({"best": "tre_mm"}, "training.best is tre_mm, which these validation pairs cannot give"),
    ],
    ids=str,
)
def test_what_the_data_lack_is_said_before_the_first_step(begin, tmp_path, told, says):
    with pytest.raises(InputError, match=says) as error:
        begin(fresh(), told=settings(**told)).run()
    assert "\n" not in str(error.value)
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("velocity", [False, True])
def test_stages_are_trained_on_top_of_each_other(tmp_path, velocity):
    told = settings(model={"velocity": velocity})
    folder = RunFolder(tmp_path / "run")
    assert train(told, folder, Quiet())
    done, about = load_weights(folder.weights)
    assert done.config == told.model
    assert about["training_data"] == "not stated"
    for index in (0, 1):
        best, _ = load_weights(folder.best(index))
        below = [n for n in best.state_dict() if n.startswith(f"stages.{index}.")]
        assert all(torch.equal(best.state_dict()[n], done.state_dict()[n]) for n in below)
    # Once more: everything is there already.
    before = folder.best(2).stat().st_mtime_ns
    assert train(told, folder, Quiet())
    assert folder.best(2).stat().st_mtime_ns == before


def test_a_stage_starts_from_the_one_below_where_they_are_alike(tmp_path):
    told = settings()
    alike = replace(
        told,
        model=replace(TINY, stages=(TINY.stages[1], TINY.stages[1], TINY.stages[2])[1:]),
        stages=told.stages[1:],
    )
    same = replace(
        alike,
        model=replace(
            alike.model,
            stages=(TINY.stages[1], replace(TINY.stages[1], resolution=1)),
        ),
    )
    for name, case, equal in (("same", same, True), ("other", alike, False)):
        folder = RunFolder(tmp_path / name)
        train(case, folder, Quiet(), stage=0)
        seen = []

        class Look(Quiet):
            def begin(self, training, seen=seen):
                seen.append(copy.deepcopy(training.cascade))

        train(case, folder, Look(), stage=1, stop=lambda: True)
        below, begun = (seen[0].stage(n).state_dict() for n in (0, 1))
        shared = {n for n in below if n in begun and below[n].shape == begun[n].shape}
        assert ({n for n in shared if torch.equal(below[n], begun[n])} == shared) == equal


def test_a_stage_needs_the_one_below(tmp_path):
    with pytest.raises(InputError, match=r"stage 1 is not trained in .*: train it first"):
        train(settings(), RunFolder(tmp_path), Quiet(), stage=1)


def test_the_published_network_takes_a_step(begin):
    pytest.importorskip("monai", reason="the published network needs MONAI")
    told = Settings.from_dict(
        {
            "model": {"preset": "thesis", "steps": 1},
            "data": {"kind": "synthetic", "validation": 1},
            "losses": {"mse": 1.0, "dice": 1.0, "gradient": 1.0},
            "training": {"steps": 1, "batch": 1},
            "stages": [{"size": 8}, {"size": 16}, {"size": 32}],
        }
    )
    cascade = fresh(told.model)
    before = copy.deepcopy(cascade.state_dict())
    assert begin(cascade, 1, told).run()
    changed = moved(before, cascade.state_dict())
    assert changed
    assert all(name.startswith("stages.1.") for name in changed)
