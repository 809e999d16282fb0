"""API keys on disk: made, found by what a caller presents, listed, withdrawn.

Owns `keys.json` in the data folder (mode 0600). A key is 256 random bits, so its plain SHA-256 is
kept: a slow, salted hash protects what people can guess, and would only make each request slow. The
key itself is in no file and in no log; a person is shown it once. The file has one writer at a
time: the running queen, or a command that holds her lock.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

import msgspec

from rbee.errors import Conflict, InternalError, NotFound, RbeeError, ValidationFailed
from rbee.paths import replace_private
from rbee.protocol.access import KEY_NAME, KeyInfo, MadeKey, NewKey, Scope
from rbee.protocol.base import Wire, decode, encode

PREFIX = "rbee_"
"""What every key begins with, so that it is told from what tools send that want just any key."""
OWNER_PREFIX = "rbee-owner-"
KEYS_MAX = 1000
FILE_MAX = 4 << 20
_DUMMY = "0" * 64


class Key(Wire, frozen=True, kw_only=True):
    """One key as it is kept: `digest` is the SHA-256 of the whole key, in hex."""

    name: str
    digest: str
    scopes: list[Scope]
    created_at: float
    expires_at: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def fingerprint(self) -> str:
        """How logs and lists name it."""
        return self.digest[:6]

    def info(self, now: float) -> KeyInfo:
        """What may be told of it."""
        return KeyInfo(
            name=self.name,
            fingerprint=self.fingerprint,
            scopes=self.scopes,
            created_at=self.created_at,
            expires_at=self.expires_at,
            expired=self.expired(now),
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )

    def expired(self, now: float) -> bool:
        """Whether its time is over; `now` in UTC seconds."""
        return self.expires_at is not None and now >= self.expires_at


class _File(Wire, frozen=True, kw_only=True):
    version: int = 1
    keys: list[Key] = []


class Keys:
    """All keys of one colony. Every change is on disk when the method returns."""

    def __init__(self, path: Path) -> None:
        """Raises InternalError for a file that cannot be read: no key is silently forgotten."""
        self._path = path
        self._keys = {key.digest: key for key in _read(path)}

    def __len__(self) -> int:
        return len(self._keys)

    def infos(self, now: float) -> list[KeyInfo]:
        """All, by name."""
        return sorted((key.info(now) for key in self._keys.values()), key=lambda key: key.name)

    def usable(self, now: float) -> int:
        """How many open the door at a time in UTC seconds."""
        return sum(not key.expired(now) for key in self._keys.values())

    def find(self, presented: str) -> Key | None:
        """The key that a caller presents, expired or not.

        The table is asked for a digest, whose beginning nobody can choose, and what it has is
        compared in constant time; so the time taken tells nothing of a key.
        """
        digest = digest_of(presented)
        found = self._keys.get(digest)
        same = hmac.compare_digest(found.digest if found is not None else _DUMMY, digest)
        return found if same else None

    def named(self, name: str) -> Key:
        """Raises NotFound."""
        for key in self._keys.values():
            if key.name == name:
                return key
        raise NotFound(f"no key named {name[:48]!r}", action="`rbee key list` shows the keys.")

    def create(self, new: NewKey, now: float) -> MadeKey:
        """A new key. Raises Conflict when the name is taken or there are too many."""
        if any(key.name == new.name for key in self._keys.values()):
            raise Conflict(
                f"there is a key named {new.name} already",
                action=f"Choose another name, or renew it: rbee key rotate {new.name}",
            )
        if len(self._keys) >= KEYS_MAX:
            raise Conflict(
                f"there are {len(self._keys)} keys, {KEYS_MAX} may be",
                action="Withdraw what is not used: rbee key revoke NAME",
            )
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(
            name=new.name,
            digest=digest_of(secret),
            scopes=sorted(set(new.scopes)),
            created_at=now,
            expires_at=now + new.expires_in if new.expires_in is not None else None,
            requests_per_minute=new.requests_per_minute,
            tokens_per_minute=new.tokens_per_minute,
        )
        self._save({**self._keys, key.digest: key})
        return MadeKey(key=secret, info=key.info(now))

    def revoke(self, name: str) -> Key:
        """It opens nothing any more. Raises NotFound."""
        key = self.named(name)
        self._save({digest: one for digest, one in self._keys.items() if one is not key})
        return key

    def rotate(self, name: str, now: float) -> MadeKey:
        """A new secret for a name; the old one opens nothing any more. Raises NotFound.

        A time to live counts anew from now.
        """
        old = self.named(name)
        secret = PREFIX + secrets.token_urlsafe(32)
        left = old.expires_at - old.created_at if old.expires_at is not None else None
        key = msgspec.structs.replace(
            old,
            digest=digest_of(secret),
            created_at=now,
            expires_at=now + left if left is not None else None,
        )
        kept = {digest: one for digest, one in self._keys.items() if one is not old}
        self._save({**kept, key.digest: key})
        return MadeKey(key=secret, info=key.info(now))

    def _save(self, keys: dict[str, Key]) -> None:
        write_private(self._path, encode(_File(keys=list(keys.values()))))
        self._keys = keys


def digest_of(presented: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()


def looks_like_key(text: str) -> bool:
    """Whether it has the form of one; what tools send where no key is needed has not."""
    return text.startswith((PREFIX, OWNER_PREFIX))


def check_name(name: str) -> None:
    """Raises ValidationFailed for what no key may be called."""
    if not re.fullmatch(KEY_NAME, name):
        raise ValidationFailed(
            f"{name[:60]!r} is no name for a key: 1 to 48 letters, digits and . _ @ -",
            action="Choose a name like laptop or open-webui.",
            field="name",
            constraint=KEY_NAME,
        )


def owner_token(path: Path, *, make: bool = False) -> str | None:
    """The token by which the queen knows her owner's commands: whoever can read the file is them.

    `make`: write one unless there is a sound one of this user's. None: there is none, or it cannot
    be read.
    """
    try:
        about = path.stat()
        if about.st_mode & 0o077 or (make and about.st_uid != os.geteuid()):
            raise PermissionError
        kept = path.read_text("ascii").strip()
        if re.fullmatch(OWNER_PREFIX + r"[A-Za-z0-9_-]{43}", kept):
            return kept
    except (OSError, ValueError):
        pass
    if not make:
        return None
    fresh = f"{OWNER_PREFIX}{secrets.token_urlsafe(32)}"
    write_private(path, fresh.encode())
    return fresh


def write_private(path: Path, data: bytes) -> None:
    """`replace_private`. Raises InternalError where it cannot be written, and its Forbidden."""
    try:
        replace_private(path, data)
    except OSError as exc:
        raise InternalError(
            f"{path} cannot be written: {exc.strerror}",
            action="Check the disk's free space and the rights of that folder.",
        ) from exc


def _read(path: Path) -> list[Key]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX + 1)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise InternalError(
            f"the keys in {path} cannot be read: {exc.strerror}",
            action="Give this user the right to read it.",
        ) from exc
    try:
        if len(data) > FILE_MAX:
            raise ValidationFailed(f"it has more than {FILE_MAX} bytes")
        return decode(data, _File).keys
    except RbeeError as exc:
        raise InternalError(
            f"the keys in {path} cannot be read: {exc.message}",
            action="Put back a copy of it, or move it away and make new keys.",
        ) from exc
