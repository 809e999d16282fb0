"""Files to another machine: a broken transfer goes on, the hash is checked, the name comes last.

Owns the way of a file over a session: through `cat` there, which every machine has, even without an
sftp server or with a shell that prints things at its start. Never overwrites a file in part.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import anyio
import anyio.to_thread

from rbee.errors import ConnectionFailed, RemoteCommandFailed, ValidationFailed
from rbee.ssh.session import Session

PIECE = 1 << 18
HASH_LIMIT = 600.0
"""Seconds for a machine to hash a large file on a slow disk."""
HASH = """
hash() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum < "$1"
  elif command -v shasum >/dev/null 2>&1; then shasum -a 256 < "$1"
  elif command -v openssl >/dev/null 2>&1; then openssl dgst -sha256 -r < "$1"
  else echo none; fi | cut -d ' ' -f 1
}
"""
"""A shell function: SHA-256 of a file in hex, or `none` where nothing there can do it."""
_LOOK = (
    HASH
    + """
mkdir -p "$3" || exit 1
if [ -f "$1" ]; then echo "final $(hash "$1")"
elif [ -f "$2" ]; then echo "part $(wc -c < "$2" | tr -d ' ')"
else echo nothing; fi
"""
)
_FINISH = """
chmod "$3" "$1" && mv -f "$1" "$2"
"""


async def upload(
    session: Session,
    path: Path,
    remote: str,
    *,
    mode: int = 0o644,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> str:
    """Put a file at an absolute path there, its folder made if need be. Returns its SHA-256.

    `tell` hears bytes done and total. A file that is there with this content is left alone; what a
    broken transfer left is gone on with. Raises RemoteCommandFailed, ConnectionFailed.
    """
    target = checked(remote)
    total, digest = await anyio.to_thread.run_sync(_measure, path)
    part = f"{target}.part-{digest[:16]}"
    there = await script(session, _LOOK, target, part, str(PurePosixPath(target).parent))
    kind, _, value = there.partition(" ")
    if kind == "final" and value in (digest, "none"):
        found = value if value == digest else await _hash_of(session, target)
        if found == digest:
            tell(total, total)
            return digest
    start = int(value) if kind == "part" and value.isdigit() and int(value) <= total else 0
    for offset in (start, 0) if start else (0,):
        await _send(session, path, part, offset, lambda done: tell(done, total))
        if await _hash_of(session, part) == digest:
            await script(session, _FINISH, part, target, f"{mode:o}")
            return digest
        await script(session, 'rm -f "$1"', part)
    raise RemoteCommandFailed(
        f"{path.name} arrived damaged on {session.machine}: its hash is not {digest[:16]}…",
        action="Try again; if it happens again, that machine's disk or memory is at fault.",
    )


async def script(session: Session, text: str, *args: str, timeout: float = HASH_LIMIT) -> str:
    """Run a small sh program there; its output. Raises RemoteCommandFailed with its last words."""
    done = await session.run(["sh", "-c", text, "sh", *args], timeout=timeout)
    if done.status != 0:
        said = " / ".join(done.last_lines) or f"status {done.status}"
        raise RemoteCommandFailed(
            f"{session.machine}: {said}",
            command=" ".join(args),
            status=done.status,
            tail=done.last_lines,
        )
    return done.stdout.decode("utf-8", "replace").strip()


def checked(remote: str) -> str:
    """An absolute path without `..` and control characters. Raises ValidationFailed."""
    path = PurePosixPath(remote)
    if (
        not path.is_absolute()
        or ".." in path.parts
        or not remote.isprintable()
        or len(remote) > 900
    ):
        raise ValidationFailed(
            f"{remote[:80]!r} is no absolute path", field="path", constraint="absolute, without .."
        )
    return str(path)


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size, digest


async def _send(
    session: Session, path: Path, part: str, offset: int, tell: Callable[[int], None]
) -> None:
    program = 'umask 077; cat >> "$1"' if offset else 'umask 077; cat > "$1"'
    async with (
        await anyio.open_file(path, "rb") as file,
        session.attached(["sh", "-c", program, "sh", part]) as process,
    ):
        await file.seek(offset)
        done = offset
        while data := await file.read(PIECE):
            try:
                await process.send(data)
            except ConnectionFailed:
                if session.lost:
                    raise
                break  # it has ended, and says why
            done += len(data)
            tell(done)
        process.close_input()
        with anyio.fail_after(HASH_LIMIT):
            status = await process.wait()
        if status != 0:
            said = process.stderr.decode("utf-8", "replace").strip()[-500:]
            raise RemoteCommandFailed(
                f"{path.name} could not be written on {session.machine}: {said or status}",
                action="Free some space there, or choose another folder.",
                status=status,
                tail=said.splitlines(),
            )


async def _hash_of(session: Session, remote: str) -> str:
    """Computed there, or here from what is read back."""
    told = await script(session, HASH + 'hash "$1"', remote)
    if told != "none":
        return told
    hasher = hashlib.sha256()
    async with session.attached(["cat", remote]) as process:
        while data := await process.receive():
            hasher.update(data)
    return hasher.hexdigest()
