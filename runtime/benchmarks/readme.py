"""Write the figures of the newest accuracy report into the README, between its two markers.

python runtime/benchmarks/readme.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent.parent / "README.md"


def table(report: dict[str, Any], source: str) -> str:
    """Return the README's table and where it comes from."""
    results, threads = report["results"], report["environment"]["threads"]
    brain = results["brain_templates"]["mean"]
    hippocampus = results["hippocampus_mr"]
    labels = hippocampus["mean"]
    rows = [
        ("what", "measure", "before", "after", "folded voxels", "time"),
        ("---",) * 6,
        *(
            (
                f"ICBM152, known deformation, {what}",
                "error to the truth inside the head",
                f"{results[name]['error_mm_before']:.2f} mm",
                f"{results[name]['error_mm_after']:.2f} mm",
                f"{results[name]['folded_percent']:.3f} %",
                f"{results[name]['seconds']:.0f} s",
            )
            for name, what in (
                ("demo", "contrast changed (the demo)"),
                ("demo_inverted", "contrast inverted"),
            )
        ),
        (
            "Colin27 to MNI ICBM152 2009c",
            f"mean distance of {brain['landmarks']:.0f} anatomical landmarks (AFIDs)",
            f"{brain['tre_mm_before']:.2f} mm",
            f"{brain['tre_mm_after']:.2f} mm",
            f"{brain['folded_percent']:.3f} %",
            f"{brain['seconds']:.0f} s",
        ),
        (
            f"hippocampus MR crops, {hippocampus['pairs']} pairs of two people",
            "mean Dice of both labels",
            f"{labels['dice_before']:.3f}",
            f"{labels['dice_after']:.3f}",
            f"{labels['folded_percent']:.3f} %",
            f"{labels['seconds']:.1f} s",
        ),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    note = (
        f"Bundle `{report['environment']['bundle']['name']}`, fp32, ONNX Runtime on {threads} CPU "
        f"cores, {report['date']}; a time is of one registration from reading to verdict, without "
        f"writing. From [{source}](runtime/benchmarks/results/{source}), made by "
        "`runtime/benchmarks/accuracy.py`."
    )
    return "\n".join([*lines, "", note])


def main() -> None:
    """Replace what stands between the markers."""
    source = max(RESULTS.glob("*-accuracy.json"))
    block = table(json.loads(source.read_text()), source.name)
    text, count = re.subn(
        "(<!-- accuracy -->\n).*?(\n<!-- /accuracy -->)",
        lambda found: found[1] + block + found[2],
        README.read_text(),
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{README} has {count} places for the table, one is wanted")
    README.write_text(text)


if __name__ == "__main__":
    main()
