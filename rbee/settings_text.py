"""Settings as TOML text: one value, and a whole file of defaults. Pure; writes no file."""

from __future__ import annotations

from typing import Any

import msgspec

from rbee.settings import SECTIONS, fields


def default_toml() -> str:
    """A settings file with every default, commented out, and what each means."""
    out = [
        "# Settings of rbee. A setting behind a # shows its default; take the # away to change it.",
        "# A flag on the command line and a variable RBEE_<SECTION>_<KEY> come before this file.",
    ]
    section = ""
    for field in fields():
        if field.section != section:
            section = field.section
            doc = (SECTIONS[section].__doc__ or "").strip()
            out += ["", f"# {doc}", f"[{section}]"]
        out.append(f"# {field.description}")
        if isinstance(field.default, dict):
            out.append(f"# [{field.name}]")
        else:
            out.append(f"# {field.key} = {toml_value(field.default)}")
    out += ["", '# Keys of the screen: action = "key".', "[keys]"]
    return "\n".join(out) + "\n"


def toml_value(value: Any) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_value(k)} = {toml_value(v)}" for k, v in value.items()) + "}"
    return repr(value)
