"""Reports in a few lines, for whoever reads them on a terminal."""

from __future__ import annotations

from typing import Any


def describe_plan(report: dict[str, Any]) -> list[str]:
    """Return what was chosen: the part of a report that is known before the work."""
    steps = report["refinement"]
    i, j, k = report["grid"]["shape"]
    spacing = " x ".join(f"{edge:.3g}" for edge in report["grid"]["spacing_mm"])
    return [
        *_chosen(report),
        f"grid                {i} x {j} x {k} voxels of {spacing} mm",
        "refinement          "
        + (f"at most {steps['steps']} steps on {_features(steps)}" if steps else "none"),
    ]


def describe(report: dict[str, Any], *, verbose: bool = False) -> list[str]:
    """Return what was chosen and what was found; `verbose` adds the time of each part."""
    spent = report.get("seconds", {})
    return [
        *_chosen(report),
        _working_grid(report["working_grid"]),
        *_refinement(report),
        *_folds(report),
        *(
            f"{name.replace('_', ' '):19} {values['before']:.3f} -> {values['after']:.3f}"
            for name, values in report["similarity"].items()
        ),
        f"displacement        mean {report['displacement_mm']['mean']:.1f} mm, largest "
        f"{report['displacement_mm']['max']:.1f} mm",
        f"Jacobian            smallest {report['jacobian_determinant']['min']:.2f}, folded "
        f"{report['jacobian_determinant']['folded_percent']:.3f} % of the voxels",
        *_written(report),
        *_verdict(report["verdict"]),
        *([f"time                {sum(spent.values()):.1f} s"] if spent else []),
        *(f"  {part:17} {seconds:.2f} s" for part, seconds in spent.items() if verbose),
    ]


def _chosen(report: dict[str, Any]) -> list[str]:
    return [
        f"bundle {report['bundle']['name']} ({report['bundle']['sha256'][:12]}), engine "
        f"{report['engine']} ({report['arithmetic']}), device {report['device']}, "
        f"{report['threads']} threads",
        f"backend {report['backend']}: {report['backend_chosen']}",
        f"start {report['alignment']['method']}: {report['alignment']['reason']}",
        *(
            [f"anatomy {report['anatomy']}: settings of generic, as no others were found better"]
            if report["anatomy"] != "generic"
            else []
        ),
    ]


def _folds(report: dict[str, Any]) -> list[str]:
    if "folds_removed" not in report:
        return []
    done = report["folds_removed"]
    alike = done["correlation"]
    return [
        f"folds removed       {done['folded_before']} -> {done['folded_after']} voxels in "
        f"{done['rounds']} rounds, {done['changed']} changed by at most "
        f"{done['largest_change_mm']:.2f} mm; correlation {alike['before']:.4f} -> "
        f"{alike['after']:.4f}"
    ]


def _written(report: dict[str, Any]) -> list[str]:
    """Return what came to light when further results were made."""
    lines = []
    if "inverse" in report:
        found = report["inverse"]
        mean = found.get("residual_vox", {}).get("mean")
        lines.append(
            "inverse             "
            + ("" if mean is None else f"residual {mean:.3f} voxels in the mean, ")
            + f"{found['outside_percent']:.1f} % of the moving voxels come from outside"
        )
    if "points" in report:
        found = report["points"]
        lines.append(
            f"points              {found['outside']} outside the fixed image, moved as its border "
            f"is; solved to {found['largest_residual_mm']:.3f} mm"
        )
    if "compact_error" in report:
        found = report["compact_error"]
        lines.append(
            f"compact             off by {found['mean_mm']:.3f} mm in the mean, at most "
            f"{found['max_mm']:.2f} mm"
        )
    return lines


def _verdict(found: dict[str, Any]) -> list[str]:
    return [f"verdict             {found['level']}", *(f"  {why}" for why in found["reasons"])]


def _working_grid(found: dict[str, Any]) -> str:
    voxels, spacing = (" x ".join(f"{n:g}" for n in found[key]) for key in ("shape", "spacing_mm"))
    return f"working grid        {voxels} voxels of {spacing} mm: {found['why']}"


def _refinement(report: dict[str, Any]) -> list[str]:
    losses = report["refinement_losses"]
    if not losses:
        return []
    return [
        f"refinement          {len(losses)} steps on {_features(report['refinement'])}, loss "
        f"{losses[0]:.4f} -> {losses[-1]:.4f}"
    ]


def _features(refinement: dict[str, Any]) -> str:
    return {"both": "MIND-SSC and learned features", "mind": "MIND-SSC"}.get(
        refinement["features"], "learned features"
    )
