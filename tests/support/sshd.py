"""OpenSSH's own server for a test: a port of its own, own keys and config, ended with the test.

The login is the user who runs the tests, with another HOME, so that nothing of theirs is touched.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.support.home import wait_for

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING = "" if SSHD and shutil.which("ssh-keygen") else "OpenSSH's sshd is not installed"
_SFTP = next(
    (
        path
        for path in ("/usr/lib/openssh/sftp-server", "/usr/libexec/sftp-server")
        if Path(path).exists()
    ),
    "internal-sftp",
)


def keygen(path: Path, kind: str = "ed25519", *args: str) -> Path:
    """A new key pair without passphrase (`args` may give one)."""
    for old in (path, path.with_name(f"{path.name}.pub")):
        old.unlink(missing_ok=True)
    phrase = () if "-N" in args else ("-N", "")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *phrase, "-C", "test", "-f", str(path), *args],
        check=True, stdin=subprocess.DEVNULL, timeout=30,
    )  # fmt: skip
    return path


def fingerprint(path: Path) -> str:
    """What ssh-keygen says a key's fingerprint is."""
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(path)], check=True, capture_output=True, text=True, timeout=30
    )
    return shown.stdout.split()[1]


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Sshd:
    """A running server. `options` are further lines of its config; `home`: HOME of who logs in;
    `host`: the address it listens on; `prefix`: words before the command that starts it."""

    def __init__(
        self,
        folder: Path,
        *,
        authorized: Path | None = None,
        options: Sequence[str] = (),
        key_types: Sequence[str] = ("ed25519",),
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.host = host
        self.prefix = list(prefix)
        self.port = free_port()
        self.user = getpass.getuser()
        self.options = list(options)
        self.host_keys = [keygen(folder / f"host_{kind}", kind) for kind in key_types]
        if authorized is not None:
            public = authorized.with_name(f"{authorized.name}.pub").read_text("utf-8")
            (folder / "authorized_keys").write_text(public, "utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        """`user@host:port`."""
        return f"{self.user}@{self.host}:{self.port}"

    @property
    def known_line(self) -> str:
        """What belongs into a known_hosts file: one line for each host key."""
        lines = [f"[{self.host}]:{self.port} {self.public(key)}" for key in self.host_keys]
        return "\n".join(lines) + "\n"

    @staticmethod
    def public(key: Path) -> str:
        """Type and base64 of a key's public half."""
        text = key.with_name(f"{key.name}.pub").read_text("utf-8")
        return " ".join(text.split()[:2])

    @property
    def log(self) -> str:
        """What the server said."""
        return (self.folder / "sshd.log").read_text("utf-8", "replace")

    def start(self) -> None:
        """Start it and wait until it greets."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        lines = [
            f"ListenAddress {self.host}:{self.port}",
            *(f"HostKey {key}" for key in self.host_keys),
            f"PidFile {self.folder}/sshd.pid",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            f"Subsystem sftp {_SFTP}",
            f"SetEnv HOME={self.home}",
            "PermitRootLogin yes",
            "StrictModes no",
            "UseDNS no",
            "UsePAM no",
            "PrintMotd no",
            "LogLevel VERBOSE",
        ]
        config = self.folder / "sshd_config"
        # the first value of an option counts
        config.write_text("\n".join([*self.options, *lines]) + "\n", "utf-8")
        said = self.folder / "sshd.log"
        said.touch()
        self._said_before = said.stat().st_size
        assert SSHD is not None
        self._process = subprocess.Popen(
            [*self.prefix, SSHD, "-D", "-f", str(config), "-E", str(self.folder / "sshd.log")],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_for(self._greets, what=f"sshd on {self.port}")

    def _greets(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        if self.prefix:  # its network may be one that we cannot reach
            with (self.folder / "sshd.log").open("rb") as log:
                log.seek(self._said_before)
                return b"Server listening" in log.read()
        try:
            with socket.create_connection((self.host, self.port), 5) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    def children(self) -> list[psutil.Process]:
        """The server's processes for connections, and what they run."""
        assert self._process is not None
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def freeze(self, *, whole: bool = False) -> None:
        """Nothing is answered any more, and no connection is closed: a cable that was cut. `whole`:
        new connections are not answered either."""
        self._signal(whole, signal.SIGSTOP)

    def thaw(self) -> None:
        """The cable is back."""
        self._signal(True, signal.SIGCONT)

    def _signal(self, whole: bool, number: int) -> None:
        for process in (*self._own(whole), *self.children()):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.send_signal(number)

    def _own(self, wanted: bool) -> list[psutil.Process]:
        if not wanted or self._process is None or self._process.poll() is not None:
            return []
        return [psutil.Process(self._process.pid)]

    def cut(self) -> None:
        """All connections are gone at once; the server goes on."""
        for process in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with the one before it
                if "sshd" in process.name():
                    process.kill()

    def change_host_key(self) -> None:
        """As if the machine had been installed anew."""
        self.stop()
        for key in self.host_keys:
            keygen(key, key.name.removeprefix("host_"))
        self.start()

    def stop(self) -> None:
        """End it with all its connections."""
        left = self.children()
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, 10)


class Silent:
    """A server that accepts, and says nothing at all."""

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class SshUser:
    """Who logs in: a home with `.ssh`, a key, a config file that may be written."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ssh = home / ".ssh"
        self.ssh.mkdir(parents=True, mode=0o700)
        self.key = keygen(self.ssh / "id_ed25519")
        self.known_hosts = self.ssh / "known_hosts"

    def trust(self, *servers: Sshd) -> None:
        """Put the servers' host keys into known_hosts."""
        with self.known_hosts.open("a", encoding="utf-8") as file:
            file.writelines(server.known_line for server in servers)

    def configure(self, text: str) -> None:
        """Write `.ssh/config`."""
        (self.ssh / "config").write_text(text, "utf-8")

    def chain(self, *servers: Sshd) -> str:
        """A config in which each server is behind the one before; the last one is `target`."""
        names = [f"hop{number}" for number in range(len(servers) - 1)] + ["target"]
        text = ""
        for number, (name, server) in enumerate(zip(names, servers, strict=True)):
            text += f"Host {name}\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n"
            text += f" IdentityFile {self.key}\n IdentitiesOnly yes\n"
            text += f" ProxyJump {names[number - 1]}\n" if number else ""
        self.configure(text)
        return "target"
