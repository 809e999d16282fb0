"""Every key of every screen in one registry: bindings, footer, help and palette are read from it.

Owns ids, default keys and words. What a key does is the method named by `method` on the widget,
screen or app of that `scope`; which keys a user prefers is the app's business (`App.set_keymap`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from textual.binding import Binding, BindingType

from rbee.errors import SettingsError


@dataclass(frozen=True)
class Action:
    """One thing a key does. `keys`: Textual's names, comma separated; `label`: one footer word."""

    id: str
    keys: str
    label: str
    help: str
    scope: str
    method: str = ""
    """Textual action; empty for keys that a widget handles itself."""
    show: bool = False
    """In the footer."""
    palette: bool = False

    @property
    def here(self) -> bool:
        """False for actions of screens that this version does not have."""
        return self.scope in SCOPES


@dataclass(frozen=True)
class Mode:
    """One of the nine screens: its key is its number. `job` and `command` are shown while the
    screen itself is not in this version."""

    name: str
    short: str
    title: str
    job: str = ""
    commands: tuple[str, ...] = ()
    note: str = "This version has no screen for it. The command line does it now:"


MODES: tuple[Mode, ...] = (
    Mode("dashboard", "Dash", "Dashboard"),
    Mode(
        "hives",
        "Hives",
        "Hives",
        "Add, install, start and watch the machines of the colony.",
        ("rbee hive list",),
        "This version's colony is this one machine; the dashboard shows its devices.",
    ),
    Mode(
        "workers",
        "Work",
        "Workers",
        "Every worker with its log, figures and restarts; the dashboard starts and stops them now.",
        ("rbee worker list", "rbee worker stop ID"),
    ),
    Mode(
        "models",
        "Models",
        "Models",
        "The models on every machine, what fits where, and the transfers between them.",
        ("rbee model list",),
    ),
    Mode(
        "jobs",
        "Jobs",
        "Jobs",
        "Every job with its wait, first token and speed; cancel and run again.",
        ("rbee job list", "rbee job show ID", "rbee job cancel ID"),
    ),
    Mode("chat", "Chat", "Chat"),
    Mode(
        "logs",
        "Logs",
        "Logs",
        "The story of the colony and the logs of all daemons, filtered and searchable.",
        ("rbee queen logs",),
    ),
    Mode(
        "code",
        "Code",
        "Scheduler script",
        "A script of your own that decides where work goes, with a dry run before it is live.",
        note="This version has no scripts: the built-in policy decides, the narration says why.",
    ),
    Mode(
        "settings",
        "Conf",
        "Settings",
        "Every setting with its value and where the value comes from.",
        ("rbee config show",),
    ),
)

SCOPES: Mapping[str, str] = {
    "everywhere": "Everywhere",
    "dashboard": "Dashboard",
    "welcome": "First run",
    "lists": "Lists",
    "narration": "Narration",
    "chat": "Chat",
    "prompt": "Chat prompt",
    "messages": "Chat messages",
}
"""Scopes this version has, with their heading in the help."""


def _everywhere() -> list[Action]:
    modes = [
        Action(
            f"screen.{mode.name}",
            str(number),
            mode.short.lower(),
            f"{mode.title} screen",
            "everywhere",
            f"app.mode('{mode.name}')",
            palette=True,
        )
        for number, mode in enumerate(MODES, 1)
    ]
    return [
        *modes,
        Action(
            "screen.previous",
            "left_square_bracket",
            "previous",
            "Previous screen",
            "everywhere",
            "app.step_mode(-1)",
        ),
        Action(
            "screen.next",
            "right_square_bracket",
            "next",
            "Next screen",
            "everywhere",
            "app.step_mode(1)",
        ),
        Action(
            "view.jump", "ctrl+o", "jump", "Jump to a panel", "everywhere", "app.jump", True, True
        ),
        Action(
            "app.palette", "ctrl+p", "palette", "Everything", "everywhere", "app.command_palette"
        ),
        Action(
            "help.keys",
            "question_mark,f1",
            "help",
            "Keys of this screen",
            "everywhere",
            "app.help",
            True,
            True,
        ),
        Action("view.next_panel", "tab", "panels", "Next panel", "everywhere", "app.focus_next"),
        Action(
            "view.previous_panel",
            "shift+tab",
            "panels",
            "Previous panel",
            "everywhere",
            "app.focus_previous",
        ),
        Action("view.back", "escape", "back", "Back, or leave", "everywhere", "app.step_back"),
        Action(
            "view.maximise",
            "z",
            "maximise",
            "Maximise the panel, and back",
            "everywhere",
            "app.maximise",
            palette=True,
        ),
        Action("app.quit", "ctrl+q", "quit", "Quit rbee", "everywhere", "app.quit", palette=True),
    ]


