import copy
from dataclasses import replace

import pytest
import torch

from rwcnet_ref.checkpoint import load_weights, save_weights
from rwcnet_ref.config import TINY
from rwcnet_ref.training.checkpoints import RunFolder
from rwcnet_ref.training.stages import train
from rwcnet_runtime.errors import InputError


@pytest.mark.parametrize("velocity", [False, True])
def test_stages_are_trained_on_top_of_each_other(tmp_path, velocity, settings, quiet):
    told = settings(model={"velocity": velocity})
    folder = RunFolder(tmp_path / "run")
    assert train(told, folder, quiet)
    done, about = load_weights(folder.weights)
    assert done.config == told.model
    assert about["training_data"] == "not stated"
    for index in (0, 1):
        best, _ = load_weights(folder.best(index))
        below = [n for n in best.state_dict() if n.startswith(f"stages.{index}.")]
        assert all(torch.equal(best.state_dict()[n], done.state_dict()[n]) for n in below)
    # Once more: everything is there already.
    before = folder.best(2).stat().st_mtime_ns
    assert train(told, folder, quiet)
    assert folder.best(2).stat().st_mtime_ns == before


@pytest.fixture
def start(tmp_path, fresh):
    """Save weights to start from, with a stride and stages of one size."""
    stages = tuple(
        replace(TINY.stages[1], resolution=n, stride=2, patch=None, halo=0) for n in (4, 2, 1)
    )
    path = tmp_path / "start.safetensors"
    save_weights(fresh(replace(TINY, stages=stages), seed=3), path)
    return path


def state(cascade, index):
    return cascade.stage(index).state_dict()


def test_with_weights_to_start_from_any_stage_can_come_first(
    tmp_path, start, settings, quiet, moved
):
    told, folder = settings(model={"weights": str(start)}), RunFolder(tmp_path / "run")
    before, _ = load_weights(start)
    seen = {}
    quiet.begin = lambda training: seen.update({training.index: copy.deepcopy(training.cascade)})
    for index in (1, 2, 0):
        assert not folder.best(index).exists()
        assert train(told, folder, quiet, stage=index)
    # Each began with what it was given, not with the stage below.
    for index, cascade in seen.items():
        assert not moved(state(before, index), state(cascade, index))
    # On top of what was best by then.
    assert not moved(state(before, 0), state(seen[1], 0))
    best = [load_weights(folder.best(n))[0] for n in range(3)]
    assert not moved(state(best[1], 1), state(seen[2], 1))
    for n in range(3):
        assert moved(state(before, n), state(best[n], n))


def test_the_weights_in_the_end_hold_the_best_of_each_stage(
    tmp_path, start, settings, quiet, moved
):
    told, folder = settings(model={"weights": str(start)}), RunFolder(tmp_path / "run")
    before, _ = load_weights(start)
    train(told, folder, quiet, stage=1)
    assert not folder.weights.exists()
    train(told, folder, quiet, stage=2)
    # Stages that are not trained are those of the start.
    halfway, _ = load_weights(folder.weights)
    assert not moved(state(before, 0), state(halfway, 0))
    train(told, folder, quiet, stage=0)
    done, _ = load_weights(folder.weights)
    assert done.config == before.config
    for n in range(3):
        assert not moved(state(load_weights(folder.best(n))[0], n), state(done, n))
        assert moved(state(before, n), state(done, n))


def test_a_stage_starts_from_the_one_below_where_they_are_alike(tmp_path, settings, quiet):
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
        train(case, folder, quiet, stage=0)
        seen = []

        quiet.begin = lambda training, seen=seen: seen.append(copy.deepcopy(training.cascade))
        train(case, folder, quiet, stage=1, stop=lambda: True)
        below, begun = (seen[0].stage(n).state_dict() for n in (0, 1))
        shared = {n for n in below if n in begun and below[n].shape == begun[n].shape}
        assert ({n for n in shared if torch.equal(below[n], begun[n])} == shared) == equal


def test_a_stage_needs_the_one_below(tmp_path, settings, quiet):
    with pytest.raises(InputError, match=r"stage 1 is not trained in .*: train it first"):
        train(settings(), RunFolder(tmp_path), quiet, stage=1)


@pytest.mark.parametrize("gone", [False, True])
def test_damaged_weights_below_get_one_sentence(settings, tmp_path, quiet, gone):
    told, folder = settings(steps=1), RunFolder(tmp_path / "run")
    train(told, folder, quiet, stage=0)
    path = folder.best(0)
    whole = path.read_bytes()
    path.unlink()
    if not gone:
        path.write_bytes(whole[:-10])
    before = set(folder.path.iterdir())
    with pytest.raises(
        InputError, match=r"stage1.best.safetensors is damaged or gone: delete stage1.ckpt as well"
    ):
        train(told, folder, quiet, stage=1)
    assert set(folder.path.iterdir()) == before
