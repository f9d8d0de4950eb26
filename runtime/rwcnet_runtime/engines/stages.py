"""The engines of a bundle's stages: taken from the cache, or built into it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.devices import Gpu, gpus
from rwcnet_runtime.engines.build import build
from rwcnet_runtime.engines.cache import SCHEMA_VERSION, Plan, PlanCache, key
from rwcnet_runtime.engines.products import PRODUCTS, Product
from rwcnet_runtime.engines.profile import (
    Profile,
    Shape,
    chain_profile,
    covers,
    stage_profile,
)
from rwcnet_runtime.errors import BackendError
from rwcnet_runtime.kernels.local_correlation import source

Say = Callable[[str], None]


def compile_stages(
    bundle: Bundle,
    product: Product,
    shapes: Sequence[Shape],
    stages: Iterable[int],
    say: Say = lambda line: None,
) -> list[Plan]:
    """Build the engines of stages in every precision of the bundle that are not cached yet.

    Parameters
    ----------
    bundle
        Holds the graphs.
    product
        What to build with.
    shapes
        Image sizes the engines are to accept, see `stage_profile`.
    stages
        Which ones; 0 is the coarsest.
    say
        Called with one line an engine, and before a damaged one is built again.

    Raises
    ------
    BackendError
        At the first engine that is not built; those before it stay in the cache.
    InputError
        If the cache cannot be used.
    """
    plans = []
    for n in stages:
        profile = stage_profile(bundle.manifest.stages[n], shapes)
        for precision in bundle.engines:
            name = f"{precision}/stage{n + 1}.onnx"
            if name in bundle.manifest.files:
                plans.append(compile_graph(bundle, product, name, precision, profile, say))
    return plans


def compile_chain(
    bundle: Bundle, product: Product, shapes: Sequence[Shape], say: Say = lambda line: None
) -> list[Plan]:
    """Build the engines of the graphs between stages; as `compile_stages`."""
    return [
        compile_graph(
            bundle, product, name, "fp32", chain_profile(bundle.manifest, name, shapes), say
        )
        for name in bundle.chain
    ]


def compile_graph(
    bundle: Bundle,
    product: Product,
    name: str,
    precision: str,
    profile: Profile,
    say: Say = lambda line: None,
) -> Plan:
    """Build the engine of one graph where it is not cached; as `compile_stages`."""
    gpu = next(iter(gpus()), None)
    facts = _facts(product, gpu, bundle.manifest.files[name], precision, profile)
    return _found_or_built(
        PlanCache(), product, bundle, name, facts, gpu, lambda text: say(f"{name}: {text}")
    )


def fitting_plan(
    bundle: Bundle, product: Product, name: str, precision: str, needed: Profile
) -> Plan | None:
    """Return an engine in the cache that takes what is needed; the one tuned for it, if any is.

    Parameters
    ----------
    bundle, product, name, precision
        What it is of.
    needed
        From `stage_profile` or `chain_profile` of one image size.
    """
    gpu = next(iter(gpus()), None)
    wanted = _facts(product, gpu, bundle.manifest.files[name], precision, needed)
    fitting = [
        plan
        for plan in PlanCache().plans()
        if plan.facts | {"profile": None} == wanted | {"profile": None}
        and covers(plan.facts["profile"], needed)
    ]
    usual = {name: list(sizes[1]) for name, sizes in needed.items()}

    def tuned(plan: Plan) -> bool:
        return {name: list(sizes[1]) for name, sizes in plan.facts["profile"].items()} == usual

    return next(iter(sorted(fitting, key=tuned, reverse=True)), None)


def _facts(
    product: Product, gpu: Gpu | None, onnx_sha256: str, precision: str, profile: Profile
) -> dict[str, Any]:
    """Return all that a plan depends on; the graph's hash covers the bodies of its operators."""
    # The kernel has no bf16.
    plugin = product.plugin and precision != "bf16"
    return _machine(product, gpu) | {
        "schema": SCHEMA_VERSION,
        "onnx": onnx_sha256,
        "precision": precision,
        "product": product.name,
        "profile": {name: [list(size) for size in sizes] for name, sizes in profile.items()},
        "flags": ["strongly typed", "no TF32"],
        "plugin": sha256(source().encode()).hexdigest() if plugin else "none",
    }


