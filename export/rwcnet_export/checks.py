"""All that is compared with torch before a bundle is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from torch import Tensor

from rwcnet_export.bundle import stage_file
from rwcnet_export.cases import Case, read_pair, whole_pair
from rwcnet_export.gate import FlowDifference, compare_engines
from rwcnet_export.parity import Comparison, compare_stage
from rwcnet_export.precision import Count, count
from rwcnet_export.truth import Truth
from rwcnet_ref.model import Cascade
from rwcnet_runtime import evaluation
from rwcnet_runtime.backends.interface import Array

Range = tuple[float, float] | None
Accuracy = Callable[[Array], dict[str, float]]


@dataclass(frozen=True)
class Pairs:
    """Real images that an export is compared on.

    Attributes
    ----------
    images
        What `read_pair` returns; their middle is compared.
    cases
        As `rwcnet_runtime.evaluation.read_cases` returns them; each is compared whole.
    """

    images: tuple[Tensor, Tensor] | None = None
    cases: Sequence[evaluation.Case] = ()


@dataclass(frozen=True)
class Findings:
    """What the comparisons found.

    Attributes
    ----------
    stages
        Each fp32 stage by itself.
    nodes
        For each low precision, by the index of a stage, how many of its nodes are low.
    chains
        The whole chain in each precision.
    """

    stages: list[Comparison] = field(default_factory=list)
    nodes: dict[str, dict[int, Count]] = field(default_factory=dict)
    chains: list[FlowDifference] = field(default_factory=list)


def compare(
    cascade: Cascade,
    folder: Path,
    stages: Sequence[int],
    engines: Sequence[str],
    pairs: Pairs,
    intensity_range: Range,
    progress: Callable[[str], None],
) -> Findings:
    """Compare what `write_bundle` wrote with torch.

    Parameters
    ----------
    cascade
        What was exported, in evaluation mode.
    folder
        The bundle.
    stages
        Which ones were exported, 0 is the coarsest; torch runs the others.
    engines
        Precisions beside fp32.
    pairs
        Real images. The chain is compared on procedural shapes where there are none, and only if
        there are precisions beside fp32.
    intensity_range
        What becomes 0 and 1 in the images of cases, as `normalise` takes it.
    progress
        Called with a few words before each part of the work.

    Raises
    ------
    ParityError
        If a stage in fp32 is not what it is in torch. Precisions are measured, not judged.
    InputError
        If a file of a case cannot be used.
    """
    found = Findings()
    for n in stages:
        progress(f"comparing stage {n + 1} with torch")
        found.stages.extend(compare_stage(cascade, n, stage_file(folder, n), pairs.images))
    graphs = {
        engine: {n: onnx.load(stage_file(folder, n, engine)) for n in stages}
        for engine in ("fp32", *engines)
    }
    for engine in engines:
        found.nodes[engine] = {n: count(model) for n, model in graphs[engine].items()}
    if engines or pairs.cases:
        for pair, accuracy in _whole(cascade, pairs, intensity_range):
            progress(f"comparing {', '.join(graphs)} with torch on {pair.name}")
            found.chains.extend(compare_engines(cascade, graphs, pair, accuracy))
    return found


def _whole(
    cascade: Cascade, pairs: Pairs, intensity_range: Range
) -> Iterator[tuple[Case, Accuracy]]:
    multiple = cascade.config.multiple
    for case in pairs.cases:
        images = read_pair(
            case.fixed, case.moving, multiple, intensity_range, case.initial_transform
        )
        yield Case(case.name, *images, None), Truth(case, multiple).accuracy
    if pairs.images is not None or not pairs.cases:
        yield whole_pair(cascade, pairs.images), lambda flow: {}
