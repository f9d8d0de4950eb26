"""Whether a registration can be trusted, from what was measured of it, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TRAINED_VOX = 14.0
"""95 % of the displacements that trained `base` are shorter, in voxels (50 % than 4, 99 % than 19),
as `rwcnet_ref.pairs` draws them for the first stage in ``configs/base.toml``."""


@dataclass(frozen=True)
class Verdict:
    """What to make of a registration.

    Attributes
    ----------
    level
        "ok"; "check": look at it before it is used; "failed": do not use it.
    reasons
        Sentences, each with the number and its limit, the worst first; none for "ok".
    """

    level: str
    reasons: list[str]


@dataclass(frozen=True)
class Limit:
    """What a measure may be.

    Attributes
    ----------
    path
        Of the measure in the findings; ``a.b`` is ``findings["a"]["b"]``.
    says
        What it is, with ``{}`` in the place of the number.
    check, failed
        Beyond these the verdict is so; none: never.
    at_least
        Whether the limits are lower ones.
    """

    path: str
    says: str
    check: float
    failed: float | None = None
    at_least: bool = False

    def broken_by(self, value: float, bound: float | None) -> bool:
        """Say whether a value is beyond one of the limits, as NaN always is."""
        if bound is None:
            return False
        return not (value >= bound if self.at_least else value <= bound)

    def sentence(self, value: float, bound: float | None) -> str:
        """Return what is wrong with a value."""
        side = "least" if self.at_least else "most"
        return f"{self.says.format(value)}, wanted at {side} {bound:g}"


DOUBTFUL = 0.3
"""Squared local correlation under which anything else that is unusual makes a failure."""

UNLIKE = Limit(
    "similarity.local_correlation.after",
    "the images are hardly alike in detail, squared local correlation {:.2f}",
    check=0.4,
    failed=0.1,
    at_least=True,
)
LIMITS = (
    UNLIKE,
    Limit(
        "similarity.correlation.before",
        "the two images are one and the same, correlation {:.5f} before registration",
        check=0.9999,
    ),
    Limit(
        "overlap.in_view_percent",
        "part of the fixed image lies outside the moving one, {:.1f} % of its foreground inside",
        check=80,
        failed=20,
        at_least=True,
    ),
    Limit(
        "flow_vox.p99",
        "displacements are longer than those of the training, 1 % of over {:.1f} voxels",
        check=TRAINED_VOX,
    ),
    Limit(
        "jacobian_determinant.p1",
        "space is squeezed, 1 % of it to under {:.2f} of its volume",
        check=0.15,
        at_least=True,
    ),
    Limit(
        "jacobian_determinant.p99",
        "space is stretched, 1 % of it to over {:.2f} times its volume",
        check=2.5,
    ),
    Limit(
        "jacobian_determinant.folded_percent",
        "space folds, in {:.3f} % of the voxels",
        check=0.2,
        failed=2.0,
    ),
)
"""What `judge` holds to; ``runtime/benchmarks/verdicts.py`` shows what comes of it."""

MOST_LOST = 0.05
"""Squared local correlation that a registration may cost."""
NOT_JUDGED = Verdict(
    "check", ["not judged: the limits are for images that a bundle scales by percentiles"]
)
"""Of bundles with an intensity range of their own."""


def judge(findings: dict[str, Any]) -> Verdict:
    """Judge a registration by what was measured of it.

    Beyond a limit for "check" it may still be right: contrasts differ, or tissue is squeezed
    indeed. Where the images are less alike than `DOUBTFUL`, and something else is unusual too, it
    has failed.

    Parameters
    ----------
    findings
        As `findings.findings` returns, or a whole report; what is missing is not judged.
    """
    failed, check = [], []
    before, after = (
        look_up(findings, f"similarity.local_correlation.{when}") for when in ("before", "after")
    )
    if before is not None and after is not None and before - after > MOST_LOST:
        check.append(
            f"the images are less alike in detail than before, squared local correlation "
            f"{before:.2f} -> {after:.2f}"
        )
    for limit in LIMITS:
        value = look_up(findings, limit.path)
        if value is None:
            continue
        if limit.broken_by(value, limit.failed):
            failed.append(limit.sentence(value, limit.failed))
        elif limit.broken_by(value, limit.check):
            check.append(limit.sentence(value, limit.check))
    alike = look_up(findings, UNLIKE.path)
    doubtful = alike is not None and alike < DOUBTFUL and len(check) > 1
    level = "failed" if failed or doubtful else "check" if check else "ok"
    return Verdict(level, failed + check)


def look_up(report: dict[str, Any], path: str) -> Any:
    """Return ``report["a"]["b"]`` for ``a.b``, None where it is not there."""
    found: Any = report
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
