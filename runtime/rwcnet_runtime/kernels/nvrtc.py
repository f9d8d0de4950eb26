"""CUDA C++ to PTX or machine code by NVRTC: neither a GPU nor a CUDA toolkit is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwcnet_runtime.errors import BackendError


def compile_cuda(name: str, source: str, macros: Mapping[str, int], architecture: str) -> bytes:
    """Compile CUDA C++.

    Parameters
    ----------
    name
        What messages call the source.
    source
        A translation unit without includes.
    macros
        What the source wants defined.
    architecture
        "compute_80" gives PTX, which drivers compile for any GPU of compute capability 8.0 or
        later; "sm_80" gives machine code for that capability alone.

    Returns
    -------
    bytes
        PTX (text, its closing zero byte included) or machine code (a CUBIN).

    Raises
    ------
    BackendError
        If NVRTC is not installed, does not know the architecture or refuses the source.
    """
    try:
        from cuda.bindings import nvrtc

        (_, *version) = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:  # no such package; no such library
        reason = str(error).strip().splitlines()[0]
        raise BackendError(
            f"compiling {name} needs NVRTC 13.0, which does not load ({reason}); "
            'pip install "rwcnet[tensorrt]"'
        ) from error
    (_, program) = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], [])
    try:
        options = [f"-arch={architecture}", *(f"-D{key}={n}" for key, n in macros.items())]
        encoded = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = _read(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
            said = log.decode().strip(" \n\0") or status.name
            dotted = ".".join(map(str, version))
            raise BackendError(f"NVRTC {dotted} cannot compile {name} for {architecture}: {said}")
        if architecture.startswith("compute_"):
            return _read(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
        return _read(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _read(program: Any, get_size: Any, get: Any) -> bytes:
    """Return what a pair of NVRTC's functions gives: the size, then the bytes."""
    (_, size) = get_size(program)
    buffer = bytes(size)  # written to by NVRTC, as its binding wants it
    get(program, buffer)
    return buffer
