"""Listings of what is there: hives and models."""

from __future__ import annotations

from rbee.commands.common import ask
from rbee.output import print_json, print_table, size


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


def models(*, everything: bool, as_json: bool) -> int:
    """`rbee model list`"""
    found = [m for m in ask(lambda queen: queen.models()) if everything or not m.hidden]
    if as_json:
        print_json({"models": found})
        return 0
    rows = [
        [m.id, m.format, m.quant or "·", size(m.size), str(m.context or "·"), m.ref] for m in found
    ]
    columns = ["model", "format", "quant", "size", "context", "ref"]
    print_table(
        columns,
        rows,
        empty="No models yet. `pip install 'rbee[demo]'` brings a small one;"
        " a file of yours is used as --model file:/path/to/model.gguf.",
    )
    return 0
