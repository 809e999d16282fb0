"""One search through all sources: what answers, what does not and why, what is a hive already."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rbee.discovery.finds import MAX_FINDS, greeted, place
from rbee.discovery.nearby import nearby
from rbee.protocol.machines import Nearby
from rbee.ssh.hosts import Hosts
from tests.support.sshd import Silent, Sshd, SshUser, free_port

pytestmark = pytest.mark.anyio


@contextmanager
def saying(*pieces: bytes) -> Iterator[int]:
    """A server that says this to everybody and closes; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = listening.accept()
                except OSError:
                    return
                with accepted, contextlib.suppress(OSError):
                    for piece in pieces:
                        accepted.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


async def search(known: dict[str, str] | None = None, limit: float = 8.0):
    found, notes = await nearby(Hosts(), lan=False, known=known or {}, limit=limit)
    assert all(isinstance(one, Nearby) for one in found)
    return {one.name: one for one in found}, notes


async def test_what_answers_and_what_does_not(me: SshUser, server: Sshd):
    silent = Silent()
    closed = free_port()
    with saying(b"220 mail.example ESMTP\r\n") as mail:
        me.configure(
            f"""
            Host up
                HostName 127.0.0.1
                Port {server.port}
            Host off
                HostName 127.0.0.1
                Port {closed}
            Host mute
                HostName 127.0.0.1
                Port {silent.port}
            Host mail
                HostName 127.0.0.1
                Port {mail}
            Host inner
                HostName 10.0.0.7
                ProxyJump up
            Host tunnelled
                ProxyCommand nc -X 5 %h %p
            Host wrong
                HostName no/name
            Host odd:alias
                HostName 127.0.0.1
            Host circle
                ProxyJump circle
            Host *.example pattern? !up
                User nobody
            Host *
                ConnectTimeout 5
            """
        )
        found, notes = await search()
    silent.close()
    assert list(found) == [
        "up", "off", "mute", "mail", "inner", "tunnelled", "wrong", "odd:alias", "circle",
    ]  # fmt: skip
    assert {one.source for one in found.values()} == {"ssh config"}
    assert {name: one.answers for name, one in found.items()} == {
        "up": True, "off": False, "mute": False, "mail": False,
        "inner": None, "tunnelled": None, "wrong": None, "odd:alias": None,
        "circle": None,
    }  # fmt: skip
    assert found["up"].detail == ""
    assert found["off"].detail == "connection refused"
    assert found["mute"].detail == f"no answer on port {silent.port} within 2 s"
    assert found["mail"].detail == f"something else than SSH on port {mail}"
    assert found["inner"].detail == "through up"
    assert found["tunnelled"].detail == "through the ProxyCommand of the ssh config"
    assert "which is no such name" in found["wrong"].detail
    assert "is not user@host" in found["odd:alias"].detail
    assert "in a circle" in found["circle"].detail
    assert notes == []


async def test_what_is_a_hive_already(me: SshUser, server: Sshd):
    me.configure(
        f"Host one\n HostName 127.0.0.1\n Port {server.port}\n"
        f"Host two\n HostName 127.0.0.1\n Port {free_port()}\n"
        "Host three\n HostName 127.0.0.1\n ProxyJump one\n"
    )
    known = {f"me@127.0.0.1:{server.port}": "bee", "three": "deep", "127.0.0.1:22": "here"}
    found, _ = await search(known)
    assert {name: one.added_as for name, one in found.items()} == {
        "one": "bee", "two": None, "three": "deep",
    }  # fmt: skip


async def test_a_search_without_anything_says_what_to_do(me: SshUser):
    found, notes = await search()
    assert found == {}
    (note,) = notes
    assert note == (
        f"ssh config: there is no {me.ssh / 'config'}; a machine that is not in it is added by its "
        "address: rbee hive add NAME user@address."
    )
    me.configure("Host *\n User nobody\n")
    found, notes = await search()
    assert found == {}
    assert "names no machine" in notes[0]


async def test_a_config_that_nobody_may_read(me: SshUser, monkeypatch: pytest.MonkeyPatch):
    me.configure("Host a\n")

    def refused(self: Path, *args: object, **rest: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)  # the tests' user may be one who may read anything
    found, notes = await search()
    assert found == {}
    assert "cannot be read: Permission denied. Correct the file's rights." in notes[0]


async def test_what_takes_too_long_is_told_as_not_tried(me: SshUser):
    silent = Silent()
    me.configure(f"Host mute\n HostName 127.0.0.1\n Port {silent.port}\n")
    found, notes = await search(limit=0.3)
    silent.close()
    assert found["mute"].answers is None
    assert found["mute"].detail == "not tried within 0.3 s"
    assert notes == ["Not everything could be tried within 0.3 s; search again for the rest."]


async def test_a_huge_config_is_searched_in_part(me: SshUser):
    closed = free_port()
    me.configure(
        "".join(f"Host h{n}\n HostName 127.0.0.1\n Port {closed}\n" for n in range(MAX_FINDS + 5))
    )
    found, notes = await search(limit=60.0)
    assert len(found) == MAX_FINDS
    assert all(one.answers is False for one in found.values())
    assert f"it names {MAX_FINDS + 5} machines" in notes[0]


@pytest.mark.parametrize(
    "pieces, wrong",
    [
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), ""),
        ((b"SSH-1.99-old\r\n",), ""),
        ((b"Keep out.\r\n", b"Really.\r\nSSH-2.0-x\r\n"), ""),
        ((b"SS", b"H-2.0-slow"), ""),
        ((b"SSH-1.5-ancient\r\n",), "something else than SSH on port {}"),
        ((b"not SSH-2.0-x\r\n",), "something else than SSH on port {}"),
        ((b"x" * 100_000,), "something else than SSH on port {}"),
        ((), "port {} closes at once"),
    ],
)
async def test_what_counts_as_a_greeting(pieces: tuple[bytes, ...], wrong: str):
    with saying(*pieces) as port:
        assert await greeted("127.0.0.1", port) == wrong.format(port)


async def test_a_name_without_address():
    assert await greeted("no-such-machine.invalid", 22, limit=30) == (
        "no address for no-such-machine.invalid"
    )


def test_how_a_place_is_written():
    assert place("Gaming-PC") == "gaming-pc:22"
    assert place("fd00::7", 2222) == "[fd00::7]:2222"
