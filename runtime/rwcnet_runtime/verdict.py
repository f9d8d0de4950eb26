"""Whether a registration can be trusted, from what was measured of it, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TRAINED_VOX = 19.0
"""99 % of the displacements that trained `base` are shorter, in voxels: `SyntheticSource` draws
them with the amplitude of 14 voxels that the first stage in ``configs/base.toml`` has."""


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
        Beyond these; none: never.
    at_least
        Whether good registrations lie above, or below.
    """

    path: str
    says: str
    check: float | None
    failed: float | None
    at_least: bool = True


LIMITS: tuple[Limit, ...] = (
    Limit(
        "similarity.local_correlation.after",
        "the images are {:.2f} alike in detail (squared local correlation)",
        0.3,
        0.2,
    ),
)
"""Held to by `judge`; where they come from is in runtime/README.md."""


def judge(findings: dict[str, Any]) -> Verdict:
    """Judge a registration by what was measured of it.

    Parameters
    ----------
    findings
        As `findings.findings` returns, or a whole report; what is missing is not judged.
    """
    failed, check = [], []
    for limit in LIMITS:
        value = _look_up(findings, limit.path)
        if value is None:
            continue
        if _breaks(limit, value, limit.failed):
            failed.append(_sentence(limit, value, limit.failed))
        elif _breaks(limit, value, limit.check):
            check.append(_sentence(limit, value, limit.check))
    return Verdict("failed" if failed else "check" if check else "ok", failed + check)


def _breaks(limit: Limit, value: float, bound: float | None) -> bool:
    if bound is None:
        return False
    # Written so that NaN keeps no limit.
    return not (value >= bound if limit.at_least else value <= bound)


def _sentence(limit: Limit, value: float, bound: float | None) -> str:
    side = "under" if limit.at_least else "over"
    return f"{limit.says.format(value)}, {side} the limit of {bound:g}"


def _look_up(findings: dict[str, Any], path: str) -> float | None:
    found: Any = findings
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return None if found is None else float(found)
