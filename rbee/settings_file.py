"""`ui.toml`: the settings that the screen and `rbee config set` write.

Owns that one file: read, change, write whole or not at all (0600), and set aside when it is broken.
The user's `config.toml` is never written. What a value may be is rbee.settings' business.
"""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import Any

from rbee.errors import Forbidden, SettingsError
from rbee.paths import Paths, replace_private
from rbee.settings import fields, load
from rbee.settings_layers import Field, parse, unknown_setting

NOTE = "# Written by rbee (the screen and `rbee config set`). It counts more than config.toml.\n"


def known_field(name: str) -> Field:
    """The setting `queen.port`. Raises SettingsError that names the nearest."""
    known = {field.name: field for field in fields()}
    if name not in known:
        raise unknown_setting(name, tuple(known), "rbee config")
    return known[name]


def read_file(file: Path) -> dict[str, Any]:
    """What it holds, by `section.key`; nothing when it is not there. Raises SettingsError when it
    cannot be read."""
    try:
        table = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise SettingsError(f"{file}: cannot be read: {exc}") from exc
    return {
        f"{section}.{key}": value
        for section, body in table.items()
        if isinstance(body, dict)
        for key, value in body.items()
    }


def write_value(paths: Paths, name: str, text: str | None) -> Any:
    """Set `queen.port` from text, checked as in a variable; None takes it out. Returns its value.

    Raises SettingsError for an unknown name, a bad value, one that does not go with the others, or
    a `config.toml` that is wrong; the file is then as it was.
    """
    field = known_field(name)
    value = None if text is None else parse(field, text, "rbee config set")
    before = read_file(paths.ui_file).get(name)
    write_entries(paths, {name: value})
    try:
        wrong = load(paths=paths, env={}).problem
        if wrong is not None and text is not None:
            raise wrong
    except SettingsError:
        write_entries(paths, {name: before})
        raise
    return value


def write_entries(paths: Paths, changes: dict[str, Any]) -> None:
    """Change entries by `section.key` (`keys.worker.stop` too); None takes one out.

    Raises Forbidden when the file cannot be written, SettingsError when it cannot be read.
    """
    import tomli_w  # 5 ms

    held = read_file(paths.ui_file)
    for name, value in changes.items():
        if value is None:
            held.pop(name, None)
        else:
            held[name] = value
    table: dict[str, dict[str, Any]] = {}
    for name, value in held.items():
        section, _, key = name.partition(".")
        table.setdefault(section, {})[key] = value
    file = paths.ui_file
    try:
        replace_private(file, f"{NOTE}\n{tomli_w.dumps(table)}".encode())
    except OSError as exc:
        raise Forbidden(
            f"{file} cannot be written: {exc.strerror}",
            action="Give this user the right to write there.",
            path=str(file),
        ) from exc


def set_aside(paths: Paths) -> Path:
    """Rename a broken file, so that nothing of it is lost; its new name."""
    aside = paths.ui_file.with_suffix(".toml.broken")
    with contextlib.suppress(FileNotFoundError):
        paths.ui_file.replace(aside)
    return aside
