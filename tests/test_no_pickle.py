"""No file that the packages read can run code: nothing is unpickled."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for package in ("rwcnet_ref", "export", "runtime", "calibration")
    for path in (ROOT / package).rglob("*.py")
]
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def _faults(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in UNPICKLING)
        elif isinstance(node, ast.ImportFrom) and node.module in UNPICKLING:
            yield node.module
        elif isinstance(node, ast.Call):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get("allow_pickle", "False") != "False":
                yield "allow_pickle"
            if ast.unparse(node.func) == "torch.load" and given.get("weights_only") != "True":
                yield "torch.load without weights_only=True"


def test_nothing_is_unpickled():
    assert len(FILES) > 100
    found = {
        path: faults
        for path in FILES
        if (faults := list(_faults(path.read_text(encoding="utf-8"))))
    }
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "np.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
    ],
)
def test_what_would_be_found(source):
    assert list(_faults(source))
