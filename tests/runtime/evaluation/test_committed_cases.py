import os
from pathlib import Path

import pytest

from rwcnet_runtime.evaluation import Case, measure, read_cases
from rwcnet_runtime.mapping import Mapping, read_initial_transform
from rwcnet_runtime.volumes import read_volume

CASES = Path(__file__).parents[3] / "runtime" / "benchmarks" / "cases"
DATA = Path(os.environ.get("RWCNET_DATA", "../shared/data"))


def at_the_start(case):
    """Measure the landmarks of a case with its initial transform alone."""
    fixed, moving = read_volume(case.fixed), read_volume(case.moving)
    initial = case.initial_transform and read_initial_transform(case.initial_transform)
    displacement = Mapping(fixed.grid, moving.grid, initial).displacement_mm()
    return measure(case, fixed, moving, displacement)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the development data in {DATA}")
def test_the_committed_cases_start_as_their_sources_say():
    found = {path.stem: read_cases(path, DATA) for path in CASES.glob("*.csv")}
    assert {name: len(cases) for name, cases in found.items()} == {
        "brain_templates": 1,
        "brain_trt": 10,
        "hippocampus_mr": 50,
        "liver_4dmri": 4,
        "lung_ct": 1,
        "spine_t1_t2": 1,
    }
    lung = at_the_start(found["lung_ct"][0])
    assert (lung["landmarks"], lung["landmarks_outside"]) == (51, 49)
    assert lung["tre_mm_before"] < 6  # from 34 mm, by the centres of the masks
    for case, expected in zip(found["liver_4dmri"], (6.1, 5.5), strict=False):
        # Without an initial transform, which is what the data's own figures are about.
        row = at_the_start(
            Case(**{**vars(case), "initial_transform": None}),
        )
        assert row["landmarks"] == 36
        assert row["tre_mm_before"] == pytest.approx(expected, abs=0.06)  # mm
