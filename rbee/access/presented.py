"""What this process shows a queen: her owner's token, or a key, and who must vouch for her.

Owns what was learned for each address while the process lives; nothing of it is written anywhere. A
token or key goes to the address that it was learned for and to no other, and the owner's token only
while this user's own queen is there: who else listens on her port once she is gone gets nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rbee.access.keys import owner_token
from rbee.access.ours import our_url

if TYPE_CHECKING:
    from rbee.paths import Paths
    from rbee.settings import Settings


@dataclass(frozen=True)
class Presented:
    """`key` for one address, where it was set, and the authority's file; empty: none. `owner` gives
    the owner's token instead, for as long as it may be shown there."""

    key: str = ""
    origin: str = ""
    ca: str = ""
    owner: Callable[[], str] | None = None

    def now(self) -> str:
        """What to show with the next request; empty: nothing."""
        return self.owner() if self.owner is not None else self.key


_NOTHING = Presented()
_known: dict[str, Presented] = {}


def for_url(url: str) -> Presented:
    """What was learned for an address."""
    return _known.get(url.rstrip("/"), _NOTHING)


def present(url: str, presented: Presented) -> None:
    """Show this to the queen at an address from now on."""
    _known[url.rstrip("/")] = presented


def learn(url: str, settings: Settings, paths: Paths) -> None:
    """What to show a queen: at `queen.url` the key that is set for her, or else, while she is
    this user's own, her owner's token."""
    wanted, address = settings.queen, url.rstrip("/")
    ca = wanted.tls_ca or str(paths.tls_dir / "ca.pem")
    if wanted.url.rstrip("/") == address and wanted.api_key:
        present(url, Presented(wanted.api_key, _origin(paths), ca))
        return

    def owner() -> str:
        return (owner_token(paths.owner_file) or "") if our_url(paths) == address else ""

    present(url, Presented("", str(paths.owner_file), ca, owner))


def _origin(paths: Paths) -> str:
    for variable in ("RBEE_API_KEY", "RBEE_QUEEN_API_KEY"):
        if os.environ.get(variable):
            return variable
    return f"queen.api_key in {paths.config_file}"


def authority(ca: str) -> str | None:
    """The file when it is there."""
    return ca if ca and Path(ca).is_file() else None
