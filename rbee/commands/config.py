"""`rbee config show|get|set|unset|paths|init`."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

from rbee.commands.common import read_settings
from rbee.errors import Conflict, Forbidden
from rbee.output import print_json, print_table
from rbee.paths import Paths
from rbee.settings import fields, load
from rbee.settings_file import known_field, write_value
from rbee.settings_layers import SECRET
from rbee.settings_text import default_toml, toml_value


def show(*, as_json: bool) -> int:
    """Every setting with its origin."""
    loaded = read_settings(Paths.user())
    values: dict[str, Any] = {
        field.name: getattr(getattr(loaded.settings, field.section), field.key)
        for field in fields()
    }
    values |= {name: "(hidden)" for name in SECRET if values[name]}
    values |= {f"keys.{action}": key for action, key in loaded.settings.keys.items()}
    if as_json:
        shown = {
            name: {"value": value, "origin": loaded.origins[name]} for name, value in values.items()
        }
        print_json({"settings": shown})
        return 0
    rows = [[name, toml_value(value), loaded.origins[name]] for name, value in values.items()]
    print_table(["setting", "value", "from"], rows, empty="")
    return 0


def get(name: str, *, as_json: bool) -> int:
    """One setting's value. Raises SettingsError for an unknown name."""
    loaded, field = read_settings(Paths.user()), known_field(name)
    value: Any = getattr(getattr(loaded.settings, field.section), field.key)
    if name in SECRET and value:
        value = "(hidden)"
    if as_json:
        print_json({"name": name, "value": value, "origin": loaded.origins[name]})
    else:
        sys.stdout.write(f"{value if isinstance(value, str) else toml_value(value)}\n")
    return 0


def put(name: str, text: str | None, *, as_json: bool) -> int:
    """Set one in `ui.toml`, or take it out of there. Raises SettingsError for what cannot be."""
    where = Paths.user()
    read_settings(where)
    write_value(where, name, text)
    loaded = load(paths=where)
    origin = loaded.origins[name]
    if as_json:
        print_json({"name": name, "origin": origin, "written": str(where.ui_file)})
        return 0
    did = "out of" if text is None else "in"
    sys.stderr.write(f"rbee: {name} is now {did} {where.ui_file}\n")
    if text is not None and not origin.startswith(str(where.ui_file)):
        sys.stderr.write(f"rbee: {origin} comes before it, so this value does not count\n")
    if text is None and origin != "default":
        sys.stderr.write(f"rbee: its value comes from {origin}\n")
    if not name.startswith("tui."):
        sys.stderr.write("rbee: a queen that runs takes it over when she is started anew\n")
    return 0


def paths(*, system: bool, as_json: bool) -> int:
    """Folders and files."""
    where = Paths.system() if system else Paths.user()
    known = {
        field.name: str(getattr(where, field.name))
        for field in dataclasses.fields(where)
        if getattr(where, field.name) is not None
    }
    for name in (
        "config_file",
        "ui_file",
        "themes_dir",
        "database",
        "models_dir",
        "queen_log",
        "state_file",
    ):
        known[name] = str(getattr(where, name))
    if as_json:
        print_json(known)
    else:
        print_table(["what", "where"], [[k, v] for k, v in known.items()], empty="")
    return 0


def init(*, system: bool, as_json: bool) -> int:
    """Write the settings file. Raises Conflict when it is there, Forbidden without rights."""
    where = Paths.system() if system else Paths.user()
    file = where.config_file
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        file.parent.mkdir(mode=0o755 if system else 0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, flags, 0o644 if system else 0o600), "w") as out:
            out.write(default_toml())
    except FileExistsError as exc:
        raise Conflict(f"{file} is already there", action="Edit it, or move it away.") from exc
    except PermissionError as exc:
        raise Forbidden(
            f"{file} cannot be written: {exc.strerror}",
            action="Run this as root, or leave --system out for your own settings."
            if system
            else "Give this user the right to write there.",
        ) from exc
    if as_json:
        print_json({"written": str(file)})
    else:
        sys.stderr.write(f"rbee: wrote {file}\n")
    return 0
