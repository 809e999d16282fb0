"""A fleet on paper: machines, their devices, how fast they are, and how it is read from a file.

Owns the fleet file's format. Memory in GiB, bandwidth and disk in GB/s (10^9 bytes).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from rbee.protocol.operations import DeviceName, Name
from rbee.sim.files import Paper, from_toml, line_of, read, wrong

GIB = 1 << 30
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


class DeviceSpec(Paper, frozen=True, kw_only=True):
    """One device."""

    name: DeviceName
    label: str
    memory: Positive
    """GiB that models may use."""
    bandwidth: Positive
    """GB/s, as on the data sheet; see rbee.sim.speed for what is reached of it."""
    tflops: Positive
    """10^12 operations a second that are reached with prompts."""

    @property
    def kind(self) -> str:
        """`cpu`, `cuda`, …"""
        return self.name.partition(":")[0]


class HiveSpec(Paper, frozen=True, kw_only=True):
    """One machine."""

    name: Name
    device: Annotated[list[DeviceSpec], msgspec.Meta(min_length=1, max_length=64)]
    disk: Positive = 2.0
    """GB/s, shared by the models that load at the same time."""
    start: Positive = 2.0
    """Seconds until a worker's process is there and begins to load."""
    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    """Requests at a time that its backend can run at most."""


class FleetSpec(Paper, frozen=True, kw_only=True):
    """A fleet file."""

    title: str
    hive: Annotated[list[HiveSpec], msgspec.Meta(min_length=1, max_length=10_000)]


def load_fleet(name: str) -> FleetSpec:
    """A shipped fleet by its name or a file by its path. Raises NotFound, InvalidRequest."""
    text, file = read(name, "fleets")
    fleet = from_toml(text, file, FleetSpec)
    seen: set[str] = set()
    for n, hive in enumerate(fleet.hive):
        if hive.name in seen:
            line = line_of(text, f"hive[{n}].name")
            raise wrong(file, line, f"there are two hives named {hive.name!r}")
        seen.add(hive.name)
        devices = [d.name for d in hive.device]
        if len(set(devices)) < len(devices):
            line = line_of(text, f"hive[{n}].name")
            raise wrong(file, line, f"hive {hive.name!r} has two devices of one name")
    return fleet