_DASHBOARD = [
    Action("worker.new", "n", "new", "Start a worker", "dashboard", "new_worker", True, True),
    Action(
        "worker.stop",
        "x",
        "stop",
        "Stop the selected worker (asks)",
        "dashboard",
        "stop_worker",
        True,
    ),
    Action("worker.log", "l", "log", "Where the worker's log is", "dashboard", "show_worker", True),
    Action(
        "worker.open", "enter", "open", "Details of the selected row", "dashboard", "open_row", True
    ),
    Action("list.filter", "slash", "filter", "Filter; ! inverts", "dashboard", "filter", True),
    Action(
        "narration.follow",
        "f",
        "follow",
        "Follow the newest narration",
        "dashboard",
        "follow",
    ),
    Action(
        "worker.demo",
        "d",
        "demo",
        "Try it with the demo model",
        "welcome",
        "screen.demo",
    ),
]

_LISTS = [
    Action("list.up", "up,k", "up", "Row up", "lists", "cursor(-1)"),
    Action("list.down", "down,j", "down", "Row down", "lists", "cursor(1)"),
    Action("list.first", "g,home", "first", "First row", "lists", "first"),
    Action("list.last", "G,end", "last", "Last row", "lists", "last"),
    Action("list.page_up", "pageup", "page up", "Page up", "lists", "page(-1)"),
    Action("list.page_down", "pagedown", "page down", "Page down", "lists", "page(1)"),
    Action("list.sort", "s", "sort", "Sort by the next column", "lists", "sort"),
    Action("list.reverse", "S", "reverse", "Reverse the order", "lists", "reverse"),
    Action("list.copy", "y", "copy", "Copy the id", "lists", "copy"),
    Action("list.copy_command", "Y", "copy", "Copy as a command", "lists", "copy_command"),
    Action("narration.up", "up,k", "up", "Line up", "narration", "scroll_up"),
    Action("narration.down", "down,j", "down", "Line down", "narration", "scroll_down"),
]

_CHAT = [
    Action(
        "chat.stop", "escape", "stop/leave", "Stop the answer, then leave", "chat", "leave", True
    ),
    Action("chat.new", "ctrl+n", "new", "New chat", "chat", "new_chat", True, True),
    Action("chat.model", "f2", "model", "Choose the model", "chat", "choose_model", True, True),
    Action(
        "chat.again", "ctrl+r", "again", "Ask the last question again", "chat", "again", True, True
    ),
    Action("chat.help", "f1", "help", "Keys of this screen", "chat", "app.help", True),
    Action("chat.send", "enter", "send", "Send", "prompt", "send"),
    Action("chat.newline", "ctrl+j", "newline", "New line", "prompt", "newline"),
    Action("chat.previous", "up", "last", "In an empty prompt: the last one", "prompt", "recall"),
    Action("chat.write", "i,enter", "write", "Back to the prompt", "messages", "screen.write"),
    Action("chat.copy", "y", "copy", "Copy the last answer", "messages", "copy"),
    Action("chat.up", "k,up", "up", "Scroll up", "messages", "scroll_up"),
    Action("chat.down", "j,down", "down", "Scroll down", "messages", "scroll_down"),
    Action("chat.first", "g,home", "first", "To the first message", "messages", "scroll_home"),
    Action("chat.last", "G,end", "last", "To the last message, and follow", "messages", "last"),
]


