import json
from pathlib import Path

import pytest

from rwcnet_runtime.verdict import DOUBTFUL, LIMITS, UNLIKE, judge

RESULTS = Path(__file__).parents[2] / "runtime/benchmarks/results"


def test_nothing_measured_is_nothing_to_object_to():
    assert judge({}).level == "ok"


def nested(path, value):
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def broken(limit, level):
    """Findings a little beyond a limit."""
    bound = getattr(limit, level)
    return nested(limit.path, bound - 1e-3 if limit.at_least else bound + 1e-3)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.path)
def test_every_limit_is_kept_on_its_side_alone(limit):
    for level in ("check", "failed"):
        bound = getattr(limit, level)
        if bound is None:
            continue
        verdict = judge(broken(limit, level))
        assert verdict.level == level
        [reason] = verdict.reasons
        assert reason.endswith(f"{bound:g}")
        assert judge(nested(limit.path, bound)).level != level
        assert judge(nested(limit.path, float("nan"))).level != "ok"


def test_the_worst_comes_first_and_decides():
    folds = next(limit for limit in LIMITS if limit.path.endswith("folded_percent"))
    squeezed = broken(next(x for x in LIMITS if x.path.endswith("p1")), "check")
    folded = broken(folds, "failed")["jacobian_determinant"]
    verdict = judge({"jacobian_determinant": folded | squeezed["jacobian_determinant"]})
    assert verdict.level == "failed"
    assert ["folds" in reason for reason in verdict.reasons] == [True, False]


def test_unlike_images_and_something_unusual_is_a_failure():
    long = broken(next(x for x in LIMITS if x.path == "flow_vox.p99"), "check")
    seen = broken(next(x for x in LIMITS if x.path.endswith("in_view_percent")), "check")
    unlike = nested(UNLIKE.path, DOUBTFUL - 1e-3)
    assert judge(unlike).level == "check"
    assert judge(unlike | long).level == "failed"
    assert judge(nested(UNLIKE.path, DOUBTFUL) | long).level == "check"
    assert judge(long | seen).level == "check"


def test_real_pairs_are_told_apart():
    """What is fine is never called failed, and what is wrong is ok only where nobody could tell."""
    report = json.loads(sorted(RESULTS.glob("*-verdicts.json"))[-1].read_text())
    rows = [row for row in report["results"] if "findings" in row]
    levels = {row["pair"]: judge(row["findings"]).level for row in rows}
    assert levels == {row["pair"]: row["verdict"]["level"] for row in rows}
    fine = {row["pair"] for row in rows if row["kind"].startswith("fine")}
    assert len(fine) > 10
    assert len(levels) - len(fine) > 10
    assert "failed" not in {levels[pair] for pair in fine}
    assert [pair for pair in levels if levels[pair] == "ok" and pair not in fine] == [
        "brain mirrored"
    ]
