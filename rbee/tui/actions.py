"""What a key does and what a screen is called, as values. Owns their form, not which there are."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Mode:
    """One of the nine screens: its key is its number."""

    name: str
    short: str
    title: str
