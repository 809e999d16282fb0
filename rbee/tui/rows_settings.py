"""Settings and keys as rows and words: where each belongs, how it is written, when it counts.

Pure functions; reading and writing belong to the desk, layout and keys to the screen.
"""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from rbee import __version__
from rbee.settings_layers import SECRET, Field
from rbee.tui.actions import Action
from rbee.tui.desk import SettingsDesk
from rbee.tui.glyphs import Glyphs
from rbee.tui.keymap import SCOPES, all_keys_text
from rbee.tui.store import ColonyStore
from rbee.tui.texts import fact, wrapped
from rbee.tui.widgets.lines import Line, Span
from rbee.tui.widgets.table import Column, Row

CATEGORIES = (
    "Appearance", "Keys", "Queen", "Hives", "Workers", "Scheduling", "Models", "Network", "About",
)  # fmt: skip
_SECTIONS = {
    "tui": "Appearance", "queen": "Queen", "hive": "Hives", "worker": "Workers", "models": "Models",
    "job": "Scheduling", "log": "Queen",
}  # fmt: skip
_PLACED = {
    "queen.swap_patience": "Scheduling",
    "queen.preempt_after": "Scheduling",
    "queen.queue_capacity": "Scheduling",
    "tui.vim": "Keys",
    **dict.fromkeys(
        (
            "queen.host", "queen.port", "queen.url", "queen.allowed_origins", "queen.announce",
            "queen.allowed_networks", "queen.allowed_hosts", "queen.require_key", "queen.tls_cert",
            "queen.tls_key", "queen.tls_ca", "queen.api_key", "queen.request_timeout", "hive.host",
            "hive.port", "hive.worker_port_base", "models.bandwidth_mb",
        ),
        "Network",
    ),
}  # fmt: skip
RELOADED = frozenset(
    {
        "worker.ctx", "worker.slots", "worker.kv_type", "worker.load_timeout", "worker.keep_alive",
        "worker.stale_after", "worker.remove_after", "worker.flash_attention", "worker.max_gap_ms",
        "worker.prompt_cache_mb", "job.attempts", "job.retention", "job.finished_kept",
        "queen.swap_patience", "queen.preempt_after", "queen.queue_capacity", "queen.linger",
        "models.keep_alive", "models.min_workers", "models.max_workers",
    }
)  # fmt: skip
"""What a running queen takes over on SIGHUP (rbee.daemons.queen.deciding and Queen.reload)."""
_UNITS = {
    "_ms": "ms", "_mb": "MB", "_gb": "GB", "_days": "days", "ctx": "tokens",
    "prompt_cache_mb": "MiB", "bandwidth_mb": "MB/s",
}  # fmt: skip
COLUMNS = (
    Column("setting", "setting", 18, grow=True, least=14),
    Column("value", "value", 28, grow=True, least=12),
    Column("from", "from", 14, grow=True),
)
KEY_COLUMNS = (
    Column("keys", "keys", 13, grow=True, least=9),
    Column("does", "what it does", 30, grow=True, least=14),
    Column("where", "where", 13, grow=True, least=10),
    Column("id", "id", 20, grow=True, extra=True),
    Column("from", "from", 9, grow=True),
)
_RADIO = 30
"""Cells up to which all choices are written side by side."""


def category_of(field: Field) -> str:
    """Where it stands; a setting nobody has placed is with its section."""
    return _PLACED.get(field.name) or _SECTIONS.get(field.section, "Queen")


def choices_of(field: Field) -> list[str]:
    """What it may be, as `rbee config set` takes it; empty: anything its bounds allow."""
    kind = get_args(field.kind)[0] if hasattr(field.kind, "__metadata__") else field.kind
    if kind is bool:
        return ["false", "true"]
    return [str(value) for value in get_args(kind)] if get_origin(kind) is Literal else []


def unit_of(field: Field) -> str:
    """`s`, `MB`, `tokens`; empty: it has none."""
    if not _is_number(field):
        return ""
    for ending in (field.key, "_ms", "_mb", "_gb", "_days"):
        if ending in _UNITS and field.key.endswith(ending):
            return _UNITS[ending]
    return "s" if "econds" in field.description else ""


