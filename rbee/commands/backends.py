"""`rbee backend list`: what is installed on this machine to run models.

Owns the table. Asks the entry points, as a hive does, and no queen; what other machines have,
`rbee hive show NAME` tells. Loads no library.
"""

from __future__ import annotations

import sys

from rbee import registry
from rbee.narration import printable
from rbee.output import print_json, print_table
from rbee.protocol.base import Wire


class Listed(Wire, frozen=True, kw_only=True):
    """One backend. `action` is what would make it usable; empty where it is."""

    name: str
    version: str
    package: str
    formats: list[str]
    capabilities: list[str]
    available: bool
    devices: list[str]
    max_slots: int
    continues: bool
    reason: str
    action: str


def listed() -> list[Listed]:
    """All that are installed, by name."""
    out: list[Listed] = []
    for info, support in registry.survey():
        package, version = registry.package_of(info.name)
        out.append(
            Listed(
                name=info.name,
                version=version,
                package=package,
                formats=list(info.formats),
                capabilities=list(info.capabilities),
                available=support.available,
                devices=list(support.devices),
                max_slots=info.max_slots,
                continues=info.continues,
                reason=support.reason,
                action=support.action,
            )
        )
    return out


def show(*, as_json: bool) -> int:
    """Print them; the exit code."""
    found = listed()
    if as_json:
        print_json({"backends": found})
        return 0
    rows = [
        [
            one.name,
            f"{one.package} {one.version}".strip(),
            ", ".join(one.formats),
            ", ".join(one.capabilities),
            ", ".join(one.devices) if one.available else "none",
            "yes" if one.available else f"no: {one.reason}",
        ]
        for one in found
    ]
    columns = ["backend", "package", "runs", "can", "devices", "usable"]
    print_table(columns, rows, empty="no backends are installed")
    for one in found:
        if not one.available and one.action:
            sys.stdout.write(f"\n{one.name}:\n  → {printable(one.action)}\n")
    return 0
