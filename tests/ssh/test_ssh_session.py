"""Connections to real servers: tries, refusals, commands, bounds, sessions, cuts."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from rbee.errors import (
    ConnectionFailed,
    ConnectionTimeout,
    LoginRefused,
    PayloadTooLarge,
    TimedOut,
    ValidationFailed,
)
from rbee.ssh.hosts import Hosts, Machine
from rbee.ssh.known import KnownHosts
from rbee.ssh.limits import Limits
from rbee.ssh.session import Session, connect, opened, quoted
from tests.support.home import wait_for
from tests.support.sshd import Silent, Sshd, SshUser, free_port, keygen

pytestmark = pytest.mark.anyio
QUICK = Limits(pause=0.01)


def machine(server: Sshd) -> Machine:
    return Hosts().find(server.address)


async def gone(server: Sshd, name: str) -> None:
    def none_left() -> bool:
        return not any(child.name() == name for child in server.children())

    await anyio.to_thread.run_sync(wait_for, none_left)


@pytest.fixture
async def session(server: Sshd, known: KnownHosts) -> AsyncIterator[Session]:
    async with opened(machine(server), known, QUICK) as session:
        yield session


async def test_a_command_gives_its_status_and_output(session: Session):
    done = await session.run(["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert done.last_lines == ["out", "err"]
    assert session.attempts == 1
    assert (await session.run(["/nonexistent"])).status == 127
    assert (await session.run(["sh", "-c", "kill -TERM $$"])).status == -15


@pytest.mark.parametrize(
    "words",
    [
        ["$HOME", "`id`", "$(id)", "a b", "", "*", "~", "'", '"', "\\", "-n", "a\nb", "ü"],
        [";exit 3", "\\n", "!!", "#", "&", "|", ">", "{a,b}", "%s", "\t", "'\"'\"'"],
    ],
)  # fmt: skip
async def test_every_word_arrives_as_it_is(session: Session, words: list[str]):
    program = 'for word in "$@"; do printf "%s\\0" "$word"; done'
    done = await session.run(["sh", "-c", program, "sh", *words])
    assert done.stdout.decode().split("\0")[:-1] == words
    assert done.status == 0


@pytest.mark.parametrize("argv", [[], [""], ["a\0b"], ["echo", "\0"], ["PATH=/tmp"]])
def test_what_is_no_command_is_refused(argv: list[str]):
    with pytest.raises(ValidationFailed):
        quoted(argv)


async def test_input_reaches_the_command_whole(session: Session):
    data = bytes(range(256)) * 8192
    done = await session.run(["cat"], stdin=data, limit=len(data))
    assert done.stdout == data
    assert (await session.run(["true"], stdin=data)).status == 0, "it need not be read"


@pytest.mark.parametrize("program", ["exec yes", "exec yes >&2"])
async def test_too_much_output_ends_the_command(session: Session, server: Sshd, program: str):
    with pytest.raises(PayloadTooLarge) as caught:
        await session.run(["sh", "-c", program], limit=100_000)
    assert caught.value.details["limit"] == 100_000
    assert not session.lost
    await gone(server, "yes")


async def test_of_long_output_the_end_can_be_kept(session: Session):
    done = await session.run(["seq", "1", "200000"], limit=1000, tail=True)
    assert len(done.stdout) == 1000
    assert done.stdout.endswith(b"199999\n200000\n")
    assert done.last_lines[-1] == "200000"


async def test_a_command_that_does_not_end_is_ended(session: Session, server: Sshd):
    with pytest.raises(TimedOut, match=r"did not end within 0\.2 s"):
        await session.run(["sleep", "1000"], timeout=0.2)
    assert (await session.run(["echo", "still here"])).stdout == b"still here\n"
    await gone(server, "sleep")


async def test_a_command_given_up_before_it_began_is_ended(
    start_sshd: Callable[..., Sshd], known: KnownHosts
):
    server = start_sshd(options=['ForceCommand sleep 1; eval "$SSH_ORIGINAL_COMMAND"'])
    async with opened(machine(server), known) as session:
        with pytest.raises(TimedOut):
            await session.run(["sleep", "1000"], timeout=0.2)
        await gone(server, "sleep")


@pytest.mark.parametrize("shell", ["bash", "dash"])
async def test_what_a_login_shell_prints_is_no_output(
    start_sshd: Callable[..., Sshd], known: KnownHosts, shell: str
):
    noisy = f'echo hello; echo oops >&2; {shell} -c "$SSH_ORIGINAL_COMMAND"'
    server = start_sshd(options=[f"ForceCommand {noisy}"])
    async with opened(machine(server), known) as session:
        done = await session.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
        with pytest.raises(TimedOut):
            await session.run(["sleep", "1000"], timeout=0.5)
        await gone(server, "sleep")


async def test_latency_is_measured(session: Session):
    assert 0 < await session.latency() < 10


async def test_an_attached_command_lives_as_long_as_its_input(session: Session, tmp_path: Path):
    ended = tmp_path / "ended"
    program = f"echo ready; while read line; do echo got $line; done; touch '{ended}'"
    async with session.attached(["sh", "-c", program]) as process:
        assert await process.read_line() == b"ready\n"
        await process.send(b"one\ntwo\n")
        assert await process.read_line() == b"got one\n"
        assert await process.read_line() == b"got two\n"
        assert not ended.exists()
    assert ended.exists(), "it was given time to end by itself"


async def test_an_attached_command_reads_the_end_when_the_link_is_cut(
    session: Session, server: Sshd, tmp_path: Path
):
    ended = tmp_path / "ended"
    program = f"trap '' HUP; echo ready; while read line; do :; done; touch '{ended}'"
    async with session.attached(["sh", "-c", program]) as process:
        assert await process.read_line() == b"ready\n"
        server.cut()
        with pytest.raises(ConnectionFailed, match="is lost"):
            await process.wait()
    await anyio.to_thread.run_sync(wait_for, ended.exists)


async def test_a_line_without_end_is_bounded(session: Session):
    async with session.attached(["yes", "x" * 100], grace=0.0) as process:
        assert await process.read_line(1000) == b"x" * 100 + b"\n"
    async with session.attached(["sh", "-c", "tr '\\n' x < /dev/zero"], grace=0.0) as process:
        with pytest.raises(PayloadTooLarge):
            await process.read_line(1000)


async def test_words_of_stderr_are_kept(session: Session):
    async with session.attached(["sh", "-c", "echo oops >&2; exit 3"]) as process:
        assert await process.wait() == 3
        assert await process.read_line() == b""
        assert process.stderr == b"oops\n"


async def test_a_cut_link_is_noticed_at_once(session: Session, server: Sshd):
    server.cut()
    with anyio.fail_after(20):
        assert await session.wait_lost()
    assert session.lost
    with pytest.raises(ConnectionFailed, match="is lost"):
        await session.run(["true"])
    with pytest.raises(ConnectionFailed, match="is lost"):
        await session.latency()


async def test_a_silent_link_is_noticed_by_the_keepalive(server: Sshd, known: KnownHosts):
    limits = Limits(keepalive=0.2, keepalive_count=3)
    async with opened(machine(server), known, limits) as session:
        await anyio.sleep(1.5)  # twice what would end a silent one
        assert not session.lost, "a link that is idle is kept"
        server.freeze()
        with anyio.fail_after(20):
            assert await session.wait_lost() == "no answer any more"
        with pytest.raises(ConnectionFailed, match="no answer any more"):
            await session.run(["true"])


async def test_few_sessions_are_shared(start_sshd: Callable[..., Sshd], known: KnownHosts):
    server = start_sshd(options=["MaxSessions 2"])
    found: list[bytes] = []
    async with opened(machine(server), known) as session, anyio.create_task_group() as tasks:

        async def ask(number: int) -> None:
            done = await session.run(["sh", "-c", f"sleep 0.05; echo {number}"])
            found.append(done.stdout)

        for number in range(6):
            tasks.start_soon(ask, number)
    assert sorted(found) == [b"%d\n" % number for number in range(6)]


async def test_no_free_session_is_told(start_sshd: Callable[..., Sshd], known: KnownHosts):
    server = start_sshd(options=["MaxSessions 2"])
    limits = Limits(sessions=0.2)
    async with (
        opened(machine(server), known, limits) as session,
        session.attached(["cat"]),
        session.attached(["cat"]),
    ):
        with pytest.raises(ConnectionFailed, match="no more than 2 sessions") as caught:
            await session.run(["true"])
        assert "MaxSessions" in caught.value.action


async def test_a_session_that_was_given_up_before_the_server_answered_is_free_again(
    start_sshd: Callable[..., Sshd], known: KnownHosts
):
    server = start_sshd(options=["MaxSessions 2"])
    async with opened(machine(server), known) as session:

        async def give_up() -> None:
            with pytest.raises(TimedOut):
                await session.run(["sleep", "1000"], timeout=0.2)

        server.freeze()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up)
            await anyio.sleep(0.5)  # it is the server's answer that comes too late
            server.thaw()
        await gone(server, "sleep")
        async with session.attached(["cat"]):
            assert (await session.run(["echo", "free"])).stdout == b"free\n"


async def test_a_server_that_runs_no_command_is_told(
    start_sshd: Callable[..., Sshd], known: KnownHosts
):
    server = start_sshd(options=["MaxSessions 0"])
    async with opened(machine(server), known) as session:
        with pytest.raises(ConnectionFailed, match="refuses to run a command"):
            await session.run(["true"])


async def test_many_log_in_where_few_may_at_once(
    start_sshd: Callable[..., Sshd], known: KnownHosts
):
    server = start_sshd(options=["MaxStartups 3"])
    sessions: list[Session] = []
    async with anyio.create_task_group() as tasks:

        async def enter() -> None:
            sessions.append(await connect(machine(server), known))

        for _ in range(8):
            tasks.start_soon(enter)
    assert len(sessions) == 8
    for session in sessions:
        assert (await session.run(["echo", "in"])).stdout == b"in\n"
        await session.aclose()


async def test_a_wrong_key_is_refused_at_once(
    start_sshd: Callable[..., Sshd], known: KnownHosts, tmp_path: Path
):
    server = start_sshd(authorized=keygen(tmp_path / "other"))
    with pytest.raises(LoginRefused) as caught:
        await connect(machine(server), known, QUICK)
    error = caught.value
    assert error.exit_code == 255
    assert "ssh-copy-id" in error.action
    assert error.details["attempts"] == 1
    assert "publickey" in error.details["methods"]


async def test_a_server_that_takes_passwords_only_is_explained(
    start_sshd: Callable[..., Sshd], known: KnownHosts
):
    server = start_sshd(
        options=["PubkeyAuthentication no", "PasswordAuthentication yes"], authorized=None
    )
    with pytest.raises(LoginRefused, match="takes passwords only") as caught:
        await connect(machine(server), known, QUICK)
    assert set(caught.value.details["methods"]) <= {"password", "keyboard-interactive"}
    assert "PubkeyAuthentication yes" in caught.value.action
    assert caught.value.exit_code == 255


async def test_a_closed_port_is_tried_three_times(me: SshUser, known: KnownHosts):
    with pytest.raises(ConnectionFailed, match="after 3 tries") as caught:
        await connect(Hosts().find(f"127.0.0.1:{free_port()}"), known, QUICK)
    error = caught.value
    assert error.exit_code == 255
    assert error.details["attempts"] == 3
    assert len(error.details["reasons"]) == 3
    assert "refused" in error.message


async def test_a_silent_server_is_given_up_on(me: SshUser, known: KnownHosts):
    silent = Silent()
    limits = Limits(connect=0.3, tries=2, pause=0.01)
    with pytest.raises(ConnectionTimeout, match="after 2 tries") as caught:
        await connect(Hosts().find(f"127.0.0.1:{silent.port}"), known, limits)
    silent.close()
    assert caught.value.exit_code == 255
    assert caught.value.details["attempts"] == 2


async def test_what_is_no_ssh_server_is_told(me: SshUser, known: KnownHosts):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 2000)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, answer)
            with pytest.raises(ConnectionFailed):
                await connect(Hosts().find(f"127.0.0.1:{port}"), known, Limits(tries=1))


async def test_a_name_that_does_not_resolve_is_told(me: SshUser, known: KnownHosts):
    with pytest.raises(ConnectionFailed, match="no-such-host"):
        await connect(Hosts().find("no-such-host.invalid"), known, Limits(tries=1))


async def test_a_second_try_may_go_well(start_sshd: Callable[..., Sshd], known: KnownHosts):
    server = start_sshd()
    server.stop()
    async with anyio.create_task_group() as tasks:
        sessions: list[Session] = []
        again = anyio.Event()
        limits = Limits(tries=9, pause=0.02)

        def tell(attempt: int, _tries: int) -> None:
            if attempt > 1:
                again.set()

        async def enter() -> None:
            sessions.append(await connect(machine(server), known, limits, tell=tell))

        tasks.start_soon(enter)
        with anyio.fail_after(20):
            await again.wait()
        await anyio.to_thread.run_sync(server.start)
    assert sessions[0].attempts > 1
    await sessions[0].aclose()


@pytest.mark.parametrize(
    ("config", "offered", "used"),
    [
        ("", "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com", "aes128-gcm@openssh.com"),
        ("", "chacha20-poly1305@openssh.com", "chacha20-poly1305@openssh.com"),
        ("Ciphers aes128-ctr\n", "aes128-gcm@openssh.com,aes128-ctr", "aes128-ctr"),
    ],
)
async def test_the_cipher_is_the_cheapest_here_unless_the_user_chose_one(
    me: SshUser,
    start_sshd: Callable[..., Sshd],
    known: KnownHosts,
    config: str,
    offered: str,
    used: str,
):
    server = start_sshd(options=[f"Ciphers {offered}"])
    me.configure(config)
    async with opened(machine(server), known, QUICK) as session:
        assert session.connection.get_extra_info("send_cipher") == used
        assert (await session.run(["echo", "x" * 50_000])).stdout == b"x" * 50_000 + b"\n"
