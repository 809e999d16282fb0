"""Which accelerators this machine seems to have, looked for without using any of them.

Owns the guesses of `rbee doctor`: kernel files and the platform's name only, so that nothing here
needs a driver's library or can hang in one. What can really be used is another question; a backend
answers that.
"""

from __future__ import annotations

import ctypes.util
import platform
from pathlib import Path
from typing import NamedTuple


class Found(NamedTuple):
    """A kind of device (`cuda`, `hip`, `metal`, `vulkan`) and what was seen of it, for people."""

    kind: str
    label: str


def accelerators(
    root: Path = Path("/"),
    *,
    system: str | None = None,
    machine: str | None = None,
    vulkan: bool | None = None,
) -> list[Found]:
    """What is there. The arguments stand in for the machine; `vulkan`: whether a loader is here."""
    system = system or platform.system()
    machine = machine or platform.machine()
    if system == "Darwin":
        return [Found("metal", "Apple GPU")] if machine == "arm64" else []
    out = [Found("cuda", label) for label in _nvidia(root)]
    out += [Found("hip", label) for label in _amd(root)]
    nodes = sorted((root / "dev/dri").glob("renderD*"))
    if nodes and (ctypes.util.find_library("vulkan") is not None if vulkan is None else vulkan):
        out.append(Found("vulkan", f"a Vulkan loader and {nodes[0].name}"))
    return out


def _nvidia(root: Path) -> list[str]:
    """The kernel module lists its devices; in a container the device files are all there is."""
    files = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    labels = [_facts(file, ":").get("Model") or "NVIDIA GPU" for file in files]
    return labels or ["NVIDIA GPU" for _ in (root / "dev").glob("nvidia[0-9]")]


def _amd(root: Path) -> list[str]:
    """Nodes of the kernel's compute driver; one without SIMD units is the CPU."""
    return [
        _text(file.with_name("name")).strip() or "AMD GPU"
        for file in sorted((root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties"))
        if _facts(file, " ").get("simd_count", "0") != "0"
    ]


def _facts(path: Path, between: str) -> dict[str, str]:
    out: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, _, value = line.partition(between)
        out[name.strip()] = value.strip()
    return out


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
