"""One export for all tests of the folder: the command itself, preset tiny, random weights."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from rwcnet_export.cases import random_weights
from rwcnet_export.cli import app
from rwcnet_ref.config import TINY
from rwcnet_ref.model import Cascade


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are too small to share; beside other work two threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def export_result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """What the command said, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    arguments = ["--stage", "all", "--preset", "tiny", "--random-weights", "-o", str(folder)]
    return CliRunner().invoke(app, arguments), folder


@pytest.fixture(scope="session")
def exported(export_result: tuple[Result, Path]) -> Path:
    """The bundle; to be left as it is."""
    result, folder = export_result
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def cascade() -> Cascade:
    """What the bundle was made from; to be left as it is."""
    return random_weights(TINY).requires_grad_(False)
