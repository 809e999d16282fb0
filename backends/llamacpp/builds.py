"""What llama.cpp can be built for: which of it this installation has, and how to build the rest.

Owns the table of device kinds and the commands. Looks at files only and loads no library, so that
it is cheap and cannot fail in C.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = "llama-cpp-python"


class Build(NamedTuple):
    """A kind of device besides the CPU. The prefix and the library are ggml's names."""

    kind: str
    prefix: str
    """Its devices are called so with a number (`CUDA0`)."""
    library: str
    """Part of the name of the file that a build with it has beside the others."""
    needs: str
    """What must be installed to build it, besides a C++ compiler."""


BUILDS = (
    Build("cuda", "CUDA", "ggml-cuda", "the CUDA toolkit (nvcc)"),
    Build("metal", "MTL", "ggml-metal", "Apple's command line tools"),
    Build("vulkan", "Vulkan", "ggml-vulkan", "the Vulkan SDK (glslc and headers)"),
    Build("hip", "ROCm", "ggml-hip", "AMD's ROCm (hipcc)"),
    Build("sycl", "SYCL", "ggml-sycl", "Intel's oneAPI (icpx)"),
)


def folder() -> Path | None:
    """Where llama-cpp-python keeps its C libraries; None when the package is not installed."""
    spec = importlib.util.find_spec("llama_cpp")
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(roots[0]) / "lib" if roots else None


def version() -> str | None:
    """The installed version of llama-cpp-python."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def built() -> tuple[str, ...]:
    """Kinds this installation was built with; `cpu` always, when its libraries are there at all."""
    place = folder()
    if place is None or not any(place.glob("*llama[.-]*")):
        return ()
    return ("cpu", *(build.kind for build in BUILDS if any(place.glob(f"*{build.library}*"))))


def command(kind: str | None = None) -> str:
    """The shell command that installs llama.cpp again, for a kind of device or as it is by default.

    It runs this very Python and keeps the installed version, so that nothing else changes.
    """
    pinned = PACKAGE if (found := version()) is None else f"{PACKAGE}=={found}"
    flag = next((build.library for build in BUILDS if build.kind == kind), None)
    prefix = f'CMAKE_ARGS="-D{flag.upper().replace("-", "_")}=on" ' if flag else ""
    python = shlex.quote(sys.executable)
    options = "--force-reinstall --no-deps --no-cache-dir"
    if found is None:  # the first installation brings what the package needs
        options = "--no-cache-dir"
    return f"{prefix}{python} -m pip install {options} {pinned}"


def how(kind: str) -> str:
    """One sentence: how to make this installation use a kind of device."""
    build = next((build for build in BUILDS if build.kind == kind), None)
    if build is None:
        known = ", ".join(build.kind for build in BUILDS)
        return f"llama.cpp is built for cpu, {known}; name one of them."
    if kind == "metal" and sys.platform != "darwin":
        return "Metal exists on macOS only."
    return f"To build it, with {build.needs} installed: {command(kind)}"
