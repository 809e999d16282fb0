"""Host keys: which are known, what a key that was shown means, and our own file of accepted keys.

Owns `known_hosts` in rbee's data folder. Reads the user's and the machine's files (plain and hashed
names, patterns, `@revoked`, `@cert-authority`) and never writes them. Nothing here switches the
check off. Blocks: for worker threads.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rbee.errors import (
    Forbidden,
    HostKeyChanged,
    HostKeyRevoked,
    HostKeyUnknown,
    RbeeError,
    ValidationFailed,
)
from rbee.paths import make_private, replace_private

if TYPE_CHECKING:
    from asyncssh import SSHKey

    from rbee.ssh.hosts import Machine

MAX_FILE_BYTES = 8 << 20


@dataclass(frozen=True)
class Entry:
    """One known key: what it is, and the line (from 1) it stands in."""

    file: Path
    line: int
    key: SSHKey


@dataclass(frozen=True)
class Trust:
    """What the files say of one machine."""

    keys: tuple[Entry, ...] = ()
    """Filed under its exact name; another key than these is a changed one."""
    nearly: tuple[Entry, ...] = ()
    """Filed under its name without the port: trusted as OpenSSH does, no reason to call one
    changed."""
    authorities: tuple[Entry, ...] = ()
    revoked: tuple[Entry, ...] = ()

    @property
    def trusted(self) -> list[SSHKey]:
        """The keys that may be shown."""
        return [entry.key for entry in (*self.keys, *self.nearly)]


@dataclass(frozen=True)
class KnownHosts:
    """The user's files, as a machine's config names them, and `own`, ours."""

    own: Path

    def files(self, machine: Machine) -> list[Path]:
        """All that count for a machine, ours first; some may not exist."""
        return [self.own, *machine.known_hosts]

    def look(self, machine: Machine) -> Trust:
        """What is known of a machine. Lines that make no sense are passed over, as ssh does."""
        exact = machine.known_as
        bare = machine.host.lower()
        found: dict[str, list[Entry]] = {"": [], "cert-authority": [], "revoked": []}
        nearly: list[Entry] = []
        for file in self.files(machine):
            for number, text in enumerate(_lines(file), 1):
                if not _may_name(text, bare, exact):
                    continue
                for marker, key in _matches(text, exact):
                    found[marker].append(Entry(file, number, key))
                if bare != exact and not machine.host_key_alias:
                    nearly += [Entry(file, number, k) for m, k in _matches(text, bare) if not m]
        return Trust(
            tuple(found[""]),
            () if found[""] else tuple(nearly),
            tuple(found["cert-authority"]),
            tuple(found["revoked"]),
        )

    def judge(self, machine: Machine, trust: Trust, key: SSHKey) -> RbeeError:
        """What it means that a machine showed this key, which was not accepted."""
        shown, kind = fingerprint(key), type_of(key)
        name = machine.known_as
        if revoked := [entry for entry in trust.revoked if entry.key == key]:
            return HostKeyRevoked(
                f"{machine} shows the host key {shown} ({kind}), which line {revoked[0].line} of "
                f"{revoked[0].file} calls revoked",
                host=name,
                fingerprint=shown,
                key_type=kind,
                file=str(revoked[0].file),
                line=revoked[0].line,
            )
        if trust.keys:
            same = [entry for entry in trust.keys if type_of(entry.key) == kind]
            old = (same or list(trust.keys))[0]
            return HostKeyChanged(
                f"{machine} shows another host key than before: {shown} ({kind}), known is "
                f"{fingerprint(old.key)} ({type_of(old.key)}) from line {old.line} of {old.file}",
                action="If the machine was installed anew, remove that line and connect again: "
                f"ssh-keygen -R '{name}' -f '{old.file}'. If not, somebody may be between.",
                host=name,
                fingerprint=shown,
                key_type=kind,
                known=fingerprint(old.key),
                known_type=type_of(old.key),
                file=str(old.file),
                line=old.line,
            )
        return HostKeyUnknown(
            f"the host key of {machine} is not known: {shown} ({kind})",
            action="Compare it on that machine: ssh-keygen -lf /etc/ssh/ssh_host_"
            f"{kind.removeprefix('ssh-').partition('-')[0]}_key.pub. Accept it if it is the same.",
            host=name,
            fingerprint=shown,
            key_type=kind,
            key=text_of(key),
        )

    def judge_authority(self, machine: Machine, trust: Trust, key: SSHKey) -> RbeeError:
        """A certificate was shown that is signed by none of the known authorities."""
        known = ", ".join(fingerprint(entry.key) for entry in trust.authorities)
        old = trust.authorities[0] if trust.authorities else None
        return HostKeyChanged(
            f"the host certificate of {machine} is signed by {fingerprint(key)}, known authorities "
            f"are {known or 'none'}",
            action="If the authority has a new key, correct its @cert-authority line.",
            host=machine.known_as,
            fingerprint=fingerprint(key),
            key_type=type_of(key),
            known=known,
            file=str(old.file) if old else None,
            line=old.line if old else None,
        )

    def pin(self, host: str, key: str) -> str:
        """Accept a key that HostKeyUnknown told of (`details.host`, `details.key`); once is enough.

        Returns its fingerprint. Raises ValidationFailed, Forbidden when the file cannot be written.
        """
        from asyncssh import KeyImportError, import_public_key

        if not host or set(host) & set(" \t\r\n,*?!|@#") or not host.isprintable():
            raise ValidationFailed(
                f"{host[:80]!r} is no host name", field="host", constraint="host or [host]:port"
            )
        try:
            parsed = import_public_key(key)
        except KeyImportError as exc:
            raise ValidationFailed(
                f"not a host key: {exc}", field="key", constraint="type and base64"
            ) from exc
        line = f"{host.lower()} {text_of(parsed)}"
        with self._locked():
            if line not in (known := _lines(self.own)):
                self._replace([*known, line])
        return fingerprint(parsed)

    def forget(self, host: str) -> int:
        """Remove a machine's keys from our own file; returns how many there were."""
        with self._locked():
            known = _lines(self.own)
            kept = [line for line in known if line.split(" ", 1)[0] != host.lower()]
            if len(kept) < len(known):
                self._replace(kept)
        return len(known) - len(kept)

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        make_private(self.own.parent)
        try:
            lock = os.open(f"{self.own}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise self._unwritable(exc) from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _replace(self, lines: Iterable[str]) -> None:
        try:
            replace_private(self.own, "".join(f"{line}\n" for line in lines).encode())
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def _unwritable(self, exc: OSError) -> Forbidden:
        return Forbidden(
            f"{self.own} cannot be written: {exc.strerror}",
            action="Give this user the right to write there, or choose a folder with RBEE_HOME.",
        )


def fingerprint(key: SSHKey) -> str:
    """`SHA256:…`, as ssh and ssh-keygen print it."""
    return key.get_fingerprint("sha256")


def type_of(key: SSHKey) -> str:
    """`ssh-ed25519`, `ssh-rsa`, …"""
    return key.get_algorithm()


def text_of(key: SSHKey) -> str:
    """Type and base64, without a comment."""
    return " ".join(key.export_public_key("openssh").decode("ascii").split()[:2])


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES).decode("utf-8", "replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise Forbidden(
            f"{file} cannot be read: {exc.strerror}",
            action="Correct the file's rights: without it no host key can be checked.",
        ) from exc


def _may_name(line: str, *names: str) -> bool:
    """Quick and generous: decoding the keys of a long file takes a second."""
    start = line.lstrip()[:4096].lower()
    if not start or start[0] == "#":
        return False
    words = start.split(None, 2)
    patterns = words[1] if start[0] == "@" and len(words) > 1 else words[0]
    return any(mark in patterns for mark in "*?|/!") or any(name in patterns for name in names)


def _matches(line: str, name: str) -> list[tuple[str, SSHKey]]:
    """(marker, key) of a line that names the host; empty for every other line."""
    from asyncssh import import_known_hosts

    try:
        keys, authorities, revoked, *_ = import_known_hosts(line).match(name, "", None)
    except ValueError:
        return []
    return [
        *(("", key) for key in keys),
        *(("cert-authority", key) for key in authorities),
        *(("revoked", key) for key in revoked),
    ]
