"""What a bundle holds, what of it runs here, and which engines of it are in the cache."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rwcnet_runtime.backends.choose import BACKENDS
from rwcnet_runtime.bundle import Bundle
from rwcnet_runtime.devices import Gpu, gpus
from rwcnet_runtime.engines.build import parse
from rwcnet_runtime.engines.cache import Plan, PlanCache, default_folder
from rwcnet_runtime.engines.products import PRODUCTS
from rwcnet_runtime.engines.stages import describe, misfit
from rwcnet_runtime.errors import BackendError, RwcnetError
from rwcnet_runtime.operators import Operators, read_operators


def contents(bundle: Bundle) -> Iterator[str]:
    """Yield what the manifest says; an opened bundle has been checked."""
    manifest = bundle.manifest
    yield f"{bundle.folder}"
    yield f"{manifest.name}, schema {manifest.schema_version}, sha256 {bundle.sha256}"
    yield f"{len(manifest.files)} files, every sha256 as the manifest says"
    yield f"{len(manifest.stages)} stages in {', '.join(bundle.engines)}"
    yield f"weights: {manifest.weights.get('licence', 'licence not stated')}"


def precisions(bundle: Bundle) -> Iterator[str]:
    """Yield a line a backend and precision: whether it takes all stages here, and if not why."""
    for kind in BACKENDS:
        reason = kind.missing()
        if reason is not None:
            yield f"{kind.name} does not run here: {reason}"
            continue
        # What the bundle holds, and what the backend makes of it.
        for engine in dict.fromkeys((*bundle.engines, *kind.engines(bundle))):
            try:
                backend = kind()
                for n in range(len(bundle.manifest.stages)):
                    backend.stage(bundle, n, engine)
            except RwcnetError as error:
                yield f"{engine} does not run with {kind.name}: {error}"
            else:
                yield f"{engine} runs with {kind.name}: {kind.arithmetic[engine]}"


def fallbacks(bundle: Bundle) -> Iterator[str]:
    """Yield a line a stage and backend: what a backend does not take as it is."""
    builders = [product for product in PRODUCTS if product.version is not None]
    for name in _graphs(bundle):
        path = bundle.graph_path(name)
        try:
            yield f"{name}: {_written_out(read_operators(path))}"
            for product in builders:
                refused = "; ".join(parse(product, path)["refused"])
                takes = f"refuses {refused}" if refused else "takes every node"
                yield f"{name}: {product.title} {takes}"
        except RwcnetError as error:
            yield f"{name}: {error}"


def _written_out(found: Operators) -> str:
    """Say which nodes are no operators of ONNX, and run as what the file says they are."""
    ours = {call: count for call, count in found.calls.items() if "::" in call}
    lacking = sorted(ours.keys() - found.functions)
    if lacking:
        return f"nothing runs {', '.join(lacking)}, which the file does not define"
    bodies = ", ".join(f"{call} ({count})" for call, count in sorted(ours.items()))
    return f"{found.calls.total()} nodes, of which run as function bodies: {bodies or 'none'}"


def plans(bundle: Bundle) -> Iterator[str]:
    """Yield a line a cached engine of the bundle, and one for those of other bundles.

    Raises
    ------
    InputError
        If the cache is not the user's alone.
    """
    folder = default_folder()
    if not folder.is_dir():
        yield f"no engine has been cached in {folder}"
        return
    graphs = {bundle.manifest.files[name]: name for name in _graphs(bundle)}
    gpu = next(iter(gpus()), None)
    others = size = 0
    for plan in PlanCache(folder).plans():
        stat = plan.path.stat()
        name = graphs.get(plan.facts["onnx"])
        if name is None:
            others, size = others + 1, size + stat.st_size
        else:
            try:
                plan.read()
            except BackendError as error:
                yield f"{name}: {error}"
                continue
            age = _age(time.time() - stat.st_mtime)
            yield f"{name}: {describe(plan)}; {age} old; {_fit(plan, gpu)}"
    yield f"{others} engines of other bundles, {size / 2**20:.1f} MiB, in {folder}"


def _fit(plan: Plan, gpu: Gpu | None) -> str:
    """Say whether a plan is for this machine."""
    other = misfit(plan, gpu)
    if other:
        return f"not for this machine: {other}"
    return "fits this machine" if gpu else "there is no GPU here to run it on"


def _graphs(bundle: Bundle) -> list[str]:
    stages = sorted(name for name in bundle.manifest.files if "/stage" in name)
    return [*stages, *(name for name in bundle.chain if name in bundle.manifest.files)]


def _age(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
