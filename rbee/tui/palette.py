"""The command palette's entries: the registry's actions, and what the colony has right now.

Names are `noun: verb object`; running an entry is the app's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content
from textual.markup import escape
from textual.theme import BUILTIN_THEMES

from rbee.tui import keymap
from rbee.tui.cells import safe
from rbee.tui.screens.model_questions import start_somewhere
from rbee.tui.theme_shelf import AUTO

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp


@dataclass(frozen=True)
class Entry:
    """A line of the palette."""

    name: str
    help: str
    run: Callable[[], object]
    discover: bool = True


class Commands(Provider):
    """Everything rbee's screens can do, by name."""

    async def discover(self) -> Hits:
        """What is listed before anything is typed."""
        for entry in self._entries():
            if entry.discover:
                shown, told = Content(safe(entry.name)), escape(safe(entry.help))
                yield DiscoveryHit(shown, entry.run, text=entry.name, help=told)

    async def search(self, query: str) -> Hits:
        """Fuzzy matches."""
        matcher = self.matcher(query)
        for entry in self._entries():
            name = safe(entry.name)
            score, places = matcher.fuzzy_search.match(query, name)
            if score > 0:
                # Textual's own highlighting reads the name as markup, and a chat's is a question.
                shown = Content(name)
                for at in places:
                    shown = shown.stylize(matcher.match_style, at, at + 1)
                told = escape(safe(entry.help))
                yield Hit(score, shown, entry.run, text=entry.name, help=told)

    def _entries(self) -> Iterator[Entry]:
        app = cast("RbeeApp", self.app)
        for action in keymap.ACTIONS:
            if action.palette and action.scope != "everywhere":
                noun = action.id.partition(".")[0]
                yield Entry(
                    f"{noun}: {action.label}",
                    _help(app, action),
                    partial(app.perform, action),
                )
        for model in app.store.offered_models():
            yield Entry(
                f"worker: start {model.id}", "Start a worker", partial(app.start_worker, model.id)
            )
            yield Entry(
                f"model: start {model.id}",
                "Start a worker where you say",
                partial(start_somewhere, app, model),
                discover=False,
            )
        for worker in app.store.worker_list():
            yield Entry(
                f"worker: stop {worker.worker_id}",
                f"{worker.model} on {worker.hive} {worker.device}",
                partial(app.ask_stop, worker.worker_id),
            )
        for chat in app.open_chats():
            yield Entry(f"chat: open {chat.title}", "A conversation", partial(app.open_chat, chat))
        for action in keymap.ACTIONS:
            if action.palette and action.scope == "everywhere":
                noun, _, verb = action.id.partition(".")
                yield Entry(
                    f"{noun}: {verb.replace('_', ' ')}",
                    _help(app, action),
                    partial(app.perform, action),
                )
        for name in (AUTO, *app.themes.names()):
            yield Entry(
                f"theme: {name}",
                "Colours",
                partial(app.choose_theme, name),
                discover=name not in BUILTIN_THEMES,
            )


def _help(app: RbeeApp, action: keymap.Action) -> str:
    return f"{action.help}  ({keymap.key_text(app.overrides.get(action.id, action.keys))})"
