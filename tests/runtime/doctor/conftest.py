"""A bundle of several precisions without an exporter."""

import shutil
from dataclasses import replace

import pytest

from rwcnet_runtime.bundle import MANIFEST, Bundle, sha256


@pytest.fixture
def with_precisions(tmp_path):
    """The shipped bundle, its stages once more under other names, changed or damaged."""

    def make(*good, damaged=(), change=bytes):
        folder = shutil.copytree(Bundle.open().folder, tmp_path / "bundle")
        manifest = Bundle.open(folder).manifest
        files = dict(manifest.files)
        for precision in (*good, *damaged):
            shutil.copytree(folder / "fp32", folder / precision)
            for path in (folder / precision).iterdir():
                path.write_bytes(b"no graph" if precision in damaged else change(path.read_bytes()))
                files[f"{precision}/{path.name}"] = sha256(path)
        (folder / MANIFEST).write_text(replace(manifest, files=files).to_json())
        return folder

    return make
