"""Bring two images together before they are deformed, and say what was done and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from rwcnet_runtime.alignment import starts
from rwcnet_runtime.alignment.coarse import Coarse, coarse_pairs
from rwcnet_runtime.alignment.linear import Linear, as_affine, optimise, stretches
from rwcnet_runtime.alignment.similarity import overlap, similarity
from rwcnet_runtime.errors import InputError
from rwcnet_runtime.volumes import Volume

INITS = ("auto", "header", "centre", "moments", "rigid", "affine")

# Similarity that must be gained by what replaces the headers, which somebody may have set with
# care, and by what replaces another alignment.
_HEADER_GAIN, _GAIN = 0.1, 0.03
_OVERLAP = 0.5  # of the smaller image, below which headers are not believed
_FOLLOWED = 2  # of the starts, the most alike
_MOST_STRETCH = 1.5  # of an affine that is taken without being asked for

_Pair = tuple[Coarse, Coarse]


# eq=False: a transform is equal to none but itself.
@dataclass(frozen=True, eq=False)
class Alignment:
    """How two images were brought together.

    Attributes
    ----------
    transform : sitk.Transform, optional
        Fixed to moving points, LPS mm; none is the identity: the headers are believed.
    method : str
        What was taken, one of `INITS` but "auto".
    reason : str
        Why, in one line.
    numbers : dict
        For a report: ``asked``, and if that is not "header": ``similarity`` of all that was tried,
        mutual information in nats on voxels that the optimiser did not see; ``overlap``, 0..1, of
        the images without their empty margins, by the headers (``before``) and now (``after``);
        ``rotation_degrees``, ``shift_mm`` of the middle of the fixed image, ``stretch``, the
        smallest and the largest.
    """

    transform: sitk.Transform | None
    method: str
    reason: str
    numbers: dict[str, Any]


def align(fixed: Volume, moving: Volume, init: str = "auto") -> Alignment:
    """Find a linear transform that brings two images together.

    "header" changes nothing and looks at no intensities. "centre" lays the middles of the fields
    of view on each other, "moments" the centres of the foregrounds, turned by their principal axes
    if the images are more alike so. "rigid" and "affine" go on from the best of these, each also
    turned by 20 degrees, and maximise Mattes' mutual information. "auto" begins with the headers if
    at least half of the smaller image then lies in the other one, else with the better of "centre"
    and "moments", and goes on to the better of these, to "rigid" and to "affine", each time only if
    the similarity gains 10 % over the headers, or 3 % over another alignment, on voxels that the
    optimiser did not see.

    The same images give the same transform.

    Parameters
    ----------
    fixed, moving : Volume
        On any grids, of any contrast.
    init : str
        One of `INITS`.

    Raises
    ------
    InputError
        If there is no such `init`, "rigid" or "affine" was asked for and lost the overlap, or, but
        for "header", an image has (almost) one intensity above its background.
    """
    if init not in INITS:
        raise InputError(
            f"There is no initial alignment {init!r}; choose one of {', '.join(INITS)}."
        )
    if init == "header":
        return Alignment(None, init, "asked for", {"asked": init})
    pairs = coarse_pairs(fixed, moving)
    coarse, middle, fine = pairs
    begin = {
        "header": starts.header(coarse[0]),
        "centre": starts.centre(*coarse),
        "moments": max(starts.moments(*coarse), key=lambda start: similarity(*middle, start)),
    }
    found = {name: as_affine(start) for name, start in begin.items()}
    if init in ("auto", "rigid", "affine"):
        found |= _optimised(pairs, list(begin.values()), affine=init != "rigid")
    alike = {name: round(similarity(*fine, x), 4) for name, x in found.items()}
    overlaps = {name: overlap(*fine, x) for name, x in found.items()}
    if init == "auto":
        method, reason = _choose(found, alike, overlaps["header"])
    elif init not in found:
        raise InputError(
            f"{fixed.path} and {moving.path} lost their overlap in the {init} registration; give "
            "--initial-transform, or --init header if they lie where they belong."
        )
    else:
        method, reason = init, "asked for"
    taken = found[method]
    numbers = {
        "asked": init,
        "similarity": alike,
        "overlap": {
            "before": round(overlaps["header"], 3),
            "after": round(overlaps[method], 3),
        },
        **_motion(taken, fixed),
    }
    reason += (
        f": similarity {alike['header']:.3f} -> {alike[method]:.3f}, "
        f"overlap {overlaps['header']:.0%} -> {overlaps[method]:.0%}"
    )
    return Alignment(None if method == "header" else taken, method, reason, numbers)


def _optimised(
    pairs: list[_Pair], begin: list[sitk.Euler3DTransform], *, affine: bool
) -> dict[str, sitk.AffineTransform]:
    """Register rigidly from the best turns of the starts, and go on from the best result."""
    coarse, middle, fine = pairs
    turned = [
        max(starts.turned(start), key=lambda turn: similarity(*coarse, turn)) for start in begin
    ]
    turned.sort(key=lambda turn: similarity(*middle, turn), reverse=True)
    rough = [x for turn in turned[:_FOLLOWED] if (x := optimise(*coarse, turn)) is not None]
    if not rough:
        return {}
    rigid = _refined(max(rough, key=lambda x: similarity(*middle, x)), (middle, fine))
    if rigid is None:
        return {}
    found = {"rigid": as_affine(rigid)}
    if affine and (free := _refined(found["rigid"], (middle, fine))) is not None:
        found["affine"] = free
    return found


def _refined(start: Linear, pairs: tuple[_Pair, ...]) -> Linear | None:
    for pair in pairs:
        found = optimise(*pair, start)
        if found is None:
            return None
        start = found
    return start


def _choose(
    found: dict[str, sitk.AffineTransform], alike: dict[str, float], header_overlap: float
) -> tuple[str, str]:
    """Say what "auto" takes, and why."""
    start = max(("centre", "moments"), key=lambda name: alike[name])
    if header_overlap < _OVERLAP:
        method, reason = start, f"the headers overlap by {header_overlap:.0%} only"
        ladder = ["rigid", "affine"]
    else:
        method, reason = "header", f"the headers overlap ({alike['header']:.3f})"
        ladder = [start, "rigid", "affine"]
    for name in ladder:
        if name not in found:
            reason += f"; {name} lost the overlap"
            continue
        wanted = alike[method] * (1 + (_HEADER_GAIN if method == "header" else _GAIN))
        stretch = stretches(found[name])
        if alike[name] <= wanted:
            reason += f"; {name} ({alike[name]:.3f}) is not clearly better"
        elif max(stretch[0], 1 / stretch[-1]) > _MOST_STRETCH:
            reason += f"; {name} stretches by {stretch[-1]:.2f} to {stretch[0]:.2f}, too much"
        else:
            method, reason = name, f"{reason}; {name} ({alike[name]:.3f}) is better"
    return method, reason


def _motion(transform: sitk.AffineTransform, fixed: Volume) -> dict[str, Any]:
    """Return rotation, shift and stretch of a transform."""
    middle = fixed.grid.world_from_voxel((np.array(fixed.grid.shape) - 1) / 2) * [-1, -1, 1]
    left, stretch, right = np.linalg.svd(np.reshape(transform.GetMatrix(), (3, 3)))
    cosine = (np.trace(left @ right) - 1) / 2
    shift = np.linalg.norm(np.array(transform.TransformPoint(middle.tolist())) - middle)
    return {
        "rotation_degrees": round(float(np.degrees(np.arccos(np.clip(cosine, -1, 1)))), 2),
        "shift_mm": round(float(shift), 2),
        "stretch": [round(float(stretch[-1]), 4), round(float(stretch[0]), 4)],
    }
