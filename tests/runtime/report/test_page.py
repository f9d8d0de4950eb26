import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.geometry import ImageGrid
from rwcnet_runtime.mapping import Mapping
from rwcnet_runtime.report import write_report

MEGABYTE = 1e6


class Page(HTMLParser):
    """Collects tags, what they refer to, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.text, self.policy = [], [], "", None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.references += [
            found[name] for name in ("src", "href", "data", "action") if name in found
        ]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def text(registration, tmp_path):
    write_report(registration, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_it_refers_to_nothing_outside(text):
    page = Page(text)
    assert "script" not in page.tags
    assert not page.references
    assert all(found.startswith("data:") for found in re.findall(r"url\(([^)]*)\)", text))
    assert "default-src 'none'" in page.policy


def test_names_are_text_and_no_part_of_the_page(registration, text):
    page = Page(text)
    assert registration.fixed.path.name in page.text
    assert "base <b>" in page.text
    assert "b" in page.tags  # marks of orientation
    assert "<b>" not in text


def test_it_shows_every_picture_and_the_numbers(registration, text):
    page = Page(text)
    for image in ("fixed", "before", "after", "difference-before", "difference-after", "jacobian"):
        for plane in ("axial", "coronal", "sagittal"):
            assert text.count(f".{image}-{plane}{{") == 1
            assert re.search(rf'class="layer [a-z ]*{image}-{plane}"', text)
    assert page.tags.count("svg") == 3
    similarity = registration.report["similarity"]["correlation"]
    assert f"{similarity['after']:.3f}" in page.text
    assert "1.75 s" in page.text  # all times


def test_the_verdict_of_the_report_is_on_top(registration, tmp_path):
    registration.report["verdict"] = {"level": "failed", "reasons": ["nothing <i>fits</i>"]}
    write_report(registration, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.text.index("failed") < page.text.index("nothing <i>fits</i>")
    assert page.text.index("nothing <i>fits</i>") < page.text.index("Checkerboard")


def test_it_is_small_even_where_nothing_can_be_packed(registration, tmp_path):
    random = np.random.default_rng(0)
    volumes = [random.random((320, 320, 2), np.float32) for _ in range(2)]
    grid = ImageGrid((320, 320, 2), np.eye(4))
    fixed, moving = (
        replace(registration.fixed, data=data, grid=grid, stored_grid=grid) for data in volumes
    )
    noisy = replace(
        registration,
        fixed=fixed,
        moving=moving,
        mapping=Mapping(grid, grid),
        warped=volumes[1],
        displacement_mm=random.random((*grid.shape, 3), np.float32),
    )
    write_report(noisy, tmp_path / "report.html")
    # One of the three planes is as large as it can be.
    assert (tmp_path / "report.html").stat().st_size < 1 * MEGABYTE


@pytest.fixture
def browse(tmp_path):
    """Open a file in Chromium without a network: its page, a picture of it, what it asked for."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs Chromium, to open the report in")

    def run(path, name):
        folder = tmp_path / name
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        flags += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}"]
        flags += ["--window-size=1280,3200", "--hide-scrollbars"]
        log, picture = folder / "net.json", folder / "picture.png"
        folder.mkdir()
        command = [program, *flags, f"--log-net-log={log}"]
        address = path.as_uri()
        ask = {"capture_output": True, "encoding": "utf-8", "timeout": 60, "check": True}
        dom = subprocess.run([*command, "--dump-dom", address], **ask).stdout
        net = json.loads(log.read_text(encoding="utf-8"))
        start = net["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
        # Those of the browser itself have another origin, and cannot be resolved.
        asked = [
            event["params"]["url"]
            for event in net["events"]
            if event["type"] == start and event.get("params", {}).get("initiator") == "null"
        ]
        subprocess.run([*command, f"--screenshot={picture}", address], **ask)
        return dom, sitk.GetArrayFromImage(sitk.ReadImage(str(picture))), asked

    return run


def test_a_browser_shows_it_and_asks_for_nothing(registration, tmp_path, browse):
    path = tmp_path / "report.html"
    write_report(registration, path)
    dom, picture, asked = browse(path, "report")
    page = Page(dom)
    assert registration.fixed.path.name in page.text
    assert asked == []
    # Pictures are black to white on a page that is nearly white, and differences have colours.
    grey = (np.ptp(picture[..., :3].astype(int), axis=-1) < 3).mean()
    assert 0.5 < grey < 0.99
    assert (picture[..., :3].max(axis=-1) < 60).mean() > 0.02
    # The same browser on a page that does ask: the test would see it.
    asking = tmp_path / "asking.html"
    asking.write_text('<img src="http://example.invalid/picture.png">')
    assert browse(asking, "asking")[2] == ["http://example.invalid/picture.png"]
