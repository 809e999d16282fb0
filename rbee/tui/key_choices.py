"""The keys a user has chosen: which names there are, what they may be given to, what clashes.

Pure. Which actions there are is in the registry; that a screen obeys is the app's business.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from textual.binding import Binding
from textual.keys import Keys, _character_to_key  # pyright: ignore[reportPrivateUsage]

from rbee.errors import SettingsError
from rbee.tui.actions import Action
from rbee.tui.keymap import ACTIONS, BY_ID
from rbee.tui.keys.vim import VIM

NONE = "none"
"""In the place of keys: the action has none. No key is called so."""
Group = frozenset[str]
"""Ids whose keys work at the same time."""
_MODIFIED = re.compile(r"((?:ctrl|shift|alt|super|hyper|meta)\+)+(.+)")
_NAMES = frozenset(key.value for key in Keys if not key.value.startswith("<")) | frozenset(
    _character_to_key(chr(code)) for code in range(33, 127)
)


def groups_of(screens: Iterable[type]) -> list[Group]:
    """What works together on each screen: its own keys, those of its panels, and the app's."""
    everywhere = {action.id for action in ACTIONS if action.scope == "everywhere"}
    found: list[Group] = []
    for screen in screens:
        bound = {
            binding.id
            for kind in screen.__mro__
            for binding in vars(kind).get("BINDINGS", ())
            if isinstance(binding, Binding) and binding.id in BY_ID
        }
        scopes = getattr(screen, "HELP_SCOPES", ())
        panels = {action.id for action in ACTIONS if action.scope in scopes}
        found.append(frozenset({id_ for id_ in bound if id_} | panels | everywhere))
    return found


def key_names(text: str, of: str) -> str:
    """`x, delete` → `x,delete`; `none` stays. Raises SettingsError that names the nearest key."""
    if text.strip() == NONE:
        return NONE
    names = [_name(part.strip(), of) for part in text.split(",")]
    return ",".join(dict.fromkeys(names))


def check(chosen: Mapping[str, str], groups: Sequence[Group]) -> dict[str, str]:
    """The user's `[keys]`, as Textual names keys.

    Raises SettingsError for an id or a key that is not known, naming the nearest, and for a key
    that does something else on the same screen.
    """
    out: dict[str, str] = {}
    for id_, text in chosen.items():
        if id_ not in BY_ID:
            near = difflib.get_close_matches(id_, list(BY_ID), n=1, cutoff=0.0)[0]
            raise SettingsError(
                f"keys: no action is called {id_!r}; did you mean {near!r}?",
                action="docs/keys.md and the Settings screen (9) have all of them.",
            )
        out[id_] = key_names(text, id_)
    for id_ in out:
        for other, key in clashes(id_, out[id_], out, groups):
            raise SettingsError(
                f"keys: {key} is both {id_!r} and {other.id!r} ({other.help}) on the same screen",
                action=f'Choose another key for one of them, or "none" for {other.id}.',
            )
    return out


def clashes(
    id_: str, keys: str, chosen: Mapping[str, str], groups: Sequence[Group]
) -> list[tuple[Action, str]]:
    """Other actions that `keys` would do too where `id_` works, each with the key.

    Two that share a key by default do so on purpose, and are none.
    """
    mine, usual = _set(keys), _set(BY_ID[id_].keys)
    around = set[str]().union(*(group for group in groups if id_ in group), _scope(id_))
    found: list[tuple[Action, str]] = []
    for other in ACTIONS:
        if other.id == id_ or other.id not in around:
            continue
        shared = mine & _set(chosen.get(other.id, other.keys))
        shared -= usual & _set(other.keys)
        found += [(other, key) for key in sorted(shared)]
    return found


def effective(chosen: Mapping[str, str], *, vim: bool) -> dict[str, str]:
    """What differs from the registry: the chosen keys, and those that `tui.vim` adds."""
    out = dict(chosen)
    if vim:
        for id_, more in VIM.items():
            keys = out.get(id_, BY_ID[id_].keys)
            if keys != NONE:
                out[id_] = f"{keys},{more}"
    return out


def _scope(id_: str) -> set[str]:
    return {action.id for action in ACTIONS if action.scope == BY_ID[id_].scope}


def _set(keys: str) -> set[str]:
    return set() if keys == NONE else set(keys.split(","))


def _name(text: str, of: str) -> str:
    if len(text) == 1:
        return _character_to_key(text)
    last = text
    if text not in _NAMES and (found := _MODIFIED.fullmatch(text)):
        last = found[2]
    if last in _NAMES or (len(last) == 1 and last.isprintable()):
        return text
    near = difflib.get_close_matches(text, sorted(_NAMES), n=1, cutoff=0.0)[0]
    raise SettingsError(
        f"keys: {of}: there is no key {text!r}; did you mean {near!r}?",
        action='Several are written "x,delete"; "none" takes the key away.',
    )
