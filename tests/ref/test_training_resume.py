import json

import pytest
import torch
from torch import nn

from rwcnet_ref.config import BASE
from rwcnet_ref.training import loop
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_runtime.errors import InputError


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


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
def test_an_interrupted_training_of_20_steps_ends_bit_identical(
    begin, monkeypatch, stopped, settings, fresh, moved
):
    told = settings(steps=20, save_every=5, validate_every=6, small=0.5, short=0.4)
    straight = begin(with_dropout(fresh()), told=told, folder="straight")
    straight.run()

    broken = begin(with_dropout(fresh()), told=told, folder="broken")
    if stopped == "exception":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
            patch.setattr(broken.data, "batch", interrupted(broken.data.batch, 9))
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
        if next(calls) == at:  # the rehearsal draws twice as well
            raise KeyboardInterrupt
        return batch(share, random)

    return drawn


def test_lines_after_the_checkpoint_are_dropped(begin, tmp_path, settings, fresh):
    log = tmp_path / "run/stage2.jsonl"
    told = settings(steps=6, validate_every=2, save_every=3)
    training = begin(fresh(), told=told)
    training.run(stop=lambda: training.step == 3)
    log.write_text(log.read_text() + '{"step": 4, "loss": 7}\n{"step": 5, "lo')
    begin(fresh(), told=told).run()
    assert [line["step"] for line in lines(log)] == [2, 4, 6]
    assert all(line["loss"] != 7 for line in lines(log))


def test_a_finished_training_stays_as_it_is(begin, tmp_path, fresh):
    begin(fresh()).run()
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    done = begin(fresh(seed=1))
    assert done.run()
    assert {path: path.read_bytes() for path in before} == before


def test_a_resumed_training_knows_its_best(begin, settings, fresh, monkeypatch):
    measured, told = {1: 0.9, 2: 0.3, 3: 0.5, 4: 0.4}, settings(validate_every=1)
    training = begin(fresh(), told=told)
    monkeypatch.setattr(loop, "validate", lambda *_: {"error": measured.get(training.step, 1.0)})
    training.run(stop=lambda: training.step == 3)
    kept = training.folder.best(1).read_bytes()
    training = begin(fresh(seed=1), told=told)
    assert training.run()
    assert training.best == 0.3
    assert training.folder.best(1).read_bytes() == kept


@pytest.mark.parametrize("damage", ["cut", "empty", "list", "step", "of another model"])
def test_a_damaged_checkpoint_gets_one_sentence(begin, fresh, damage):
    training = begin(fresh())
    training.save()
    path = training.folder.checkpoint(1)
    if damage in ("cut", "empty"):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    elif damage == "of another model":
        state = torch.load(path, weights_only=True)
        torch.save({**state, "cascade": fresh(BASE).state_dict()}, path)
    else:
        torch.save({"step": 1} if damage == "step" else [1], path)
    with pytest.raises(InputError, match=r"stage2.ckpt is damaged .*: delete it .* or .* -o$"):
        begin(fresh())


@pytest.mark.parametrize("content", ["", '{"model": ', "[]", '{"training": 3}'])
def test_damaged_settings_get_one_sentence(settings, tmp_path, content):
    folder, given = RunFolder(tmp_path), settings().given
    folder.claim(given)
    folder.check(given)
    folder.settings.write_text(content)
    with pytest.raises(InputError, match=r"settings.json is damaged: choose another folder"):
        folder.check(given)
