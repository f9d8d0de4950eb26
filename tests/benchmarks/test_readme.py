import pytest
import readme

CASES = [
    {"case": "a", "dice_after": 0.5, "folded_percent": 0.0, "labels": {}},
    {"case": "b", "dice_after": 0.9, "folded_percent": 0.5, "labels": {}},
]


def report(*failing):
    ours = [
        row if row["case"] not in failing else {"case": row["case"], "error": "!"} for row in CASES
    ]
    return {"results": {"hippocampus_mr": {"zero": {"cases": CASES}, "rwcnet": {"cases": ours}}}}


def test_a_method_is_averaged_over_the_cases_that_all_have():
    head, dice, folded = readme.peers(report())
    assert head[:4] == ("data (cases)", "measure", "start", "RWCNet `base`")
    assert dice[0] == "hippocampus MR crops, two people (2)"
    assert dice[1:4] == ("Dice", "0.700", "0.700")
    assert folded[1:4] == ("folded voxels, %", "0.250", "0.250")
    _, dice, _ = readme.peers(report("a"))
    assert dice[0].endswith("(1)")
    assert dice[2:4] == ("0.900", "0.900")


def test_labels_of_the_cortex_are_left_out():
    labels = {"17": {"dice_after": 0.8}, "53": {"dice_after": None}, "1002": {"dice_after": 0.1}}
    assert readme.subcortical_dice([{"labels": labels}]) == pytest.approx(0.8)


def test_a_table_goes_between_its_markers_again_and_again():
    text = "before\n<!-- x -->\n<!-- /x -->\nafter\n"
    once = readme.fill(text, "x", "| 1 |")
    assert once == "before\n<!-- x -->\n| 1 |\n<!-- /x -->\nafter\n"
    assert readme.fill(once, "x", "| 2 |") == once.replace("1", "2")
    with pytest.raises(ValueError, match="0 places"):
        readme.fill(text, "y", "")