def _elsewhere() -> list[Action]:
    rows = (
        ("hives", "hive.add", "a", "add", "Add a machine"),
        ("hives", "hive.install", "i", "install", "Install or upgrade rbee there"),
        ("hives", "hive.shell", "t", "shell", "Open a shell there"),
        ("lists+", "list.mark", "space", "mark", "Mark the row"),
        ("workers", "worker.restart", "R", "restart", "Restart the worker"),
        ("workers", "worker.move", "m", "move", "Move the worker elsewhere"),
        ("models", "model.download", "d", "download", "Download a model"),
        ("models", "model.copy", "p", "copy to hive", "Copy the model to a hive"),
        ("models", "model.remove", "delete", "remove", "Remove the model (asks)"),
        ("jobs", "job.cancel", "c", "cancel", "Cancel the job (asks)"),
        ("jobs", "job.retry", "R", "retry", "Run the job again"),
        ("chat+", "chat.parameters", "f3", "parameters", "Temperature and limits"),
        ("logs", "logs.follow", "f", "follow", "Follow the newest line"),
        ("logs", "logs.level", "v", "level", "Choose the level"),
        ("logs", "logs.wrap", "w", "wrap", "Wrap long lines"),
        ("logs", "logs.next", "n", "next", "Next match"),
        ("logs", "logs.previous", "N", "previous", "Previous match"),
        ("logs", "logs.save", "ctrl+s", "save", "Save to a file"),
        ("logs", "logs.pause", "space", "pause", "Pause"),
        ("code", "code.save", "ctrl+s", "save", "Save the draft"),
        ("code", "code.dry_run", "ctrl+r", "dry run", "Replay the recorded jobs"),
        ("code", "code.live", "f5", "make live", "Make the draft the live policy (asks)"),
        ("code", "code.api", "f1", "api", "The script's API"),
        ("code", "code.leave", "escape", "leave", "Leave the editor"),
        ("settings", "settings.undo", "u", "undo", "Undo the last change"),
        ("settings", "settings.open", "o", "open file", "Open the settings file"),
    )
    return [Action(id_, keys, label, help_, scope) for scope, id_, keys, label, help_ in rows]


ACTIONS: tuple[Action, ...] = (*_everywhere(), *_DASHBOARD, *_LISTS, *_CHAT, *_elsewhere())
BY_ID: Mapping[str, Action] = {action.id: action for action in ACTIONS}


def bindings(
    scope: str, *, priority: Iterable[str] = (), only: Iterable[str] | None = None
) -> list[BindingType]:
    """Textual bindings of a scope; those whose ids are in `priority` also work while typing.

    `only`: those ids and no others.
    """
    urgent = set(priority)
    wanted = set(BY_ID if only is None else only)
    return [
        Binding(
            action.keys,
            action.method,
            action.label,
            show=action.show,
            id=action.id,
            priority=action.id in urgent,
        )
        for action in ACTIONS
        if action.scope == scope and action.method and action.id in wanted
    ]


def check_overrides(overrides: Mapping[str, str]) -> dict[str, str]:
    """The user's `[keys]`. Raises SettingsError for an unknown id, naming the nearest."""
    for id_ in overrides:
        if id_ not in BY_ID:
            near = difflib.get_close_matches(id_, list(BY_ID), n=1, cutoff=0.0)[0]
            raise SettingsError(f"keys: no action is called {id_!r}; did you mean {near!r}?")
    return dict(overrides)


_KEY_TEXT = {
    "question_mark": "?",
    "slash": "/",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "escape": "esc",
    "pageup": "pgup",
    "pagedown": "pgdn",
    "delete": "del",
    "up": "↑",
    "down": "↓",
}


def key_text(keys: str) -> str:
    """The first of `keys` as people write it: `ctrl+o` → `^o`, `question_mark` → `?`."""
    key = keys.split(",")[0].strip()
    prefix = ""
    if key.startswith("ctrl+"):
        prefix, key = "^", key.removeprefix("ctrl+")
    return prefix + _KEY_TEXT.get(key, key)


def all_keys_text(keys: str) -> str:
    """All of `keys`, for the help."""
    return " ".join(key_text(key) for key in keys.split(","))
