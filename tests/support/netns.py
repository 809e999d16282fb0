"""Hosts on this machine that have a network of their own: namespaces, joined to ours by a cable.

Each has one address, one sshd and nothing else: no way to the internet, no name server. The cable
can be cut, mended and made slow: by the kernel's netem, else by `cable.py`, where a host is made
`slowable`. What a run leaves that was killed is swept by the next one. Addresses are of
198.18.0.0/15, which is set apart for tests (RFC 2544).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
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
    """One host. `ours` and `address`: the two ends of its cable; `device`: our end's interface.
    `slowable`: whether `slow` will be asked for."""

    def __init__(self, letter: str, *, slowable: bool = False) -> None:
        self.name = f"rbee{os.getpid()}{letter}"
        self.device = self.name
        number = (os.getpid() * 32 + ord(letter) - ord("a")) % _PAIRS
        self.ours, self.address, self.broadcast = (
            str(IPv4Address(_FIRST + 4 * number + last)) for last in (1, 2, 3)
        )
        self.sshd: Sshd | None = None
        self._cable: subprocess.Popen[bytes] | None = None
        _ip("netns", "add", self.name)
        try:
            if slowable and not NETEM:
                self._lay_cable()
            else:
                _ip("link", "add", self.device, "type", "veth", "peer", "name", "cable",
                    "netns", self.name)  # fmt: skip
            _ip("address", "add", f"{self.ours}/30", "broadcast", self.broadcast,
                "dev", self.device)  # fmt: skip
            _ip("link", "set", self.device, "up")
            self.readdress(None, self.address)
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

    def readdress(self, old: str | None, new: str | None) -> None:
        """Take an address from it, and give it another, which is of the same cable."""
        if old is not None:
            self._there("address", "delete", f"{old}/30", "dev", "cable")
        if new is not None:
            brd = str(IPv4Address(int(IPv4Address(new)) | 3))
            self._there("address", "add", f"{new}/30", "broadcast", brd, "dev", "cable")

    def slow(self, ms: float) -> None:
        """What we send takes so many milliseconds more; 0: as before."""
        if self._cable is not None:
            self._told(f"{ms:g}\n".encode())
            return
        assert TC is not None
        words = ["netem", "delay", f"{ms:g}ms"] if ms else ["pfifo"]
        _run([TC, "qdisc", "replace", "dev", self.device, "root", *words])

    def close(self) -> None:
        """Everything of it is gone, whatever state it is in."""
        if self.sshd is not None:
            self.sshd.stop()
        if self._cable is not None:
            self._cable.kill()
            self._cable.communicate(timeout=20)
        _remove(self.name)

    def _lay_cable(self) -> None:
        end = f"{self.device}f"
        program = [sys.executable, "-I", str(Path(__file__).with_name("cable.py"))]
        self._cable = subprocess.Popen(
            [*program, self.device, end], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._cable.stdout is not None
        assert self._cable.stdout.readline() == b"up\n", "no interfaces can be made"
        _ip("link", "set", end, "netns", self.name, "name", "cable")

    def _told(self, line: bytes) -> None:
        assert self._cable is not None
        assert self._cable.stdin is not None
        assert self._cable.stdout is not None
        self._cable.stdin.write(line)
        self._cable.stdin.flush()
        assert self._cable.stdout.readline() == line

    def _there(self, *args: str) -> str:
        return _ip("-netns", self.name, *args)


@contextmanager
def hosts(letters: str = "a", *, slowable: bool = False) -> Iterator[list[Host]]:
    """So many hosts as letters, for the length of a block; skip where `MISSING` says something."""
    sweep()
    made: list[Host] = []
    try:
        made.extend(Host(letter, slowable=slowable) for letter in letters)
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


def _netem() -> bool:
    if MISSING or TC is None:
        return False
    host = Host("y")
    try:
        host.slow(1)
    except AssertionError:
        return False
    finally:
        host.close()
    return True


def _slow_missing() -> str:
    if MISSING or NETEM:
        return MISSING
    try:
        Host("x", slowable=True).close()
    except AssertionError as exc:
        return f"neither netem nor /dev/net/tun is there for a slow cable: {exc}"
    return ""


MISSING = _missing()
"""Why there can be no such hosts here; empty: there can."""
NETEM = _netem()
"""Whether the kernel can make any cable slow (sch_netem)."""
SLOW_MISSING = _slow_missing()
"""Why there can be no slow cables here; empty: there can, for hosts that were made `slowable`."""