def as_text(value: Any) -> str:
    """As it is typed: lists `a,b`, tables `a=b,c=d`, numbers without a needless `.0`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown(field: Field, value: Any, glyphs: Glyphs) -> str:
    """As it stands in the table: a box, all choices, or the value with its unit."""
    if field.name in SECRET:
        return "(hidden)" if value else "not set"
    if isinstance(value, bool):
        return "[x]" if value else "[ ]"
    choices = choices_of(field)
    dot = "*" if glyphs.plain else "•"
    marked = [f"({dot if choice == value else ' '}) {choice}" for choice in choices]
    if choices and len("  ".join(marked)) <= _RADIO:
        return "  ".join(marked)
    text = as_text(value)
    if choices or field.name == "tui.theme":
        return f"{text} {'v' if glyphs.plain else '▾'}"
    unit = unit_of(field)
    return f"{text} {unit}" if unit else text or "(empty)"


def short(origin: str) -> str:
    """`config.toml:4` of a file, else as it is."""
    return Path(origin).name if "/" in origin else origin


def at_home(text: str) -> str:
    """With `~` for the home folder."""
    home = str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(f"{home}/") else text


def setting_rows(desk: SettingsDesk, category: str, glyphs: Glyphs) -> list[Row]:
    """The settings of a category; the command is what a shell would take."""
    return [
        _row(desk, field, glyphs)
        for field in desk.fields.values()
        if category_of(field) == category
    ]


def _row(desk: SettingsDesk, field: Field, glyphs: Glyphs) -> Row:
    value, origin = desk.value(field.name), desk.origin(field.name)
    role = "muted" if origin == "default" else "text"
    label = field.key if category_of(field) == _SECTIONS.get(field.section) else field.name
    text = "…" if field.name in SECRET else as_text(value)
    return Row(
        key=field.name,
        cells={
            "setting": (label, "text"),
            "value": (shown(field, value, glyphs), "strong" if role == "text" else "text"),
            "from": (short(origin), role),
        },
        command=f"rbee config set {field.name} {shlex.quote(text)}",
    )


def setting_as_key(row: Row) -> Row:
    """A setting as a row of the table of keys."""
    cells = {
        "keys": row.cells["value"],
        "does": (row.cells["setting"][0], "text"),
        "where": ("Settings", "muted"),
        "id": (row.key, "muted"),
        "from": row.cells["from"],
    }
    return Row(row.key, cells, command=row.command)


def key_rows(actions: Iterable[Action], keys: Mapping[str, str], desk: SettingsDesk) -> list[Row]:
    """Every action that has a key, with the one that works now."""
    rows: list[Row] = []
    for action in actions:
        origin = desk.origin(f"keys.{action.id}")
        chosen = origin != "default"
        text = all_keys_text(keys.get(action.id, action.keys))
        rows.append(
            Row(
                key=action.id,
                cells={
                    "keys": (text, "key"),
                    "does": (action.help, "text"),
                    "where": (SCOPES[action.scope], "muted"),
                    "id": (action.id, "muted"),
                    "from": (short(origin), "text" if chosen else "muted"),
                },
                command=f'[keys] "{action.id}" = "{keys.get(action.id, action.keys)}"',
            )
        )
    return rows


def applies(field: Field) -> str:
    """When a change counts."""
    if field.section == "tui":
        return "at once"
    if field.name in RELOADED:
        return "at once in a queen of this machine, for what starts from now"
    if field.name in ("queen.url", "queen.api_key", "queen.tls_ca"):
        return "when rbee is started again: ^q, then rbee"
    return "when the queen is started again: rbee queen stop, then rbee"


def detail_lines(
    desk: SettingsDesk, field: Field, width: int, *, error: str = "", note: str = ""
) -> list[Line]:
    """What it means, where its value comes from, what comes before that, and when it counts."""
    lines: list[Line] = (
        [((f" {row}", "bad"),) for row in wrapped(error, width - 2)] if error else []
    )
    lines += [((f" {row}", "text"),) for row in wrapped(field.description, width - 2)]
    origin = desk.origin(field.name)
    stands = "default" if origin == "default" else at_home(origin)
    lines += fact("value from", stands, width, column=15)
    stronger = desk.stronger(field.name)
    over = f"{stronger}, which counts" if stronger else f"{field.variable} (unset)"
    lines += fact("overridden by", over, width, column=15, role="warn" if stronger else "text")
    standard = shown_default(field)
    lines += fact("default", standard, width, column=15)
    lines += fact("takes effect", note or applies(field), width, column=15)
    return lines


def shown_default(field: Field) -> str:
    """`300 s`"""
    unit = unit_of(field)
    text = as_text(field.default) or "empty"
    return f"{text} {unit}" if unit else text


def preview_lines(glyphs: Glyphs, width: int) -> list[Line]:
    """States, a bar and a graph, as they now look."""
    full, rest = glyphs.meter(0.72, 22)
    wave = [0.1, 0.3, 0.5, 0.8, 0.7, 0.5, 0.3, 0.1, 0.0, 0.1, 0.3, 0.5, 0.8, 1.0, 0.8, 0.5, 0.3]
    graph: Span = (glyphs.sparkline(wave, max(0, width - 36), 1.0), "high")
    states: Line = (
        (f" {glyphs.ready} ready  ", "ok"),
        (f"{glyphs.loading} loading  ", "warn"),
        (f"{glyphs.failed} failed  ", "bad"),
        (f"{glyphs.running} running  ", "ok"),
        (f"{glyphs.queued} queued", "warn"),
    )
    return [states, ((" util ", "muted"), (full, "ok"), (rest, "track"), (" 72% ", "text"), graph)]


def about_facts(desk: SettingsDesk, store: ColonyStore) -> list[tuple[str, str]]:
    """What runs here, and where its files are."""
    backends = sorted({b.name for hive in store.hives.values() for b in hive.backends})
    return [
        ("rbee", __version__),
        ("queen", f"{store.version or 'not up'} at {store.address or store.url or 'nowhere'}"),
        ("backends", ", ".join(backends) or "none yet"),
        ("settings", at_home(str(desk.paths.config_file))),
        ("written", at_home(str(desk.paths.ui_file))),
        ("themes", at_home(str(desk.paths.themes_dir))),
        ("data", at_home(str(desk.paths.data))),
        ("logs", at_home(str(desk.paths.logs_dir))),
        ("python", f"{platform.python_version()} on {sys.platform}"),
        ("licence", "Apache-2.0"),
    ]


def about_lines(facts: Sequence[tuple[str, str]], glyphs: Glyphs, width: int) -> list[Line]:
    """The hex cluster, and facts below it."""
    hollow, filled = glyphs.logo_hollow, glyphs.logo
    rows = (f"  {hollow} {filled} {hollow}", f" {filled} {hollow} {filled} {hollow}")
    lines: list[Line] = [((f" {row}", "key"),) for row in (rows[0], rows[1], rows[0])]
    lines.append(())
    for name, value in facts:
        lines += fact(name, value, width, column=12)
    return lines


def _is_number(field: Field) -> bool:
    kind = get_args(field.kind)[0] if hasattr(field.kind, "__metadata__") else field.kind
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    while parts and hasattr(parts[0], "__metadata__"):
        parts = get_args(parts[0])[:1]
    return bool(parts) and parts[0] in (int, float)
