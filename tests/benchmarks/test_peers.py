import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import peers
import pytest
import SimpleITK as sitk  # noqa: N813
from peer_runs import environments, starts
from peer_runs.environments import Launcher, PeerError, make_environment
from peer_runs.methods import Pair, from_itk, from_voxels, register_case

from rwcnet_runtime import Mapping, read_volume, register
from rwcnet_runtime.evaluation import Case, read_cases
from rwcnet_runtime.mapping import read_initial_transform
from rwcnet_runtime.volumes import write_displacement

FLIP = np.array([-1, -1, 1])  # RAS to LPS and back


class FakeLauncher:
    """Stands in for a peer: `work` gets the job and leaves its result."""

    def __init__(self, work, threads=1):
        self.work, self.threads, self.calls = work, threads, 0

    def run(self, environment, script, job):
        self.calls += 1
        self.work(job)
        return {"seconds": 1.5, "peak_memory_mb": 20.0, "versions": {"peer": "1"}}


def _affine():
    """A start without symmetry: rotation, shear, scaling and translation in LPS+ mm."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([1.03, 0.12, -0.04, -0.1, 0.97, 0.06, 0.05, -0.03, 1.05])
    transform.SetTranslation([2.5, -1.5, 3.0])
    return transform


def _translation(path, offset=(2.0, -3.0, 4.0)):
    sitk.WriteTransform(sitk.TranslationTransform(3, offset), str(path))
    return path


def _points(grid):
    return grid.world_from_voxel(np.moveaxis(np.indices(grid.shape), 0, -1))


def _apply(affine, points):
    """Map RAS points by an ITK affine."""
    matrix = np.array(affine.GetMatrix()).reshape(3, 3)
    return ((points * FLIP) @ matrix.T + affine.GetTranslation()) * FLIP


@pytest.fixture
def pair(fixed_path, make_grid, save_phantom):
    """Fixed grids of each orientation in turn, and a moving one that is oblique."""
    moving_path = save_phantom(make_grid("oblique", scale=1.1, centre=(3.3, -2.1, 1.4)))
    fixed, moving = read_volume(fixed_path), read_volume(moving_path)
    return Pair(fixed, moving, _affine(), Case("a", fixed_path, moving_path))


@pytest.fixture
def case(make_grid, save_phantom, tmp_path):
    return Case(
        "a",
        save_phantom(make_grid("LPS"), "fixed.nii.gz"),
        save_phantom(make_grid("PSR", scale=1.1), "moving.nii.gz"),
        initial_transform=_translation(tmp_path / "start.tfm"),
    )


def test_steps_in_voxels_come_before_the_start(pair):
    grid, step = pair.fixed.grid, np.array([2.0, -1.5, 0.5])
    displacement_vox = np.broadcast_to(step.astype(np.float32), (*grid.shape, 3))
    points = _points(grid)
    expected = _apply(_affine(), points + grid.affine[:3, :3] @ step) - points
    found = from_voxels(pair, displacement_vox)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # mm


def test_a_warp_file_of_itk_comes_before_the_start(pair, tmp_path):
    grid, step_mm = pair.fixed.grid, np.array([3.0, -2.0, 1.0])  # RAS
    path = tmp_path / "warp.nii.gz"
    write_displacement(path, np.broadcast_to(step_mm, (*grid.shape, 3)), pair.fixed)
    points = _points(grid)
    expected = _apply(_affine(), points + step_mm) - points
    found = from_itk(pair, read_initial_transform(path))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # mm


def test_a_pair_without_a_start_is_taken_as_it_lies(pair):
    as_it_lies = Pair(pair.fixed, pair.moving, None, pair.case)
    found = from_itk(as_it_lies, sitk.TranslationTransform(3, (1.0, 2.0, 3.0)))
    expected = np.broadcast_to([-1.0, -2.0, 3.0], found.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # mm


def test_convexadam_gets_the_moving_image_on_the_fixed_grid_dark_outside(case, tmp_path):
    given = {}

    def work(job):
        given.update({name: np.load(job[name]) for name in ("fixed", "moving")}, job=job)
        np.save(job["result"], np.zeros((*given["fixed"].shape, 3), np.float32))

    register_case("adam", case, tmp_path / "adam", FakeLauncher(work))
    fixed, moving = read_volume(case.fixed), read_volume(case.moving)
    mapping = Mapping(fixed.grid, moving.grid, read_initial_transform(case.initial_transform))
    expected = mapping.resample(moving.data - moving.data.min())
    np.testing.assert_allclose(given["moving"], expected, rtol=0, atol=1e-4)  # intensity
    assert not mapping.inside().all()
    assert given["moving"].min() == given["fixed"].min() == 0
    assert given["job"]["settings"] == {"disp_hw": 0}


def test_the_field_of_the_start_alone_is_the_start(case, tmp_path):
    register_case("zero", case, tmp_path / "zero", FakeLauncher(None))
    field = sitk.ReadImage(str(tmp_path / "zero" / "a.nii.gz"))
    vectors = sitk.GetArrayFromImage(field)
    expected = np.broadcast_to([2.0, -3.0, 4.0], vectors.shape)
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-4)  # mm


@pytest.mark.parametrize(("name", "refine"), [("rwcnet", 0), ("refined", None)])
def test_our_bundle_is_run_as_register_runs_it(name, refine, case, tmp_path):
    found = register_case(name, case, tmp_path / "ours", Launcher(tmp_path, 1))
    assert found["seconds"] < sum(found["parts"].values())
    written = read_initial_transform(tmp_path / "ours" / "a.nii.gz")
    fixed, moving = read_volume(case.fixed), read_volume(case.moving)
    assert ("refine" in found["parts"]) == (refine is None)
    expected = register(
        case.fixed,
        case.moving,
        backend="onnxruntime",
        refine=refine,
        initial_transform=case.initial_transform,
    )
    np.testing.assert_allclose(
        Mapping(fixed.grid, moving.grid, written).displacement_mm(),
        expected.displacement_mm,
        rtol=0,
        atol=1e-3,  # mm; another number of threads adds in another order
    )


def test_what_is_there_is_computed_again_only_if_it_was_made_from_something_else(case, tmp_path):
    def work(job):
        shape = np.load(job["fixed"]).shape
        np.save(job["result"], np.zeros((*shape, 3), np.float32))

    launcher = FakeLauncher(work)
    first, second = (register_case("convex", case, tmp_path / "x", launcher) for _ in range(2))
    assert (first, launcher.calls) == (second, 1)
    _translation(case.initial_transform, (0.0, 0.0, 1.0))
    register_case("convex", case, tmp_path / "x", launcher)
    assert launcher.calls == 2
    swapped = replace(case, fixed=case.moving, moving=case.fixed)
    register_case("convex", swapped, tmp_path / "x", launcher)
    assert launcher.calls == 3
    register_case("convex", case, tmp_path / "x", launcher)
    register_case("convex", case, tmp_path / "x", other := FakeLauncher(work, threads=2))
    assert other.calls == 1


def test_a_method_that_fails_leaves_nothing_and_does_not_stop_the_others(case, tmp_path, capsys):
    def fail(job):
        raise PeerError("It ran out of memory.")

    folder = tmp_path / "data" / "syn"
    result = peers.run_method("syn", [case], folder, FakeLauncher(fail))
    assert result["cases"] == [{"case": "a", "error": "It ran out of memory."}]
    assert result["summary"]["failed"] == 1
    assert not list(tmp_path.rglob("a.*"))
    assert "It ran out of memory." in capsys.readouterr().err


def _cases_file(case, path):
    path.write_text(
        f"case,fixed,moving,points_frame\nfirst,{case.fixed},{case.moving},\n"
        f"second,{case.moving},{case.fixed},RAS\nthird,{case.fixed},{case.moving},\n"
    )
    return path


def test_the_most_alike_of_the_starts_is_kept_and_named_in_the_cases_file(case, tmp_path):
    # The phantoms show one anatomy in the world, so the best start is no motion.
    def work(job):
        offset = (0.5, 0.0, 0.0) if "initial_transform" in job["settings"] else (9.0, 9.0, 9.0)
        _translation(job["result"], offset)

    path = _cases_file(case, tmp_path / "cases.csv")
    first, second, _ = read_cases(path)
    starts.complete(path, first, FakeLauncher(work))
    again = read_cases(path)
    assert again[0].initial_transform == tmp_path / "transforms" / "cases" / "first.tfm"
    assert again[1] == second
    assert again[2].initial_transform == again[0].initial_transform  # of the same two images
    record = starts.read_record(path)["first"]
    assert record["chosen"] == "headers"
    alike = {name: tried["mutual_information"] for name, tried in record["tried"].items()}
    assert alike["headers"] > alike["affine from headers"] > alike["affine from centres of mass"]
    point = read_initial_transform(again[0].initial_transform).TransformPoint((1.0, 2.0, 3.0))
    assert point == (1.0, 2.0, 3.0)


def test_where_no_affine_can_be_computed_no_start_is_made_up(case, tmp_path):
    def fail(job):
        raise PeerError("No ANTsPy here.")

    path = _cases_file(case, tmp_path / "cases.csv")
    before = path.read_bytes()
    with pytest.raises(PeerError, match=r"^No affine for first: No ANTsPy here\.$"):
        starts.complete(path, read_cases(path)[0], FakeLauncher(fail))
    assert path.read_bytes() == before
    assert not (tmp_path / "transforms").exists()


def test_an_environment_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(environments.sys, "executable", "false")
    with pytest.raises(PeerError, match=r"could not be made .* antspyx==0\.6\.3 .* --methods"):
        make_environment("antspy", tmp_path)


def test_an_environment_that_is_there_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(environments.sys, "executable", "false")
    (tmp_path / "antspy").mkdir()
    wanted = "".join(f"{line}\n" for line in environments.REQUIREMENTS["antspy"])
    (tmp_path / "antspy" / "requirements.txt").write_text(wanted)
    assert make_environment("antspy", tmp_path) == tmp_path / "antspy" / "bin" / "python"
    (tmp_path / "antspy" / "requirements.txt").write_text("antspyx==0.1\n")
    with pytest.raises(PeerError):
        make_environment("antspy", tmp_path)


def _script(path, body, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(environments.__file__).parent))
    path.write_text(f"import os\nimport child\njob = child.read_job()\n{body}\n")
    return str(path)


def test_a_script_is_measured_apart_from_its_parent(tmp_path, monkeypatch):
    body = (
        "_, spent = child.timed(job, lambda: sum(range(1000)))\n"
        "threads = [os.environ['OMP_NUM_THREADS'], len(os.sched_getaffinity(0))]\n"
        "child.write_outcome(job, spent, ['numpy'], threads=threads)"
    )
    script = _script(tmp_path / "work.py", body, monkeypatch)
    held = np.ones(300 * 2**20, np.uint8)
    outcome = Launcher(tmp_path, 1, repeats=3).run(None, script, {})
    assert 1 < outcome["peak_memory_mb"] < 100 < held.size / 1e6
    assert 0 <= outcome["seconds"] < 1
    assert len(outcome["seconds_each"]) == 3
    assert outcome["seconds_each"][0] < outcome["cold_seconds"]  # which starts with the process
    assert 0 <= outcome["cpu_seconds"] < 1
    assert outcome["threads"] == ["1", 1]
    assert outcome["versions"] == {"numpy": np.__version__}


def test_a_script_that_fails_is_one_sentence(tmp_path, monkeypatch):
    script = _script(tmp_path / "work.py", "raise MemoryError('too large')", monkeypatch)
    with pytest.raises(PeerError, match=r"stopped with exit code 1 \(MemoryError: too large\)\.$"):
        Launcher(tmp_path, 1).run(None, script, {})


def test_from_cases_to_report(case, tmp_path, monkeypatch, capsys):
    path, output = tmp_path / "one.csv", tmp_path / "results" / "report.json"
    row = f"a,{case.fixed},{case.moving},start.tfm"
    path.write_text(f"case,fixed,moving,initial_transform\n{row}\n")
    command = ["peers.py", path, "-o", output, "--work", tmp_path, "--methods", "zero,rwcnet"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in [*command, "--threads", "1"]])
    peers.main()
    report = json.loads(output.read_text())
    zero, ours = (report["results"]["one"][name] for name in ("zero", "rwcnet"))
    assert zero["cases"][0]["folded_percent"] == 0
    assert "seconds" not in zero["cases"][0]
    assert ours["cases"][0]["seconds"] > 0
    assert ours["summary"]["measures"]["peak_memory_mb"]["mean"] > 1
    assert report["environment"]["threads"] == 1
    assert "| rwcnet | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.csv"], "absent.csv does not exist"),
        (["absent.csv", "--methods", "zero,demons"], "'demons' is no method"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peers.py", *words, "-o", str(tmp_path / "report.json")])
    with pytest.raises(SystemExit) as stopped:
        peers.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_intervals_and_gaps_in_the_table():
    dice = {"mean": 0.51239, "interval": (0.4, 0.6), "cases": 2}
    time = {"mean": 1.26, "interval": (1.0, 2.0), "cases": 2}
    results = {
        "zero": {"summary": {"cases": 2, "measures": {"dice_after": dice}}},
        "syn": {"summary": {"cases": 1, "measures": {"dice_after": dice, "seconds": time}}},
    }
    assert peers.table(results).splitlines() == [
        "| method | cases | Dice | time, s |",
        "| --- | --- | --- | --- |",
        "| zero | 2 | 0.512 (0.400 to 0.600) |  |",
        "| syn | 1 | 0.512 (0.400 to 0.600) | 1.3 |",
    ]
