"""What a pass says of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What one pass found in a graph, and did to it.

    Attributes
    ----------
    name
        The pass.
    fired
        Places it changed: nodes it removed, or pairs of nodes it rewrote.
    found, among
        How many of how many it looked at are what it looks for.
    wanted
        What that is, in words that complete "`found` of `among`".
    """

    name: str
    fired: int
    found: int
    among: int
    wanted: str

    def __str__(self) -> str:
        """Return one line for a report."""
        return f"{self.name}: {self.fired} ({self.found} of {self.among} {self.wanted})"


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """Return what one pass found in several graphs together."""
    fired, found, among = (
        sum(counts)
        for counts in zip(*((each.fired, each.found, each.among) for each in outcomes), strict=True)
    )
    return Outcome(outcomes[0].name, fired, found, among, outcomes[0].wanted)
