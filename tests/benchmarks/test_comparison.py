import comparison
import readme

OURS = {
    "seconds": 12.34,
    "cold_seconds": 15.0,
    "peak_memory_mb": 2500.0,
    "dice_after": 0.6,
    "folded_percent": 0.01,
    "parts": {
        "stage1": 1.0,
        "stage2": 2.0,
        "stage3": 3.0,
        "chain": 0.5,
        "refine": 4.0,
        "warp": 9.0,
    },
}
REPORT = {
    "case": "a",
    "size": [4, 5, 6],
    "environment": {"threads": 2},
    "results": {
        "openvino fp32": OURS,
        "zero": {"dice_after": 0.4, "folded_percent": 0},
        "syn": {"error": "it stopped"},
    },
    "arithmetic": {"flop": {"stage1": 1e12, "stage2": 2e12}, "peak_flops": {"openvino fp32": 1e12}},
    "growth": [
        {"backend": "x", "size": [8, 8, 8], "threads": 2, "seconds": 1.25, "peak_memory_mb": 900.0},
        {"backend": "y", "size": [8, 8, 8], "threads": 2, "error": "memory ran out"},
    ],
}


def test_a_line_a_method_with_what_it_has():
    head, ours, zero, failed = comparison.methods(REPORT)
    assert head[0] == "a, 4 x 5 x 6, 2 threads"
    assert ours[:4] == ("RWCNet, openvino fp32", "12.3 s", "6.5 s", "4.0 s")
    assert ours[4:] == ("15.0 s", "2.5 GB", "0.600", "0.010 %")
    assert zero == ("start alone", "", "", "", "", "", "0.400", "0.000 %")
    assert failed[:2] == ("ANTs SyN", "it stopped")
    assert len({len(line) for line in (head, ours, zero, failed)}) == 1


def test_the_share_is_of_the_stages_and_the_floor_of_their_arithmetic():
    _, line = comparison.arithmetic(REPORT)
    assert line == ("openvino fp32", "1000 GFLOP/s", "3.0 s", "6.0 s", "50 %")


def test_what_grows_has_a_column_a_backend():
    head, line = comparison.growth(REPORT)
    assert head == ("voxels", "threads", "x", "y")
    assert line == ("8 x 8 x 8", "2", "1.2 s, 0.9 GB", "failed")


def test_the_picture_is_drawn(tmp_path):
    comparison.draw(REPORT, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_every_table_of_the_comparison_has_a_place():
    places = {name for name, _, _, _ in readme.TABLES}
    assert {"comparison", "growth", "arithmetic"} <= places
