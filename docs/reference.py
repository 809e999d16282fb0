"""The reference pages of the guides, written from the code: commands, settings and keys.

`python docs/reference.py` writes them beside itself (`make reference`). Owns their text; a test
compares what lies in docs/ with what this would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from rbee.cli import app
from rbee.settings import SECTIONS, fields
from rbee.settings_text import toml_value
from rbee.tui.keymap import ACTIONS, BY_ID, SCOPES, written
from rbee.tui.keys.vim import VIM

NOTE = "<!-- Written by `make reference` from the code; change it there. -->"
STREAMS = """\
Data goes to stdout, narration and errors to stderr. An error is two lines: its code with what
happened, and what to do next."""
LAYERS = """\
`rbee config init` writes a `config.toml` with every default, `rbee config paths` says where it
lies, and `rbee config show` prints each value in force and where it came from. A flag wins over a
variable, a variable over the files, your `ui.toml` over your `config.toml`, and that over the
machine's (`rbee config init --system`).

`config.toml` is yours: once it is there rbee does not write to it. The Settings screen and
`rbee config set NAME VALUE` write `ui.toml` beside it; `rbee config unset NAME` takes a value out
again. A `ui.toml` that is broken is left out with a warning, and the screen renames it to
`ui.toml.broken`. Elsewhere a key or variable that is not known is an error that names the nearest
known one."""
VARIABLES = """\
In a variable a list is written `a,b` and a table `name=value,other=value`. `RBEE_HOME` is no
setting: it puts every folder under the one it names."""
KEYS = """\
Keys of the screen, as `"worker.stop" = "x,delete"`: an action's id from [keys.md](keys.md) in
quotes, one key or several, `"none"` for no key; in a file only. An id or a key that is not known,
and a key that would do two things on one screen, is an error that names what was meant. The
Settings screen shows all of them and takes a new key by pressing it."""
KEY_NOTES = """\
Every key of the screens, by where it works. `?` shows those of the screen that you see, `ctrl+p`
everything by name. Each can be changed: [`[keys]`](configuration.md) in the settings file, or
9 Conf, Keys."""
VIM_NOTES = """\
With `tui.vim = true` these work besides. `gg` needs no key of its own: `g` goes to the first row,
and stays there. Texts are wrapped to their panel, so `h` and `l` turn the sides of what is shown,
`0` and `$` go to its beginning and end."""


def pages() -> dict[str, str]:
    """File name → content of each page."""
    return {"cli.md": cli(), "configuration.md": configuration(), "keys.md": keys()}


def cli() -> str:
    """Every command with its arguments and flags."""
    root: Any = typer.main.get_command(app)
    out = [
        "# The command line",
        NOTE,
        STREAMS,
        _table(
            ("exit code", "means"),
            [
                ("0", "done"),
                ("1", "it failed, and the error says why"),
                ("2", "the command, a prompt or a setting is not right"),
                ("124", "something took longer than its limit"),
                ("130", "cancelled with Ctrl+C (143: by SIGTERM)"),
                ("255", "SSH or network: nobody answers, or does not let us in"),
            ],
        ),
    ]
    for names, command in _commands(root, ("rbee",)):
        out.append(f"## `{' '.join(names)}`")
        out.append(" ".join((command.help or "").split()))
        if rows := [_row(param) for param in command.params if not _general(param)]:
            out.append(_table(("argument or flag", "meaning", "default"), rows))
    return "\n\n".join(out) + "\n"


def configuration() -> str:
    """Every setting with its variable, default and meaning."""
    out = [
        "# Settings",
        NOTE,
        LAYERS,
        VARIABLES,
    ]
    for section, kind in SECTIONS.items():
        out += [f"## [{section}]", (kind.__doc__ or "").strip()]
        rows = [
            (f"`{f.key}`", f"`{toml_value(f.default)}`", f"`{f.variable}`", f.description)
            for f in fields()
            if f.section == section
        ]
        out.append(_table(("setting", "default", "variable", "meaning"), rows))
    out += [
        "## [keys]",
        KEYS,
    ]
    return "\n\n".join(out) + "\n"


def keys() -> str:
    """Every key of the registry."""
    out = ["# Keys", NOTE, KEY_NOTES]
    head = ("key", "what it does", "id")
    for scope, title in sorted(SCOPES.items(), key=lambda item: item[0] != "everywhere"):
        actions = [action for action in ACTIONS if action.scope == scope]
        if actions:
            rows = [(_keys_of(a.keys), a.help, f"`{a.id}`") for a in actions]
            out += [f"## {title}", _table(head, rows)]
    rows = [(_keys_of(text), BY_ID[id_].help, f"`{id_}`") for id_, text in VIM.items()]
    out += ["## vim", VIM_NOTES, _table(head, rows)]
    return "\n\n".join(out) + "\n"


def _keys_of(text: str) -> str:
    """`up,k` → `` `↑` `k` ``: each as people write it."""
    return " ".join(f"`{written(key)}`" for key in text.split(","))


def _commands(command: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below: dict[str, Any] = getattr(command, "commands", {})
    if not below or len(names) == 1:
        yield names, command
    for name, one in below.items():
        yield from _commands(one, (*names, name))


def _general(param: Any) -> bool:
    return bool({"--help", "--install-completion", "--show-completion"} & set(param.opts))


def _row(param: Any) -> tuple[str, str, str]:
    if param.param_type_name == "argument":
        name = param.name.upper()
        return f"`{name}`", param.help or "", "required" if param.required else ""
    spelled = ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))
    help_text = param.help or ""
    if param.multiple:
        help_text = f"{help_text} May be given several times.".strip()
    if param.required:
        return spelled, help_text, "required"
    if param.is_flag:
        return spelled, help_text, f"`{param.opts[0]}`" if param.default else ""
    return spelled, help_text, "" if param.default is None else f"`{param.default}`"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


if __name__ == "__main__":
    for name, text in pages().items():
        Path(__file__).with_name(name).write_text(text, "utf-8")
