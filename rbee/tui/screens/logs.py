"""Logs: narration and the logs of queen, hives and workers, merged, filtered, searched, saved.

Reads the store, and the logs themselves while it is on screen; hidden, it has no stream open. It
changes nothing in the colony.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import anyio.to_thread
from textual import on
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input

from rbee.errors import RbeeError
from rbee.tui import keymap, rows_logs
from rbee.tui.chat_exports import no_folder, write_new
from rbee.tui.log_reader import LogReader
from rbee.tui.logbook import Entry, LogBook, Shown
from rbee.tui.rows_logs import ALL
from rbee.tui.screens.base import ColonyScreen
from rbee.tui.screens.listing import set_subtitle, set_title
from rbee.tui.texts import paragraphs
from rbee.tui.widgets.log_panel import LogPanel
from rbee.tui.widgets.panels import WIDE
from rbee.tui.widgets.sources import SourceTree

DRAW_SECONDS = 0.25
_LEVELS = list(Shown)


class Logs(ColonyScreen):
    """Mode 7."""

    MODE = "logs"
    HELP_SCOPES = ("logs", "sources", "lists")
    AUTO_FOCUS = "#log-lines"
    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("logs")

    def body(self) -> Iterable[Widget]:
        glyphs, link = self.rbee.glyphs, self.rbee.link
        self.book = LogBook()
        self.reader = LogReader(self.rbee.store, self.book, lambda: link.require().url)
        self.tree_panel = SourceTree(glyphs, self._picked)
        self.panel = LogPanel("Narration + logs", glyphs, self._subtitle)
        self.shown = Shown.INFO
        self.wrapping: bool | None = None
        """None: where there is room."""
        self.frozen: list[Entry] | None = None
        """While it is paused: what there was."""
        self.meanwhile = 0
        self._heard: set[str] = set()
        self._laid_out: tuple[object, ...] = ()
        search = Input(placeholder="find", id="filter", compact=True)
        return [
            Horizontal(self.tree_panel, Vertical(self.panel, search, id="log-side"), id="logs-body")
        ]

    def on_mount(self) -> None:
        self.drawing = self.set_interval(DRAW_SECONDS, self.draw)
        super().on_mount()

    def on_screen_resume(self) -> None:
        super().on_screen_resume()
        self.drawing.resume()
        self.run_worker(self.reader.run, group="logs", exclusive=True, exit_on_error=True)

    def on_screen_suspend(self) -> None:
        super().on_screen_suspend()
        self.drawing.pause()
        self.workers.cancel_group(self, "logs")

    def show(self) -> None:
        """The tree, and what has come."""
        store = self.rbee.store
        rows = rows_logs.sources(
            store,
            self.rbee.glyphs,
            trouble=self.reader.trouble,
            left_out=self.reader.left_out(),
            heard=self._heard | {self.tree_panel.chosen},
        )
        self.tree_panel.show(rows)
        self.panel.name_width(max((len(row.name) for row in rows), default=0))
        self.draw()
        self._explain()
        self._subtitle()

    def choose(self, source: str) -> None:
        """Show the lines of this source."""
        self.tree_panel.choose(source)
        self.panel.follow(True)
        self.panel.focus()
        self.repaint()

    def back(self) -> bool:
        """Leave the search."""
        search = self.query_one("#filter", Input)
        if not search.display and not self.panel.needle:
            return False
        search.display = False
        search.value = ""
        self.panel.find("")
        self.panel.focus()
        self._subtitle()
        return True

    def action_follow(self) -> None:
        """Follow the newest line, or stand still."""
        if self.frozen is not None:
            self.action_pause()
        self.panel.follow(not self.panel.following)

    def action_level(self) -> None:
        """Narration only, then info, then everything."""
        self.shown = _LEVELS[(_LEVELS.index(self.shown) + 1) % len(_LEVELS)]
        self.show()

    def action_wrap(self) -> None:
        """Wrap long lines, or clip them."""
        self.wrapping = not self._wraps
        self.show()

    def action_pause(self) -> None:
        """Stand still while lines come, and go on with all of them."""
        self.draw()
        self.frozen = list(self.book.entries) if self.frozen is None else None
        self.meanwhile = 0
        self._laid_out = ()
        self.show()

    def action_find(self) -> None:
        """Type what to look for."""
        search = self.query_one("#filter", Input)
        search.display = True
        search.focus()

    def action_match(self, step: int) -> None:
        """The next match, or the one before."""
        self.panel.step_match(step)

    def action_copy_line(self) -> None:
        """The line under the cursor, or the newest."""
        entry = self.panel.current
        if entry is not None:
            self.app.copy_to_clipboard(entry.text)
            self.notify(f"copied: {entry.text[:200]}", markup=False)

    def action_copy_command(self) -> None:
        """What a shell would take: about the chosen source, or the line's."""
        source, entry = self.tree_panel.chosen, self.panel.current
        if source == ALL and entry is not None:
            source = entry.source
        command = rows_logs.command(source, self.rbee.store)
        self.app.copy_to_clipboard(command)
        self.notify(f"copied: {command}", markup=False)

    def action_save(self) -> None:
        """What is shown, to a new file in the folder that rbee was started in."""
        entries = self.panel.entries()
        if not entries:
            self.notify("There is no line to save.", markup=False)
            return
        self.run_worker(self._save(entries), group="save", exclusive=True, exit_on_error=True)

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        self.panel.find(event.value)
        self._subtitle()

    @on(Input.Submitted, "#filter")
    def _typed_all(self, event: Input.Submitted) -> None:
        if not event.value:
            self.back()
        self.panel.focus()

    @property
    def _wraps(self) -> bool:
        return self.size.width >= WIDE if self.wrapping is None else self.wrapping

    async def _save(self, entries: list[Entry]) -> None:
        now, source = self.rbee.store.clock(), self.tree_panel.chosen

        def write() -> Path:
            content = "".join(f"{rows_logs.saved(entry)}\n" for entry in entries)
            return write_new(Path.cwd(), f"logs {source}", "log", content, now)

        try:
            path = await anyio.to_thread.run_sync(write)
        except (RbeeError, FileNotFoundError) as exc:
            self.rbee.toast(exc if isinstance(exc, RbeeError) else no_folder())
        else:
            self.notify(f"{len(entries)} lines saved to {path}", markup=False)

    def _picked(self) -> None:
        self.reader.chosen = self.tree_panel.chosen or None
        name = self.tree_panel.chosen
        set_title(self.panel, f"Narration + logs of {name}" if name else "Narration + logs")
        self.show()

    def draw(self) -> None:
        """Bring the lines up to date; nothing is done when nothing has come."""
        if not self.is_mounted:
            return
        self.reader.narrate()
        fresh = self.book.take()
        self._heard.update(entry.source for entry in fresh)
        state = self._state()
        keep = rows_logs.keeper(self.tree_panel.chosen, self.shown, self.rbee.store)
        if self.frozen is not None:
            self.meanwhile += sum(map(keep, fresh))
        if state != self._laid_out or not self.panel.fits():
            self._laid_out = state
            entries = self.book.entries if self.frozen is None else self.frozen
            self.panel.fill(entries, keep, wrap=self._wraps)
        elif self.frozen is None and fresh:
            self.panel.sync(self.book, fresh)
        if fresh:
            self._subtitle()

    def _state(self) -> tuple[object, ...]:
        """What the rows depend on besides the lines themselves."""
        source, store = self.tree_panel.chosen, self.rbee.store
        members: frozenset[str] = frozenset()
        if source in store.hives:
            there = {w.worker_id for w in store.workers.values() if w.hive == source}
            past = {k for k, past in store.past.workers.items() if past.last.hive == source}
            members = frozenset(there | past)
        generation = self.book.generation if self.frozen is None else -1
        return source, self.shown, self._wraps, generation, members

    def _explain(self) -> None:
        """What stands where there are no lines."""
        if self.panel.rows:
            return
        source, store = self.tree_panel.chosen, self.rbee.store
        error, gone = self.reader.trouble.get(source), store.past.workers.get(source)
        if error is not None:
            words = f"{error.message}. {error.action}"
        elif gone is not None and gone.gone_at is not None and gone.last.log_path:
            words = (
                f"{source} has gone, and its log cannot be read here any more."
                f" It was written to {gone.last.log_path} on {gone.last.hive}."
            )
        elif self.shown is not Shown.ALL and self.book.entries:
            words = "No line of this level yet; v shows the next one."
        else:
            words = "Nothing has been written yet"
            words += f" by {source}." if source else "."
            words += " n in 3 Work starts a worker; what becomes of it is told here."
        lines = [((f" {row}", "muted"),) for row in paragraphs(words, self.panel.size.width - 2)]
        if lines != self.panel.placeholder:
            self.panel.placeholder = list(lines)
            self.panel.refresh()

    def _subtitle(self) -> None:
        panel, glyphs = self.panel, self.rbee.glyphs
        if self.frozen is not None:
            words = [f"paused, {self.meanwhile} came"]
        else:
            words = ["follow on" if panel.following else "follow off"]
        words.append(rows_logs.shown_words(self.shown, ascii_only=glyphs.more.isascii()))
        if panel.needle:
            words.append(panel.match_words)
        else:
            total = len(self.book.entries if self.frozen is None else self.frozen)
            words.append(f"{panel.count} of {total}")
        if self.book.dropped:
            words.append(f"{self.book.dropped} dropped")
        set_subtitle(panel, Content(f" {glyphs.dot} ".join(words)))
