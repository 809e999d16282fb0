"""Listings of what is there: hives."""

from __future__ import annotations

from rbee.commands.common import ask
from rbee.output import print_json, print_table


def hives(*, as_json: bool) -> int:
    """`rbee hive list`"""
    found = ask(lambda queen: queen.hives())
    if as_json:
        print_json({"hives": found})
        return 0
    rows = [
        [
            h.name,
            "online" if h.online else "offline",
            h.kind,
            h.version or "·",
            ", ".join(f"{d.name} {d.label}" for d in h.devices),
            str(h.workers),
        ]
        for h in found
    ]
    columns = ["hive", "state", "via", "rbee", "devices", "workers"]
    print_table(columns, rows, empty="No hives: this queen runs none of its own.")
    return 0
