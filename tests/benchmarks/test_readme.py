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
    return {"results": {"hippocampus_mr": {"zero": {"cases": CASES}, "refined": {"cases": ours}}}}


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


def test_precisions_stand_beside_torch():
    row = {"case": "a", "size": [4, 5, 6], "flow_vox": 2, "mean_vox": 0.0041, "p99_vox": 0.02}
    row |= {"engine": "bf16", "max_vox": 0.25}
    both = {"dice_after": [0.7, 0.6995], "tre_mm_after": [2.0, 2.01]}
    rows = [row | {"accuracy": both}, row | {"accuracy": {}}]
    nodes = {"bf16": {"2": {"low": 3, "full": 2, "casts": 1}}}
    report = {"results": {"a": rows}, "nodes": nodes}
    _, known, unknown = readme.precisions(report)
    title = "a, 4 x 5 x 6, flow 2.00"
    assert known[:-2] == unknown[:-2] == (title, "bf16", "0.0041", "0.02", "0.25")
    assert known[-2:] == ("Dice 0.7000, TRE 2.000 mm", "-0.0005, +0.010 mm")
    assert unknown[-2:] == ("", "")
    assert readme.precision_nodes(report)[1:] == [("bf16", "2", "3", "2", "1")]


def test_passes_add_up_over_graphs():
    row = {"name": "a pass", "fired": 1, "found": 2, "among": 5, "wanted": "nodes fit"}
    report = {"passes": {"stage1": [row], "compose": [row | {"fired": 0, "found": 1}]}}
    assert readme.graph_passes(report)[1:] == [("a pass", "1", "3 of 10 nodes fit")]


def test_the_pipeline_has_a_line_a_setting():
    row = {"what": "defaults", "threads": 2, "seconds": [9.96, 8], "peak_mib": [1024, 2560]}
    scaled = row | {"what": "intensities alone"}
    results = {"a": row | {"largest_difference_vox": 0.00012}, "b": scaled}
    head, line, last = readme.pipeline({"size": [4, 5, 6], "results": results})
    assert head[0] == "4 x 5 x 6 voxels"
    assert line == ("defaults", "2", "10.0 s", "8.0 s", "2.5 GiB", "0.0001")
    assert last[-1] == ""


def test_a_table_goes_between_its_markers_again_and_again():
    text = "before\n<!-- x -->\n<!-- /x -->\nafter\n"
    once = readme.fill(text, "x", "| 1 |")
    assert once == "before\n<!-- x -->\n| 1 |\n<!-- /x -->\nafter\n"
    assert readme.fill(once, "x", "| 2 |") == once.replace("1", "2")
    with pytest.raises(ValueError, match="0 places"):
        readme.fill(text, "y", "")


def test_kinds_of_features_stand_side_by_side():
    refined = {"case": "a", "tre_mm_after": 1.5, "folded_percent": 0.1, "seconds": 2.0}
    plain = {"case": "a", "tre_mm_after": 2.0, "folded_percent": 0.0}
    kinds = {name: {"cases": [refined]} for name in ("mind", "learned", "both")}
    report = {"results": {"lung_ct": {"none": {"cases": [plain]}, **kinds}}}
    _, error, folded, time = readme.refinement(report)
    assert error == ("lung CT, two visits (1)", "TRE, mm", "2.00", "1.50", "1.50", "1.50")
    assert folded[1:3] == ("folded voxels, %", "0.000")
    assert time[1:4] == ("time, s", "", "2.0")


def test_a_step_stands_beside_convexadams():
    step = {"rwcnet": {"seconds": 0.2}, "convexadam": {"seconds": 0.5}}
    _, row = readme.refinement_steps({"size": [4, 5, 6], "steps": {"1": step}})
    assert row == ("1", "0.20 s", "0.50 s", "2.5")
