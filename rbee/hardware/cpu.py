"""The CPU and the machine's memory, as this process may use them.

Owns the reading of affinity and of control group limits: in a container the machine is as large as
the container. Never changes a limit. Linux files that are absent mean "no limit".
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

from rbee.protocol.hives import Device

_CGROUPS = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")


class Cpu:
    """The device `cpu`; limits are read once, loads at each reading."""

    def __init__(self) -> None:
        self._cores = physical_cores()
        self._groups = _own_groups()
        self._warm = False

    def read(self) -> Device:
        """Memory in bytes, utilisation in percent of all cores since the last reading."""
        memory = psutil.virtual_memory()
        total, free = memory.total, memory.available
        for limit, used in (_memory_limit(group) for group in self._groups):
            if limit is not None and limit < total:
                total = limit
                free = min(free, max(0, limit - used))
        load = psutil.cpu_percent(interval=None)
        utilisation, self._warm = (load if self._warm else None), True
        return Device(
            name="cpu",
            kind="cpu",
            label=f"{self._cores} core{'' if self._cores == 1 else 's'}",
            memory_total=total,
            memory_used=total - free,
            memory_free=free,
            utilisation=utilisation,
            temperature_c=_temperature(),
            cores=self._cores,
        )


def physical_cores() -> int:
    """Physical cores this process may use, by affinity and CPU quota; at least 1."""
    cores = _affinity_cores()
    for group in _own_groups():
        if (quota := _cpu_quota(group)) is not None:
            cores = min(cores, max(1, math.floor(quota + 0.5)))
    return max(1, cores)


def _affinity_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):  # macOS has no affinity
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    seen: set[tuple[str, str]] = set()
    for cpu in allowed:
        topology = _TOPOLOGY / f"cpu{cpu}" / "topology"
        package, core = _text(topology / "physical_package_id"), _text(topology / "core_id")
        if package is None or core is None:
            return min(len(allowed), psutil.cpu_count(logical=False) or len(allowed))
        seen.add((package, core))
    return len(seen)


def _own_groups() -> list[Path]:
    """The control groups (version 2) from our own to the root; any of them may limit us."""
    for line in (_text(Path("/proc/self/cgroup")) or "").splitlines():
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0":
            own = _CGROUPS / path.lstrip("/")
            return [own, *(parent for parent in own.parents if parent.is_relative_to(_CGROUPS))]
    return []


def _cpu_quota(group: Path) -> float | None:
    fields = (_text(group / "cpu.max") or "").split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or fields[1] == "0":
        return None
    return int(fields[0]) / int(fields[1])


def _memory_limit(group: Path) -> tuple[int | None, int]:
    """Limit and use in bytes; page cache that can be dropped is not counted as used."""
    limit = _text(group / "memory.max")
    if limit is None or not limit.isdigit():
        return None, 0
    used = int(_text(group / "memory.current") or 0)
    for line in (_text(group / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            used -= int(value)
    return int(limit), max(0, used)


def _temperature() -> float | None:
    if not hasattr(psutil, "sensors_temperatures"):  # macOS and Windows
        return None
    sensors = psutil.sensors_temperatures()
    for name in _SENSORS:
        if entries := sensors.get(name):
            return float(entries[0].current)
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
