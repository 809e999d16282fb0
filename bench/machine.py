"""What a result was measured on and with. Reads the system, never changes it."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

from bench.build_llama_server import features, library_features
from bench.places import ROOT
from rbee import __version__
from rbee.hardware.cpu import physical_cores

BUSY_LOAD = 0.7
"""Load average of the last minute above which others take CPU from what is measured."""
BUSY = "the machine was busy with other work: the figures are worth little"


def facts(llama_server: Path | None) -> dict[str, str]:
    """Name → value, in the order of showing."""
    known = common()
    load = known.pop("load before")
    known["llama-cpp-python"] = importlib.metadata.version("llama-cpp-python")
    known["compiled for"] = library_features()
    known["load before"] = load
    if llama_server is not None:
        known["llama-server"] = _first_line([str(llama_server), "--version"])
    return known


def common() -> dict[str, str]:
    """What holds for every measurement."""
    total = psutil.virtual_memory().total / (1 << 30)
    load = psutil.getloadavg()[0]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu_model()}, {physical_cores()} cores used, {total:.0f} GiB memory,"
        f" {platform.system()} {platform.machine()}",
        "rbee": f"{__version__} ({_commit()}), Python {platform.python_version()}",
        "load before": f"{load:.1f}" + (f" ({BUSY})" if load > BUSY_LOAD else ""),
    }


def mismatch(llama_server: Path) -> str | None:
    """One sentence when the server and the library were compiled for different things."""
    theirs, ours = features(llama_server), library_features()
    if theirs == ours:
        return None
    return f"llama-server is compiled for other instructions ({theirs}) than the library ({ours})"


def cpu_model() -> str:
    """As the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str:
    return _first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]) or "no commit"


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ((done.stdout or done.stderr).strip().splitlines() or [""])[0]
