import copy
import json
import math

import pytest
import torch

from rwcnet_ref.checkpoint import load_weights
from rwcnet_ref.training import loop
from rwcnet_ref.training.loop import NotFiniteError
from rwcnet_ref.training.settings import Settings
from rwcnet_runtime.errors import InputError


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("index", range(3))
def test_only_the_stage_in_training_changes(begin, index, fresh, moved):
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
def test_averages_are_frozen_in_the_end(begin, frozen_from, counted, settings, fresh):
    cascade = fresh()
    begin(cascade, told=settings(frozen_averages=frozen_from)).run()
    assert cascade.stage(1).features[4].num_batches_tracked == counted


def test_a_run_saves_and_logs_every_so_many_steps(begin, tmp_path, settings, fresh):
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


def test_tensorboard_gets_what_the_lines_hold(begin, tmp_path, fresh):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs TensorBoard"
    )
    begin(fresh()).run()
    events = accumulator.EventAccumulator(str(tmp_path / "run/events/stage2")).Reload()
    for line in lines(tmp_path / "run/stage2.jsonl"):
        found = {event.step: event.value for event in events.Scalars("error")}
        assert found[line["step"]] == pytest.approx(line["error"], rel=1e-6)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_averaged_weights_are_an_exponential_average(begin, ema, settings, fresh):
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


def test_the_best_weights_are_kept(begin, monkeypatch, settings, fresh, moved):
    measured = iter([0.9, 0.3, 0.5, 0.4])
    training = begin(fresh(), told=settings(validate_every=1))
    at_step = {}

    def measure(cascade, *arguments):
        assert cascade is training.averaged.module
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


def test_a_loss_that_is_no_number_stops_and_leaves_the_batch(
    begin, tmp_path, settings, fresh, moved
):
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


def test_a_gradient_that_is_no_number_stops_as_well(begin, fresh, moved):
    training = begin(fresh())
    training.stage.head[-1].weight.register_hook(lambda gradient: gradient * math.inf)
    before = copy.deepcopy(training.cascade.stage(1).head.state_dict())
    with pytest.raises(NotFiniteError, match="gradient"):
        training._advance()
    assert moved(before, training.cascade.stage(1).head.state_dict()) == set()


def test_rate_warms_up_and_falls(begin, settings, fresh):
    training = begin(
        fresh(), told=settings(steps=100, warm_up=10, rate="cosine", learning_rate=1.0)
    )
    rates = []
    for training.step in (0, 9, 50, 99):
        rates.append(training._learning_rate())
    assert rates == pytest.approx([0.1, 0.98, 0.5, 2.5e-4], abs=3e-4)
    constant = begin(fresh(), told=settings(steps=100, learning_rate=0.2), folder="constant")
    assert constant._learning_rate() == 0.2


def test_bf16_trains_and_changes_the_numbers(begin, settings, fresh):
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
        (
            {"losses": {"error": {"weight": 1.0, "after": 0.5}, "gradient": 1.0}},
            "at the first step the losses do not suit the data: only regularisers .* add another "
            r"loss, or let error count from the start \(after = 0\)$",
        ),
        (
            {"losses": {"error": {"weight": 1.0, "after": 0.5}}},
            "at the first step the losses do not suit the data: no loss counts, so nothing judges "
            r"a match; add one, or let error count from the start \(after = 0\)$",
        ),
        (
            {
                "losses": {
                    "mse": {"weight": 1.0, "after": 0.5},
                    "gradient": {"weight": 1.0, "after": 0.5},
                    "keypoints": 1.0,
                }
            },
            r"at the first step .* keypoints of both images; .*, or let mse count from the start",
        ),
        ({"losses": {"gradient": 1.0}}, "losses do not suit the data: only regularisers"),
        ({"best": "tre_mm"}, "training.best is tre_mm, which these validation pairs cannot give"),
    ],
    ids=str,
)
def test_what_the_data_lack_is_said_before_the_first_step(
    begin, tmp_path, told, says, settings, fresh
):
    with pytest.raises(InputError, match=says) as error:
        begin(fresh(), told=settings(**told)).run()
    assert "\n" not in str(error.value)
    assert list((tmp_path / "run").iterdir()) == []


def test_the_published_network_takes_a_step(begin, fresh, moved):
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


def test_the_start_has_short_recurrence_and_not_yet_all_losses(begin, settings, fresh, monkeypatch):
    told, seen, cost = settings(model={"steps": 3}, short=0.5), [], loop.batch_loss

    def noted(*given):
        seen.append((given[6], set(given[4])))
        return cost(*given)

    monkeypatch.setattr(loop, "batch_loss", noted)
    begin(fresh(told.model), told=told).run()
    start = {"error", "gradient"}
    assert seen == [(2, start)] * 2 + [(3, start | {"dice"})] * 2


def test_gradients_are_clipped(begin, settings, fresh):
    norms = {}
    for clip in (1e-3, None):
        training = begin(
            fresh(), told=settings(clip=clip) if clip else settings(), folder=str(clip)
        )
        training._advance()
        gradients = [p.grad for p in training.stage.parameters() if p.grad is not None]
        norms[clip] = float(torch.nn.utils.get_total_norm(gradients))
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert norms[None] > 1e-2


@pytest.mark.parametrize(
    ("name", "expected"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_the_optimiser_is_the_chosen_one(begin, settings, fresh, name, expected):
    # One is derived from the other.
    assert type(begin(fresh(), told=settings(optimiser=name)).optimiser) is expected


def test_a_measure_that_is_no_number_stops(begin, settings, fresh, tmp_path, monkeypatch):
    measured = {1: 0.5, 2: 0.4, 3: math.nan}
    training = begin(fresh(), told=settings(validate_every=1))
    monkeypatch.setattr(
        loop,
        "validate",
        lambda *_: {"error": measured.get(training.step, 1.0), "validation_loss": math.inf},
    )
    with pytest.raises(NotFiniteError, match="error is nan in the validation at step 3 of stage 2"):
        training.run()
    text = (tmp_path / "run/stage2.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    found = lines(tmp_path / "run/stage2.jsonl")
    assert [(x["step"], x["error"], x["validation_loss"]) for x in found] == [
        (1, 0.5, None),
        (2, 0.4, None),
    ]
    assert training.best == 0.4
