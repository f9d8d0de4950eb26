import json
import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from rwcnet_runtime.engines import cache as module
from rwcnet_runtime.engines.cache import SCHEMA_VERSION, PlanCache, default_folder, key
from rwcnet_runtime.errors import BackendError, InputError

FACTS = {"schema": SCHEMA_VERSION, "onnx": "0" * 64, "profile": [[1, 8, 8, 8]], "gpu": "none"}


def keep(cache, data=b"engine", facts=FACTS):
    with cache.building(print) as folder:
        (folder / "engine.plan").write_bytes(data)
        return cache.keep(facts, folder / "engine.plan", {"layers": 3})


def test_a_plan_comes_back_and_leaves_nothing_else():
    cache = PlanCache()
    assert cache.find(FACTS) is None
    kept = keep(cache)
    assert cache.find(FACTS) == kept
    assert kept.read() == b"engine"
    assert cache.plans() == [kept]
    assert {path.name for path in cache.folder.iterdir()} == {
        f"{key(FACTS)}.plan",
        f"{key(FACTS)}.json",
        ".lock",
    }


def test_the_key_is_of_the_facts_alone():
    assert key(dict(reversed(FACTS.items()))) == key(FACTS)
    for name in FACTS:
        assert key(FACTS | {name: "other"}) != key(FACTS)


@pytest.mark.parametrize("data", [b"", b"engine!", b"Engine"])
def test_a_damaged_plan_is_not_given_out(data):
    cache = PlanCache()
    plan = keep(cache)
    plan.path.write_bytes(data)
    for read in (plan.read, lambda: cache.find(FACTS)):
        with pytest.raises(BackendError, match="is damaged"):
            read()


@pytest.mark.parametrize(
    "about",
    [
        "",
        "{}",
        "[]",
        json.dumps({"sha256": "0", "facts": {"schema": 0}, "summary": {}}),
        json.dumps({"sha256": "0", "facts": {"schema": SCHEMA_VERSION}, "summary": {}}),
        json.dumps({"sha256": "0", "facts": {"schema": SCHEMA_VERSION, "gpu": float("nan")}}),
        "[" * 100_000,
        "9" * 5000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        " " * 2**20 + "{}",
    ],
    ids=lambda about: about[:40],
)
def test_a_damaged_file_about_a_plan_is_not_believed(about):
    cache = PlanCache()
    keep(cache).path.with_suffix(".json").write_text(about)
    with pytest.raises(BackendError, match="is damaged"):
        cache.find(FACTS)
    assert cache.plans() == []


def test_a_thousand_damaged_files_about_a_plan():
    """Bytes changed or cut out: the plan is the one that was kept, or it is damaged."""
    cache, chance = PlanCache(), random.Random(0)
    kept = keep(cache)
    about = kept.path.with_suffix(".json")
    whole, found = about.read_bytes(), 0
    for _ in range(1000):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        if chance.random() < 0.5:
            data[at] = chance.randrange(256)
        else:
            del data[at : at + chance.randrange(1, 60)]
        about.write_bytes(data)
        with suppress(BackendError):
            plan = cache.find(FACTS)
            found += 1
            assert plan is not None
            assert (plan.facts, plan.read()) == (FACTS, b"engine")
        assert all(plan.facts == FACTS for plan in cache.plans())
    assert found < 500  # white space, or a number of the summary


def test_a_plan_under_the_name_of_another_is_not_believed():
    cache = PlanCache()
    plan = keep(cache)
    other = FACTS | {"gpu": "other"}
    for suffix in (".plan", ".json"):
        plan.path.with_suffix(suffix).rename(cache.folder / f"{key(other)}{suffix}")
    with pytest.raises(BackendError, match="is damaged"):
        cache.find(other)


def test_the_folder_is_the_users_alone():
    cache = PlanCache()
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    for mode in (0o755, 0o770, 0o702):
        cache.folder.chmod(mode)
        with pytest.raises(InputError, match=f"mode {mode:04o}.*chmod 700 it"):
            PlanCache()


def test_a_folder_of_somebody_else_is_refused(monkeypatch):
    PlanCache()
    monkeypatch.setattr(module.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(InputError, match="not yours alone"):
        PlanCache()


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(InputError, match="set RWCNET_CACHE"):
        PlanCache()


def test_where_caches_are_kept(monkeypatch, tmp_path):
    assert default_folder() == tmp_path / "cache" / "plans"
    monkeypatch.delenv("RWCNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "rwcnet" / "plans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "rwcnet" / "plans"


HOLDER = """
import sys, time
from pathlib import Path
from rwcnet_runtime.engines.cache import PlanCache
with PlanCache(Path(sys.argv[1])).building(print) as folder:
    (folder / "part").touch()
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def another_process(cache, held_s):
    """Let another process build for some seconds, and kill it in the end."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cache.folder), str(held_s)],
        env=environment,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        yield
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize(("held_s", "wait_s"), [(1.0, 60.0), (60.0, 0.1)])
def test_another_process_is_waited_for_but_not_for_ever(held_s, wait_s):
    cache, said = PlanCache(), []
    with another_process(cache, held_s):
        start = time.monotonic()
        if wait_s > held_s:
            with cache.building(said.append, wait_s):
                assert time.monotonic() - start < wait_s
        else:
            with (
                pytest.raises(BackendError, match="another process has been building"),
                cache.building(said.append, wait_s),
            ):
                pass
            assert len(list(cache.folder.glob(".building-*/part"))) == 1
    assert said == ["another process builds an engine: waiting for it"]


def test_what_a_killed_process_left_goes_with_the_next_build():
    cache = PlanCache()
    with another_process(cache, 60):
        pass
    assert len(list(cache.folder.glob(".building-*"))) == 1
    with cache.building(print) as folder:
        assert list(cache.folder.glob(".building-*")) == [folder]
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]
