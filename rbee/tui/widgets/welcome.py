"""Welcome: what the dashboard shows at the first run, and before the queen is up.

Says where things stand, offers only what works, and tells of what was asked from it; never a
dialog of its own accord, so every screen key still works.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import BindingType
from textual.containers import Center, Middle
from textual.content import Content
from textual.widgets import Static

from rbee.protocol.hives import HiveInfo
from rbee.tui import cells, keymap
from rbee.tui.errand import Errand, Stand
from rbee.tui.first_run import FirstRun, demo_model, to_install
from rbee.tui.glyphs import Glyphs, total_gib
from rbee.tui.rows_errand import errand_lines, failure
from rbee.tui.store import ColonyStore, Link
from rbee.tui.trouble import trouble
from rbee.tui.widgets.lines import Line
from rbee.tui.widgets.machines import free_hosts, known_words

ROOM = 52
"""Cells of the words below an option."""
_STYLES = {
    "muted": "$muted",
    "strong": "$foreground bold",
    "ok": "$success",
    "warn": "$warning",
    "bad": "$error",
    "key": "$primary bold",
    "track": "$track",
    "name": "$secondary",
}


class Welcome(Middle, can_focus=True):
    """A hex cluster, one sentence, and the keys that lead on."""

    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("welcome")

    def __init__(self, glyphs: Glyphs) -> None:
        self._card = Static("", id="welcome-card")
        super().__init__(Center(self._card), id="welcome", classes="hatched")
        self._glyphs = glyphs
        self._shown = ""

    def show(self, store: ColonyStore, first: FirstRun) -> None:
        """Fill from the store."""
        errand = first.errand if store.connected else None
        wide = self.app.size.height >= 30
        content = (
            self._offers(store)
            if errand is None
            else _told(errand, self._glyphs, min(70, self.app.size.width - 10), wide=wide)
        )
        if content.markup != self._shown:
            self._shown = content.markup
            self._card.update(content)

    def _offers(self, store: ColonyStore) -> Content:
        hollow, full = self._glyphs.logo_hollow, self._glyphs.logo
        cluster = [f" {hollow} {full} {hollow} ", f"{full} {hollow} {full} {hollow}"]
        head, lines = self._words(store)
        left = [cluster[0], cluster[1], cluster[0]]
        right: list[Content] = [Content.styled(head, "$foreground bold"), Content(""), *lines]
        rows: list[Content] = []
        for at in range(max(len(left), len(right))):
            mark = left[at] if at < len(left) else " " * 7
            text = right[at] if at < len(right) else Content("")
            rows.append(Content.assemble((mark, "$primary"), "    ", text))
        dot = self._glyphs.dot
        keys = f"^p everything {dot} ? keys {dot} 6 chat {dot} ^q quit"
        return Content("\n").join([*rows, Content(""), Content.styled(keys, "$muted")])

    def _words(self, store: ColonyStore) -> tuple[str, list[Content]]:
        if store.connected:
            return self._ready(store)
        told = trouble(store)
        if told is not None:
            words = "The queen is being restarted." if store.link is Link.LOST else "No queen."
            if store.link is Link.REFUSED:
                words = f"{told.head.capitalize()}."
            return words, [Content.styled(cells.safe(told.what), "$error")]
        return "Looking for the queen…", [
            Content.styled("One is started if none is running.", "$muted")
        ]

    def _ready(self, store: ColonyStore) -> tuple[str, list[Content]]:
        here = next((hive for hive in store.hive_list() if hive.kind == "local"), None)
        fresh = to_install(store)
        head = "The queen is up. No hives yet." if not store.hives else "The queen is up."
        lines: list[Content] = []
        if fresh is not None:
            head = f"{cells.safe(fresh.name)} is added."
            lines += self._option("i", "install rbee there", "its own folder; needs no root")
        if here is not None and here.online:
            lines += self._option("enter", "use this machine", machine_words(here, self._glyphs))
        elif here is None and fresh is None:
            lines += [
                Content.styled("  This machine's own hive joins by itself.", "$muted"),
                Content(""),
            ]
        free = free_hosts(store.around)
        names = ", ".join(cells.safe(one.name) for one in free[:2])
        more = f" and {len(free) - 2} more" if len(free) > 2 else ""
        words = f"{known_words(free)}: {names}{more}" if free else ""
        lines += self._option("a", "add a machine over ssh", words)
        if demo_model(store):
            lines += self._option("d", "try it with the demo model", "")
        elif any(hive.online for hive in store.hives.values()):
            lines += self._option("d", "download a model", "from the hub, with what fits where")
        return head, _marked(lines, self._glyphs)

    def _option(self, key: str, words: str, below: str) -> list[Content]:
        lines = [Content.assemble((f" {key:<7}", "$primary bold"), (words, "$foreground"))]
        if below:
            lines.append(Content.styled(f"{'':<8}{self._glyphs.clip(below, ROOM)}", "$muted"))
        return lines


def machine_words(hive: HiveInfo, glyphs: Glyphs) -> str:
    """What a machine has: `RTX 4060, 8 GiB · 12 cores, 31 GiB`."""
    parts: list[str] = []
    for device in hive.devices:
        size = f"{total_gib(device.memory_total)} GiB" if device.memory_total > 0 else ""
        label = cells.safe(device.label)
        parts.append(f"{label}, {size}" if size else label)
    return f" {glyphs.dot} ".join(parts) or "nothing is known of it yet"


def _marked(lines: list[Content], glyphs: Glyphs) -> list[Content]:
    """The first option has the cursor's mark: it is the one to take when in doubt."""
    for at, line in enumerate(lines):
        if not line.plain.startswith("  ") and line.plain.strip():
            lines[at] = Content.assemble((glyphs.cursor, "$primary"), line[1:])
            break
    return lines


def _told(errand: Errand, glyphs: Glyphs, width: int, *, wide: bool) -> Content:
    """What was asked from here, as far as it is."""
    lines = errand_lines(errand, glyphs, width, wide=wide)
    if errand.error is not None and not wide:
        # Why it failed is worth more here than what had been done before.
        lines = [lines[0], *failure(errand.error, glyphs, width, brief=False)]
    rows = [_content(line) for line in lines]
    middle = "rbee on " if errand.operation == "hive_install" else ""
    title = f"{errand.verb} {middle}{cells.safe(errand.hive)}".strip()
    keys = [("esc", "cancel")]
    if errand.awaits_key is not None:
        keys = [("enter", "compare its host key and answer"), ("esc", "leave it")]
        rows = [
            Content.styled(" This machine's host key was never seen here:", "$warning"),
            Content.styled(f" {cells.safe(errand.awaits_key)}", "$foreground bold"),
        ]
    elif errand.stand in (Stand.FAILED, Stand.CANCELLED):
        keys = [("R", "try again"), ("esc", "go back")]
    elif errand.ended:
        keys = [("enter", "go on")]
    last = Content("   ").join(
        Content.assemble((key, "$primary bold"), (f" {words}", "$foreground"))
        for key, words in keys
    )
    head = Content.styled(f"{title[:1].upper()}{title[1:]}", "$foreground bold")
    return Content("\n").join([head, *rows, Content.assemble(" ", last)])


def _content(line: Line) -> Content:
    return Content.assemble(
        *((cells.safe(text), _STYLES.get(role, "$foreground")) for text, role in _spans(line))
    )


def _spans(line: Line) -> Sequence[tuple[str, str]]:
    return line or ((" ", "text"),)
