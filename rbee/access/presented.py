"""What this process shows a queen: her owner's token, or a key, and who must vouch for her.

Owns what was learned for each address while the process lives; nothing of it is written anywhere. A
token or key goes to the address that it was learned for and to no other.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rbee.access.keys import owner_token

if TYPE_CHECKING:
    from rbee.paths import Paths
    from rbee.settings import Settings


@dataclass(frozen=True)
class Presented:
    """`key` for one address, where it was set, and the authority's file; empty: none."""

    key: str = ""
    origin: str = ""
    ca: str = ""


_NOTHING = Presented()
_known: dict[str, Presented] = {}


def for_url(url: str) -> Presented:
    """What was learned for an address."""
    return _known.get(url.rstrip("/"), _NOTHING)


def present(url: str, presented: Presented) -> None:
    """Show this to the queen at an address from now on."""
    _known[url.rstrip("/")] = presented


def learn(url: str, settings: Settings, paths: Paths) -> None:
    """What to show a queen: at `queen.url` the key that is set for her, or else, and at the address
    that this user's own queen has, her owner's token."""
    wanted, ours = settings.queen, _our_url(paths)
    ca = wanted.tls_ca or str(paths.tls_dir / "ca.pem")
    if wanted.url.rstrip("/") == url.rstrip("/") and wanted.api_key:
        shown = Presented(wanted.api_key, _origin(paths), ca)
    elif ours == url.rstrip("/"):
        shown = Presented(owner_token(paths.owner_file) or "", str(paths.owner_file), ca)
    else:
        shown = Presented("", "", ca)
    present(url, shown)


def _our_url(paths: Paths) -> str | None:
    try:
        state = msgspec.json.decode(paths.state_file.read_bytes(), type=dict[str, object])
    except (OSError, msgspec.MsgspecError):
        return None
    return str(state.get("url", "")).rstrip("/")


def _origin(paths: Paths) -> str:
    for variable in ("RBEE_API_KEY", "RBEE_QUEEN_API_KEY"):
        if os.environ.get(variable):
            return variable
    return f"queen.api_key in {paths.config_file}"


def authority(ca: str) -> str | None:
    """The file when it is there."""
    return ca if ca and Path(ca).is_file() else None
