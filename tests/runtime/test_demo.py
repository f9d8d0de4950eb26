import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from rwcnet_runtime.cli import demo_app
from rwcnet_runtime.demo import MEAN_MM, random_diffeomorphism
from rwcnet_runtime.geometry import ImageGrid, jacobian_determinant

SHAPE = (96, 112, 88)


def test_the_demo_deformation_is_smooth_known_and_invertible():
    inside = np.zeros(SHAPE, bool)
    inside[16:80, 16:96, 16:72] = True
    flow = random_diffeomorphism(SHAPE, inside, seed=0)
    length = np.linalg.norm(flow, axis=0)
    assert length[inside].mean() == pytest.approx(MEAN_MM, abs=0.01)
    assert length[inside].max() < 15  # mm
    determinant = jacobian_determinant(np.moveaxis(flow, 0, -1), ImageGrid(SHAPE, np.eye(4)))
    assert determinant.min() > 0.2
    np.testing.assert_array_equal(flow, random_diffeomorphism(SHAPE, inside, seed=0))
    assert np.abs(flow - random_diffeomorphism(SHAPE, inside, seed=1)).max() > 1  # mm


def test_the_deformation_is_drawn_in_mm_on_any_grid():
    shape, spacing = (48, 38, 20), (2.0, 3.0, 4.5)  # about the mm of `SHAPE`
    inside = np.zeros(shape, bool)
    inside[8:40, 6:32, 4:16] = True
    flow = random_diffeomorphism(shape, inside, seed=0, mean_mm=8.0, spacing_mm=spacing)
    in_mm = flow * np.array(spacing, np.float32)[:, None, None, None]
    assert np.linalg.norm(in_mm, axis=0)[inside].mean() == pytest.approx(8.0, abs=0.01)  # mm
    # Smooth in mm: the steepest change along an axis does not grow with its spacing.
    slopes = [
        np.abs(np.diff(in_mm, axis=axis + 1)).mean() / step for axis, step in enumerate(spacing)
    ]
    assert max(slopes) < 1.5 * min(slopes)


def test_a_missing_extra_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    result = CliRunner().invoke(demo_app, ["-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "pip install 'rwcnet[demo]'" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_demo_takes_away_most_of_the_error(tmp_path):
    result = CliRunner().invoke(demo_app, ["-o", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    reduction = float(result.stdout.split("after (")[1].split(" %")[0])
    largest = float(result.stdout.split("largest ")[-1].split(" mm")[0])
    assert largest <= 15  # mm
    assert reduction >= 60  # percent
    assert (tmp_path / "demo.png").stat().st_size > 10_000
