"""Hosts on this machine that have a network of their own: namespaces, joined to ours by a cable.

Each has one address, one sshd and nothing else: no way to the internet, no name server. The cable
can be cut, mended and made slow. What a run leaves that was killed is swept by the next one.
Addresses are of 198.18.0.0/15, which is set apart for tests (RFC 2544).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import psutil

from tests.support import sshd
from tests.support.sshd import Sshd

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
IP = shutil.which("ip", path=_PATH)
TC = shutil.which("tc", path=_PATH)
_OURS = re.compile(r"rbee([0-9]+)([a-z])")
_FIRST = int(IPv4Address("198.18.0.0"))
_PAIRS = 1 << 15
"""Networks of four addresses in that range."""


class Host:
    """One host. `ours` and `address`: the two ends of its cable; `device`: our end's interface."""

    def __init__(self, letter: str) -> None:
        self.name = f"rbee{os.getpid()}{letter}"
        self.device = self.name
        number = (os.getpid() * 4 + ord(letter) - ord("a")) % _PAIRS
        self.ours, self.address, self.broadcast = (
            str(IPv4Address(_FIRST + 4 * number + last)) for last in (1, 2, 3)
        )
        self.sshd: Sshd | None = None
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self.device, "type", "veth", "peer", "name", "cable",
                "netns", self.name)  # fmt: skip
            brd = ("broadcast", self.broadcast)
            _ip("address", "add", f"{self.ours}/30", *brd, "dev", self.device)
            _ip("link", "set", self.device, "up")
            self._there("address", "add", f"{self.address}/30", *brd, "dev", "cable")
            self._there("link", "set", "cable", "up")
            self._there("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    @property
    def prefix(self) -> list[str]:
        """Words before a command that is to run there."""
        assert IP is not None
        return [IP, "netns", "exec", self.name]

    @property
    def mac(self) -> str:
        """Of its network card."""
        shown = self._there("-json", "link", "show", "dev", "cable")
        return json.loads(shown)[0]["address"]

    def serve(self, folder: Path, **options: Any) -> Sshd:
        """Start its sshd, which lasts as long as the host."""
        self.sshd = Sshd(folder, host=self.address, prefix=self.prefix, **options)
        return self.sshd

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Run a program there. It ends with the host."""
        return subprocess.Popen([*self.prefix, *argv], **options)

    def cut(self) -> None:
        """Pull the cable at its end: nothing arrives any more, and nobody is told."""
        self._there("link", "set", "cable", "down")

    def mend(self) -> None:
        """Put it back."""
        self._there("link", "set", "cable", "up")

    def slow(self, ms: float) -> None:
        """What we send takes so many milliseconds more; 0: as before."""
        assert TC is not None
        words = ["netem", "delay", f"{ms:g}ms"] if ms else ["pfifo"]
        _run([TC, "qdisc", "replace", "dev", self.device, "root", *words])

    def close(self) -> None:
        """Everything of it is gone, whatever state it is in."""
        if self.sshd is not None:
            self.sshd.stop()
        _remove(self.name)

    def _there(self, *args: str) -> str:
        return _ip("-netns", self.name, *args)


@contextmanager
def hosts(letters: str = "a") -> Iterator[list[Host]]:
    """So many hosts as letters, for the length of a block; skip where `MISSING` says something."""
    sweep()
    made: list[Host] = []
    try:
        made.extend(map(Host, letters))
        yield made
    finally:
        for host in made:
            host.close()


def sweep() -> None:
    """Remove what runs left that do not live any more."""
    listed = json.loads(_ip("-json", "netns", "list") or "[]")
    links = json.loads(_ip("-json", "link", "show"))
    names = {entry["name"] for entry in listed} | {entry["ifname"] for entry in links}
    for name in names:
        match = _OURS.fullmatch(name)
        if match and not psutil.pid_exists(int(match[1])):
            _remove(name)


def _remove(name: str) -> None:
    """A host's programs, its namespace and its cable; a part that is not there is no error."""
    assert IP is not None
    found = subprocess.run([IP, "netns", "pids", name], capture_output=True, text=True, timeout=30)
    for pid in found.stdout.split():
        try:
            psutil.Process(int(pid)).kill()
        except psutil.NoSuchProcess:
            continue
    # the cable first: a namespace lives on as long as a program of it does
    for words in (["link", "delete", name], ["netns", "delete", name]):
        subprocess.run([IP, *words], capture_output=True, timeout=30, check=False)


def _ip(*args: str) -> str:
    assert IP is not None
    return _run([IP, *args])


def _run(argv: list[str]) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr.strip()}"
    return done.stdout


def _missing() -> str:
    if sshd.MISSING:
        return sshd.MISSING
    if os.geteuid() != 0:
        return "hosts with networks of their own need root"
    if IP is None:
        return "hosts with networks of their own need iproute2 (ip)"
    try:
        sweep()
        Host("z").close()
    except AssertionError as exc:
        return f"hosts with networks of their own cannot be made here: {exc}"
    return ""


def _slow_missing() -> str:
    if MISSING:
        return MISSING
    if TC is None:
        return "a slow cable needs iproute2 (tc)"
    host = Host("y")
    try:
        host.slow(1)
    except AssertionError as exc:
        return f"a slow cable cannot be made here: {exc}"
    finally:
        host.close()
    return ""


MISSING = _missing()
"""Why there can be no such hosts here; empty: there can."""
SLOW_MISSING = _slow_missing()
"""Why their cables cannot be made slow; empty: they can."""
