"""Conversations on disk: one JSON file each, written whole or not at all, for their owner only.

Owns the folder, its bounds, and what becomes of a file that cannot be read: it is set aside under
another name, never deleted. Blocking: called in threads.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from rbee.errors import Conflict, Local, NotFound, PayloadTooLarge, RbeeError
from rbee.narration import printable
from rbee.paths import replace_private
from rbee.protocol.base import convert, decode, encode
from rbee.tui.talk import TITLE, About, Talk

MOST_CHATS = 1000
MOST_BYTES = 16 << 20
"""Of one conversation."""
_HEAD = 4096
_ID = re.compile(r"c-[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_HEAD_OF = b'{"about":'


@dataclass(frozen=True)
class Summary:
    """A line of the list of chats."""

    id: str
    title: str
    changed_at: float


def new_id(now: float) -> str:
    """Names a conversation and its file."""
    return f"c-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(3)}"


class Shelf:
    """A folder of conversations; it is made when the first one is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def listing(self) -> tuple[list[Summary], list[str]]:
        """All conversations, the one that was changed last first; and the names under which those
        that cannot be read were set aside. Only the beginning of a file is read."""
        found: list[Summary] = []
        aside: list[str] = []
        for path in self._paths():
            try:
                about = self._about(path)
            except RbeeError:
                aside.append(self._set_aside(path))
            except OSError:
                continue  # gone meanwhile, or not ours to read
            else:
                title = printable(about.title)[:TITLE] or "new chat"
                found.append(Summary(path.stem, title, about.changed_at))
        return sorted(found, key=lambda one: (-one.changed_at, one.id)), aside

    def load(self, id_: str) -> Talk:
        """One conversation. Raises NotFound; Local when it was damaged and is set aside now."""
        path = self._path(id_)
        try:
            if path.stat().st_size > MOST_BYTES:
                raise PayloadTooLarge("more than a conversation has", limit=MOST_BYTES)
            return decode(path.read_bytes(), Talk)
        except FileNotFoundError as exc:
            raise NotFound(f"{path} is gone", action="Somebody has deleted this chat.") from exc
        except OSError as exc:
            raise _local(f"{path} cannot be read: {exc.strerror}", "Look at its rights.") from exc
        except RbeeError as exc:
            raise self.damaged(id_, exc.message) from exc

    def damaged(self, id_: str, why: str) -> Local:
        """Set a conversation aside; the error that says where it is."""
        name = self._set_aside(self._path(id_))
        return Local(
            f"This chat cannot be read: {why}",
            action=f"Nothing is lost: the file is {self.folder / name}",
        )

    def save(self, id_: str, talk: Talk) -> None:
        """Write a conversation, whose revision is a new one; by one thread at a time.

        Raises Conflict when somebody else has written that revision, PayloadTooLarge, and Local
        when the disk does not take it; what was there before is then still there.
        """
        path = self._path(id_)
        content = encode(talk)
        if len(content) > MOST_BYTES:
            raise PayloadTooLarge(
                f"this chat has more than the {MOST_BYTES >> 20} MiB that are kept of one",
                action="Go on in a new chat (^n); ^s writes this one as markdown.",
                limit=MOST_BYTES,
            )
        self._replace(path, content, talk.about.revision)

    def remove(self, id_: str) -> None:
        """Delete a conversation for good."""
        path = self._path(id_)
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            raise _local(
                f"{path} cannot be deleted: {exc.strerror}", "Look at its rights."
            ) from exc

    def _replace(self, path: Path, content: bytes, revision: int) -> None:
        try:
            there = self._about(path).revision
        except RbeeError:
            there = 0
            self._set_aside(path)
        except FileNotFoundError:
            there = 0
            if sum(1 for _ in self._paths()) >= MOST_CHATS:
                raise PayloadTooLarge(
                    f"{MOST_CHATS} chats are kept, this one is not",
                    action="Delete some: f4, then del.",
                    limit=MOST_CHATS,
                ) from None
        except OSError as exc:
            raise _unwritten(path, exc) from exc
        if there >= revision:
            raise Conflict(f"{path.name} was written by another rbee meanwhile")
        try:
            replace_private(path, content)
        except OSError as exc:
            raise _unwritten(path, exc) from exc

    def _paths(self) -> list[Path]:
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        stems = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        return [self._path(stem) for stem in stems if _ID.fullmatch(stem)]

    def _path(self, id_: str) -> Path:
        if _ID.fullmatch(id_) is None:
            raise NotFound(f"{id_[:80]!r} is no chat")
        return self.folder / f"{id_}.json"

    def _about(self, path: Path) -> About:
        """The first value of the file, which is written first for this."""
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if not head.startswith(_HEAD_OF):
            raise Local("it does not begin as a chat does")
        try:
            value, _ = json.JSONDecoder().raw_decode(head.decode("utf-8", "ignore"), len(_HEAD_OF))
        except ValueError as exc:
            raise Local("its beginning is cut") from exc
        return convert(value, About)

    def _set_aside(self, path: Path) -> str:
        """Give a damaged file a name that no other has."""
        for number in range(100):
            name = f"{path.name}.damaged{f'-{number}' if number else ''}"
            aside = path.with_name(name)
            if not aside.exists():
                try:
                    path.rename(aside)
                except OSError:
                    return path.name
                return name
        return path.name


def _unwritten(path: Path, exc: OSError) -> Local:
    return _local(f"{path} cannot be written: {exc.strerror}", "Free some space, or look there.")


def _local(message: str, action: str) -> Local:
    return Local(message, action=action)
