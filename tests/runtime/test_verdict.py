import json
from pathlib import Path

import pytest

from rwcnet_runtime.verdict import LIMITS, judge

RESULTS = Path(__file__).parents[2] / "runtime/benchmarks/results"


def test_nothing_measured_is_nothing_to_object_to():
    assert judge({}).level == "ok"


def nested(path, value):
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.path)
def test_every_limit_is_kept_on_its_side_alone(limit):
    step = -1e-3 if limit.at_least else 1e-3
    for bound, level in ((limit.failed, "failed"), (limit.check, "check")):
        if bound is None:
            continue
        verdict = judge(nested(limit.path, bound + step))
        assert verdict.level == level
        [reason] = verdict.reasons
        assert f"the limit of {bound:g}" in reason
        assert judge(nested(limit.path, bound)).level != level
        assert judge(nested(limit.path, float("nan"))).level in ("check", "failed")


def test_the_worst_comes_first_and_decides():
    limit = next(limit for limit in LIMITS if limit.failed is not None)
    step = -1 if limit.at_least else 1
    verdict = judge(nested(limit.path, limit.failed + step) | {"identical": True})
    assert verdict.level == "failed"
    assert "same image" in verdict.reasons[1]


def test_the_measured_pairs_are_told_apart():
    """Of real pairs, whose findings are committed: what is fine is never called failed."""
    report = json.loads(sorted(RESULTS.glob("*-verdicts.json"))[-1].read_text())
    measured = [row for row in report["results"] if "findings" in row]
    levels = {row["pair"]: judge(row["findings"]).level for row in measured}
    good = [levels[row["pair"]] for row in measured if row["good"]]
    assert len(good) > 10
    assert good.count("ok") == len(good)
    assert levels == {row["pair"]: row["verdict"]["level"] for row in measured}
