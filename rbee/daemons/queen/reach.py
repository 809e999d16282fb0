"""Which models a caller may name. Owns one rule: who may ask models, and no more, asks those there
are.

A path that no hive lists and no admin has used would tell what files the owner has, and read them;
a model of the hub would be fetched to her disk with her account: both need an admin, as importing
and downloading do. Outside of a request the queen asks herself, who may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee.daemons.queen.callers import present
from rbee.daemons.queen.scopes import Need, may, refusal
from rbee.errors import RbeeError

if TYPE_CHECKING:
    from rbee.core.fleet import Fleet

FILE = "file:"


def check_named(text: str, fleet: Fleet) -> None:
    """Raises Forbidden or MissingApiKey for a file that is not known here as a model."""
    if not text.startswith(FILE) or _allowed():
        return
    path = text.removeprefix(FILE)
    if not any(text in (m.id, m.ref) or path == m.path for m, _, _ in fleet.held_models()):
        raise _refused(f"the file {path[:200]!r}, which is no model of this colony yet,", "import")


def check_fetched(text: str) -> None:
    """Raises Forbidden or MissingApiKey: it would be fetched from the hub first."""
    if not _allowed():
        raise _refused(f"fetching {text[:200]}, which no hive has yet,", "download")


def _allowed() -> bool:
    caller = present.get()
    return caller is None or may(caller, Need.ADMIN)


def _refused(what: str, verb: str) -> RbeeError:
    caller = present.get()
    assert caller is not None
    error = refusal(caller, what)
    error.details["suggested_action"] = (
        f"Where the queen runs: rbee model {verb}; then anybody who may ask models may ask it."
        f" {error.action}"
    )
    return error
