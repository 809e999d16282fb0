"""All devices of this machine, read as one: cheap enough to ask every second.

Owns the order of the list and the life of what the readers keep open. A device kind that is not
here is reported with the reason and what would make it appear; nothing here ever raises for it.
"""

from __future__ import annotations

from typing import Self

from rbee.hardware import apple
from rbee.hardware.cpu import Cpu
from rbee.hardware.nvidia import Nvidia
from rbee.protocol.hives import Absent, Device


class Probe:
    """Keeps the drivers' libraries open between readings. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._cpu = Cpu()
        self._nvidia = Nvidia()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> tuple[list[Device], list[Absent]]:
        """Devices, the CPU first, and the kinds that are absent with the reason."""
        devices = [self._cpu.read()]
        found, absent = self._nvidia.read()
        metal, without = apple.read()
        return [*devices, *found, *metal], [*absent, *without]

    def close(self) -> None:
        """Close the drivers' libraries; a later read opens them again."""
        self._nvidia.close()


def devices() -> tuple[list[Device], list[Absent]]:
    """One reading. CPU utilisation is then None: it needs two; keep a `Probe` to get it."""
    with Probe() as probe:
        return probe.read()
