import csv
import json
import math

import numpy as np
import pytest

from rwcnet_runtime.evaluation import summarise
from rwcnet_runtime.evaluation.summary import markdown, write_results

ROWS = [
    {
        "case": f"case-{n}",
        "dice_after": dice,
        "hd95_after": 10 * dice,
        "tre_mm_after": 2 * dice,
        "sd_log_jacobian": dice,
        "labels": {3: {"dice_after": dice}, 4: {"dice_after": math.nan}},
    }
    for n, dice in enumerate(np.random.default_rng(0).random(40))
]
FAILED = {"case": "bad", "error": "a.nii is damaged."}


def test_means_and_the_quantiles_of_learn2reg():
    measures = summarise([*ROWS, FAILED])["measures"]
    dice = np.array([row["dice_after"] for row in ROWS])
    for name, factor, quantile in (
        ("dice_after", 1, 0.3),
        ("hd95_after", 10, 0.3),
        ("tre_mm_after", 2, 0.7),
        ("sd_log_jacobian", 1, 0.7),
    ):
        found = measures[name]
        assert found["mean"] == pytest.approx(factor * dice.mean(), abs=1e-12)
        expected = factor * np.quantile(dice, quantile)
        assert found["learn2reg_30"] == pytest.approx(expected, abs=1e-12)
        assert found["cases"] == 40
    assert "tre_mm_before" not in measures


def test_the_interval_is_the_one_of_a_mean():
    """Of 40 uniform numbers the percentile bootstrap is close to the normal interval."""
    found = summarise(ROWS)["measures"]["dice_after"]
    dice = np.array([row["dice_after"] for row in ROWS])
    half = 1.96 * dice.std() / math.sqrt(40)
    normal = (found["mean"] - half, found["mean"] + half)
    assert found["interval"] == pytest.approx(normal, abs=0.05 * half)
    assert summarise(ROWS) == summarise(ROWS)


def test_one_case_has_no_interval():
    found = summarise(ROWS[:1])["measures"]["dice_after"]
    assert found["interval"] is None
    assert found["learn2reg_30"] == found["mean"]


def test_missing_and_infinite_values():
    rows = [{"case": "a", "hd95_after": math.inf}, {"case": "b", "hd95_after": 1.0}]
    rows.append({"case": "c", "hd95_after": math.nan})
    found = summarise(rows)["measures"]["hd95_after"]
    assert (found["mean"], found["cases"], found["learn2reg_30"]) == (math.inf, 2, 1.0)
    assert summarise([FAILED]) == {"cases": 0, "failed": 1, "measures": {}}


def test_the_files_hold_everything(tmp_path):
    paths = write_results(tmp_path / "new" / "out", [*ROWS, FAILED], {"engine": "fp32"})
    assert [path.name for path in paths] == ["cases.csv", "summary.md", "summary.json"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(
        path.name for path in paths
    )
    with paths[0].open(newline="") as file:
        table = list(csv.DictReader(file))
    assert float(table[3]["dice_after"]) == ROWS[3]["dice_after"]
    assert table[3]["seconds"] == ""
    assert table[-1]["error"] == FAILED["error"]
    report = json.loads(paths[2].read_text())
    assert report["engine"] == "fp32"
    assert report["summary"]["failed"] == 1
    assert report["cases"][3]["labels"]["3"]["dice_after"] == ROWS[3]["dice_after"]
    assert report["cases"][3]["labels"]["4"]["dice_after"] is None
    assert report["cases"][-1] == FAILED
    assert report["environment"]["versions"]["numpy"] == np.__version__
    text = paths[1].read_text()
    assert "Cases: 40, failed: 1." in text
    assert "- bad: a.nii is damaged." in text


def test_the_table_by_hand():
    rows = [{"case": "a", "dice_after": 0.5, "seconds": 2.0}] * 2
    assert markdown(rows).splitlines()[2:] == [
        "| Dice after | 0.5000 | 0.5000 to 0.5000 | 0.5000 | 2 |",
        "| time, s | 2.00 | 2.00 to 2.00 |  | 2 |",
        "",
        "Cases: 2, failed: 0.",
    ]


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_results(tmp_path, ROWS, {"no JSON": object()})
    assert not list(tmp_path.iterdir())
