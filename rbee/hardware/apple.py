"""Apple's GPUs (Metal): this version only says why there is none to use."""

from __future__ import annotations

import platform

from rbee.protocol.hives import Absent


def absent(system: str | None = None, machine: str | None = None) -> Absent:
    """Why no `metal` device is listed; system and machine as `platform` names them."""
    system = system or platform.system()
    machine = machine or platform.machine()
    if system != "Darwin":
        return Absent(
            name="metal",
            reason=f"Metal exists on macOS only; this machine runs {system} on {machine}",
        )
    if machine != "arm64":
        return Absent(name="metal", reason=f"Metal needs Apple silicon; this is a {machine} Mac")
    return Absent(
        name="metal",
        reason="this version does not measure Apple GPUs and offers none",
        action="Use the device cpu on this machine.",
    )
