"""What is said of a machine, in few words: its state, what is wrong and what helps, where it is.

Owns the words that the command line and the screens share. Pure: asks nobody and prints nothing.
What came from elsewhere is as it came: whoever shows it makes it printable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rbee import __version__
from rbee.output import duration, milliseconds
from rbee.protocol.hives import HiveInfo

NOTHING = "·"
REACHED = frozenset({"online", "other version", "stopped"})
"""States in which it matters which rbee is there."""


@dataclass(frozen=True)
class Trouble:
    """Why a machine is not as it should be, and the command or deed that changes it."""

    reason: str
    action: str = ""


def state_of(hive: HiveInfo) -> str:
    """One or two words."""
    return hive.state or ("online" if hive.online else "offline")


def version_of(hive: HiveInfo) -> str | None:
    """The rbee there, as far as is known."""
    return hive.version or (hive.record.version if hive.record else None)


def trouble(hive: HiveInfo, ours: str = __version__) -> Trouble | None:
    """What keeps a machine from being of use, or will when it is reached; None: nothing."""
    theirs, state, link = version_of(hive), state_of(hive), hive.link
    if theirs not in (None, "", ours) and state in REACHED:
        why = f"rbee {theirs} is there, {ours} here"
        if hive.record is None:
            return Trouble(why, "Start it again from the same installation.")
        return Trouble(why, f"rbee hive upgrade {hive.name}")
    if hive.online:
        return None
    if state == "stopped" and hive.record is not None and not theirs:
        state = "not installed"  # it was taken off, and there is nothing to start
    usual = _USUAL.get(state, _USUAL["offline"])
    told = link.reason if link and link.reason else usual.reason
    if link is not None and link.next_try_s is not None:
        told = f"{told}; next try in {duration(max(0.0, link.next_try_s))}"
    action = link.action if link and link.action else usual.action.replace("NAME", hive.name)
    return Trouble(told, action)


_USUAL = {
    "not installed": Trouble("rbee is not installed there", "rbee hive install NAME"),
    "stopped": Trouble("it was stopped", "rbee hive start NAME"),
    "connecting": Trouble("it is being reached"),
    "working": Trouble("an operation is under way there", "rbee job list"),
    "refused": Trouble("it did not let us in", "rbee hive refresh NAME"),
    "offline": Trouble("it does not answer", "rbee hive refresh NAME"),
}


def add_name(name: str) -> str:
    """What a machine could be called: the first label of its name, as far as a hive's allows."""
    label = re.sub(r"[^a-z0-9-]+", "-", name.lower().partition(".")[0]).strip("-")
    return label[:63].strip("-") or "NAME"


def host_of(hive: HiveInfo) -> str:
    """Where it is: as it was added, else what it calls itself."""
    return (hive.record.target if hive.record else hive.hostname) or NOTHING


def via_of(hive: HiveInfo) -> str:
    """How it is reached."""
    return hive.link.via if hive.link else {"local": "here"}.get(hive.kind, hive.kind)


def latency(ms: float | None) -> str:
    """A time that may be far below a millisecond: `0.4 ms`."""
    if ms is None:
        return NOTHING
    return f"{ms:.1f} ms" if ms < 10 else milliseconds(ms)


def seen_at(hive: HiveInfo) -> float | None:
    """When it was last heard of, UTC seconds."""
    return hive.last_seen_at or (hive.record.connected_at if hive.record else None)


def times(count: int) -> str:
    """`once`, `3 times`."""
    return "once" if count == 1 else f"{count} times"


def key_check(key_type: str) -> str:
    """The command that shows, on the machine itself, the fingerprint of its host key of a type."""
    file = next((f for start, f in _KEY_FILES.items() if key_type.startswith(start)), "*")
    return f"ssh-keygen -lf /etc/ssh/ssh_host_{file}_key.pub"


_KEY_FILES = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa", "ecdsa": "ecdsa"}
