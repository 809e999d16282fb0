"""Apple's GPUs (Metal): the one of this Mac, or why there is none to use.

Owns the estimate of its memory, which it shares with the CPU: how much of it the GPU may keep is
the system's to say, and only a process that uses Metal can ask. Taken are two thirds, the share
that Macs with up to 36 GB have (larger ones have three quarters), and of that no more than is free.
The memory of both devices is the same, so what one takes is gone from the other, too.

This was never run on a Mac.
"""

from __future__ import annotations

import platform

import psutil

from rbee.protocol.hives import Absent, Device

SHARE = 2 / 3


def read(
    system: str | None = None, machine: str | None = None
) -> tuple[list[Device], list[Absent]]:
    """The device `metal:0`, or why it is not listed; system and machine as `platform` names
    them."""
    gone = absent(system, machine)
    if gone is not None:
        return [], [gone]
    memory = psutil.virtual_memory()
    total = int(memory.total * SHARE)
    free = min(total, memory.available)
    device = Device(
        name="metal:0",
        kind="metal",
        label="Apple GPU",
        memory_total=total,
        memory_used=total - free,
        memory_free=free,
    )
    return [device], []


def absent(system: str | None = None, machine: str | None = None) -> Absent | None:
    """Why no `metal` device is there; None on a Mac with Apple silicon."""
    system = system or platform.system()
    machine = machine or platform.machine()
    if system != "Darwin":
        return Absent(
            name="metal",
            reason=f"Metal exists on macOS only; this machine runs {system} on {machine}",
        )
    if machine != "arm64":
        return Absent(name="metal", reason=f"Metal needs Apple silicon; this is a {machine} Mac")
    return None