def _machine(product: Product, gpu: Gpu | None) -> dict[str, str | None]:
    """Return the part of the facts that is about where a plan is built."""
    return {
        "version": product.version,
        "gpu": gpu.name if gpu else "none",
        "sm": gpu.sm if gpu else "none",
        "driver": gpu.driver if gpu else "none",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _found_or_built(
    cache: PlanCache,
    product: Product,
    bundle: Bundle,
    name: str,
    facts: dict[str, Any],
    gpu: Gpu | None,
    tell: Say,
) -> Plan:
    # First without waiting: an engine that is there needs nobody's build to end.
    with suppress(BackendError):
        if (plan := _found(cache, facts, tell)) is not None:
            return plan
    with cache.building(tell) as folder:
        try:
            if (plan := _found(cache, facts, tell)) is not None:  # built meanwhile
                return plan
        except BackendError:
            tell("the engine in the cache is damaged and is built again")
        built = folder / "engine.plan"
        timing = None
        if product.timing_cache:
            # Measured times hold for one version on one GPU, whatever the graph.
            where = key({name: facts[name] for name in ("product", "version", "gpu", "driver")})
            timing = cache.folder / f"{where}.timing", folder / "timing"
        start = time.perf_counter()
        summary = build(
            product,
            bundle.graph_path(name),
            built,
            facts["profile"],
            gpu=gpu is not None,
            plugin=facts["plugin"] != "none",
            timing_cache=timing,
        )
        seconds = time.perf_counter() - start
        if timing is not None:
            timing[1].replace(timing[0])
        plan = cache.keep(facts, built, summary)
        tell(f"engine built in {seconds:.1f} s (not run), {describe(plan)}")
        return plan


def _found(cache: PlanCache, facts: dict[str, Any], tell: Say) -> Plan | None:
    plan = cache.find(facts)
    if plan is not None:
        tell(f"engine found in the cache, {describe(plan)}")
    return plan


def describe(plan: Plan) -> str:
    """Return what a plan is, in one line."""
    facts, summary = plan.facts, plan.summary
    gpu = "without a GPU" if facts["gpu"] == "none" else f"for GPU {facts['gpu']}"
    sizes = next(iter(facts["profile"].values()))  # of the image, or of a flow
    grids = " to ".join("x".join(map(str, size[1:])) for size in sizes[::2])
    floating = {name: summary[f"{name}_layers"] for name in ("fp32", "fp16", "bf16")}
    plugins = summary["plugin_layers"]
    return (
        f"{facts['product']} {facts['version']} {gpu}, "
        f"{plan.path.stat().st_size / 2**20:.1f} MiB, grids {grids}; {summary['of']} of "
        f"{summary['layers']} layers, of them {sum(floating.values())} floating point: "
        f"{', '.join(f'{count} in {name}' for name, count in floating.items())}; "
        f"{f'{plugins} of the plugin' if plugins else 'no plugin: function bodies'}"
    )


def misfit(plan: Plan, gpu: Gpu | None) -> str:
    """Return in what a plan is for another machine than this one, or by another version.

    Parameters
    ----------
    plan
        Any engine of the cache.
    gpu
        The one here.

    Returns
    -------
    str
        Empty where `compile_stages` would take the plan, as far as machine and version go.
    """
    (product,) = (product for product in PRODUCTS if product.name == plan.facts["product"])
    differing = (
        f"{name} {plan.facts[name]} (here {value or 'none'})"
        for name, value in _machine(product, gpu).items()
        if value != plan.facts[name]
    )
    return ", ".join(differing)
