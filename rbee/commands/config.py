"""`rbee config show|paths|init`."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

from rbee.errors import Conflict, Forbidden
from rbee.output import print_json, print_table
from rbee.paths import Paths
from rbee.settings import default_toml, fields, load, toml_value
from rbee.settings_layers import SECRET


def show(*, as_json: bool) -> int:
    """Every setting with its origin."""
    loaded = load(paths=Paths.user())
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


def paths(*, system: bool, as_json: bool) -> int:
    """Folders and files."""
    where = Paths.system() if system else Paths.user()
    known = {
        field.name: str(getattr(where, field.name))
        for field in dataclasses.fields(where)
        if getattr(where, field.name) is not None
    }
    for name in ("config_file", "themes_dir", "database", "models_dir", "queen_log", "state_file"):
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
