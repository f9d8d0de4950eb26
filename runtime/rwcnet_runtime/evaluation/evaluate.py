"""Measure a bundle, or the displacement fields of another program, on cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rwcnet_runtime.errors import InputError, RwcnetError
from rwcnet_runtime.evaluation.cases import Case
from rwcnet_runtime.evaluation.fields import CONVENTIONS, find_field, read_costs, read_field
from rwcnet_runtime.evaluation.measures import Labels, Row, any_label, measure
from rwcnet_runtime.volumes import read_volume

if TYPE_CHECKING:  # which measures what it finds with this package's own measures
    from rwcnet_runtime.registrar import Registrar

Notice = Callable[[int, Row], None]
"""Called with the number of cases done and the last row."""

_PEAK = re.compile(r"VmHWM:\s*(\d+) kB")


def evaluate_bundle(
    cases: Iterable[Case],
    registrar: Registrar,
    *,
    labels: Labels = any_label,
    notice: Notice = lambda done, row: None,
) -> list[Row]:
    """Register each case with a bundle and measure what comes out.

    Parameters
    ----------
    cases : iterable of Case
        As `read_cases` gives them.
    registrar : Registrar
        A bundle, opened.
    labels : callable
        Told a label, says whether it is measured; all that a pair holds are by default.
    notice : callable
        Told after each case how many are done, and the case's row.

    Returns
    -------
    list of dict
        One row a case, in their order: ``case``, its name, and all that `measure` gives.
        ``seconds`` is what `register` took, from reading the files to the verdict;
        ``peak_memory_mb`` (10^6 bytes) is the most memory this process held during it, interpreter
        and libraries included (Linux; elsewhere it is missing). A case that cannot be registered or
        measured has ``case`` and ``error``, one sentence.
    """

    def run(case: Case) -> Row:
        with _peak_memory() as costs:
            found = registrar.register(
                case.fixed, case.moving, initial_transform=case.initial_transform
            )
        costs["seconds"] = sum(found.report["seconds"].values())
        return costs | measure(
            case, found.fixed, found.moving, found.displacement_mm, labels=labels
        )

    return _each(cases, run, notice)


def evaluate_fields(
    cases: Iterable[Case],
    folder: str | Path,
    convention: str = "itk",
    *,
    labels: Labels = any_label,
    notice: Notice = lambda done, row: None,
) -> list[Row]:
    """Measure displacement fields that another program wrote.

    Parameters
    ----------
    cases : iterable of Case
        As `read_cases` gives them.
    folder : str or Path
        Holds a field for each case, from the fixed image all the way to the moving one, initial
        transform included; see `find_field` for names. ``<case>.json`` beside it may give
        ``seconds``, ``cpu_seconds`` and ``peak_memory_mb`` (10^6 bytes).
    convention : str
        "itk" or "learn2reg", see `read_field`: the first has vectors in LPS mm, the second steps
        in voxels of the images' files.
    labels : callable
        Told a label, says whether it is measured; all that a pair holds are by default.
    notice : callable
        Told after each case how many are done, and the case's row.

    Returns
    -------
    list of dict
        One row a case, in their order: ``case``, its name, all that `measure` gives, and what the
        field cost, as far as it is known. A case without a usable field, or that cannot be
        measured, has ``case`` and ``error``, one sentence.

    Raises
    ------
    InputError
        Before the first case, if there is no such folder or convention.
    """
    folder = Path(folder)
    if convention not in CONVENTIONS:
        raise InputError(f"{convention!r} is no convention; choose {' or '.join(CONVENTIONS)}.")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the one with the displacement fields.")

    def run(case: Case) -> Row:
        path = find_field(case, folder, convention)
        fixed, moving = read_volume(case.fixed), read_volume(case.moving)
        displacement_mm = read_field(path, convention, fixed, moving)
        costs = read_costs(folder / f"{case.name}.json")
        return costs | measure(case, fixed, moving, displacement_mm, labels=labels)

    return _each(cases, run, notice)


def _each(cases: Iterable[Case], run: Callable[[Case], Row], notice: Notice) -> list[Row]:
    rows = []
    for case in cases:
        try:
            row = {"case": case.name} | run(case)
        except RwcnetError as error:
            row = {"case": case.name, "error": str(error)}
        rows.append(row)
        notice(len(rows), row)
    return rows


@contextmanager
def _peak_memory() -> Iterator[Row]:
    """Give a row that gets the most memory this process holds inside the block (Linux).

    The kernel's high-water mark is started anew first; where it cannot be, there is no figure.
    """
    row: Row = {}
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        yield row
        return
    yield row
    if found := _PEAK.search(Path("/proc/self/status").read_text()):
        row["peak_memory_mb"] = int(found[1]) * 1024 / 1e6
