"""Versions of what is installed, for reports."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib import metadata

_ALWAYS = ("rwcnet", "numpy", "nibabel", "SimpleITK")


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, None where there is none of that name."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions(programs: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, of what results always depend on, and of some more.

    Parameters
    ----------
    programs
        Distributions; those that are not installed are left out.
    """
    found = {name: version_of(name) for name in (*_ALWAYS, *programs)}
    return {"python": platform.python_version()} | {n: v for n, v in found.items() if v}
