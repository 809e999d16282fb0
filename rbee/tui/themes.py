"""Themes as TOML files: rbee's own and the user's go through the same door.

Owns reading and checking; registering with an app and choosing one is the app's business.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from textual.color import Color, ColorParseError
from textual.theme import Theme

from rbee.errors import SettingsError

COLORS = (
    "primary",
    "secondary",
    "accent",
    "success",
    "warning",
    "error",
    "foreground",
    "background",
    "surface",
    "panel",
)
VARIABLES = (
    "muted",
    "track",
    "border",
    "border-blurred",
    "footer-key-foreground",
    "block-cursor-background",
    "block-cursor-foreground",
)
MEND = "It is read again as soon as it is saved."
_TOP = ("name", "dark", "colors", "variables")


def parse_theme(text: str, source: str) -> Theme:
    """A theme from TOML text. Raises SettingsError that names `source` and the offending key."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{source}: not valid TOML: {exc}") from exc
    _check_keys(raw, _TOP, source, "")
    name, dark = raw.get("name"), raw.get("dark", True)
    if not isinstance(name, str) or not name:
        raise SettingsError(f"{source}: name is missing")
    if not isinstance(dark, bool):
        raise SettingsError(f"{source}: dark must be true or false")
    colors = _colors(raw.get("colors", {}), COLORS, source, "colors")
    variables = _colors(raw.get("variables", {}), VARIABLES, source, "variables")
    if missing := [key for key in COLORS if key not in colors]:
        raise SettingsError(f"{source}: colors.{missing[0]} is missing")
    fields: dict[str, Any] = dict(colors)
    return Theme(name=name, dark=dark, variables=variables, **fields)


def bundled_themes() -> list[Theme]:
    """The themes shipped with rbee, by file name."""
    folder = files("rbee.themes")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return [parse_theme((folder / name).read_text("utf-8"), name) for name in names]


def user_themes(folder: Path) -> tuple[list[Theme], list[SettingsError]]:
    """Themes of a folder, and the errors of files that are none: they never hide the others."""
    themes: list[Theme] = []
    errors: list[SettingsError] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            themes.append(parse_theme(path.read_text("utf-8"), str(path)))
        except SettingsError as exc:
            errors.append(SettingsError(exc.message, action=MEND))
        except (OSError, UnicodeDecodeError) as exc:
            errors.append(SettingsError(f"{path}: cannot be read: {exc}", action=MEND))
    return themes, errors


def variable_defaults(theme: Theme) -> dict[str, str]:
    """Values of rbee's own variables under themes that do not know them."""
    if theme.ansi:
        return {"muted": "ansi_bright_black", "track": "ansi_bright_black"}
    return (
        {"muted": "#9A9A9A", "track": "#454545"}
        if theme.dark
        else {"muted": "#5F5F5F", "track": "#C8C8C8"}
    )


def _colors(raw: Any, known: Iterable[str], source: str, table: str) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise SettingsError(f"{source}: [{table}] must be a table")
    values: dict[str, Any] = dict(raw)
    _check_keys(values, known, source, f"{table}.")
    for key, value in values.items():
        try:
            Color.parse(value if isinstance(value, str) else "")
        except ColorParseError as exc:
            raise SettingsError(f"{source}: {table}.{key}: {value!r} is not a colour") from exc
    return values


def _check_keys(raw: Mapping[str, Any], known: Iterable[str], source: str, prefix: str) -> None:
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)
            meant = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise SettingsError(f"{source}: unknown key {prefix}{key}{meant}")
