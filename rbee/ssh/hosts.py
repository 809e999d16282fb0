"""Which machine a word means: `user@host[:port]` or a Host alias, by the user's own ssh config.

Owns the reading of `~/.ssh/config` (through asyncssh's parser: Host, Match, Include, tokens) and
the chain of jumps before a machine. Never connects, never reads a key. Blocks: for worker threads,
because `Match exec` runs a command.
"""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbee.errors import SettingsError, ValidationFailed

if TYPE_CHECKING:
    from asyncssh.config import SSHClientConfig

MAX_JUMPS = 8
MAX_CONFIG_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_.:%-]{1,255}")
"""Host names, aliases, IPv4 and IPv6 addresses with a zone."""
_USER = re.compile(r"[A-Za-z0-9_.$\\@+-]{1,128}")
_WILD = frozenset("*?!,")


@dataclass(frozen=True)
class Target:
    """What was asked for, checked: nothing in it can be taken for an option or a second line."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host and self.port else self.host
        return f"{user}{host}{f':{self.port}' if self.port else ''}"


@dataclass(frozen=True)
class Machine:
    """A target after the config: where to connect, as whom, through whom."""

    target: Target
    host: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    """Those of the config that are there; none: ssh's usual ones."""
    identities_only: bool = False
    host_key_alias: str | None = None
    host_key_algorithms: bool = False
    """Whether the config chooses them."""
    ciphers: bool = False
    """The same for these."""
    known_hosts: tuple[Path, ...] = ()
    jumps: tuple[Machine, ...] = ()
    """Connected to one through the other, in this order, before the machine itself."""
    proxy_command: tuple[str, ...] = ()
    config: Path | None = None
    """The file that was read; None where there is none."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"

    @property
    def known_as(self) -> str:
        """The name its host key is filed under, as in known_hosts: `host`, `[host]:port`, alias."""
        if self.host_key_alias:
            return self.host_key_alias.lower()
        host = self.host.lower()
        return host if self.port == 22 else f"[{host}]:{self.port}"


@dataclass
class Hosts:
    """One user's ssh config. `home`: where `.ssh` lies."""

    home: Path = field(default_factory=Path.home)
    config: Path | None = None
    """Another file than `.ssh/config`."""

    @property
    def config_file(self) -> Path | None:
        """The file that is read, None where there is none."""
        path = self.config or self.home / ".ssh" / "config"
        return path if path.is_file() else None

    def find(self, text: str) -> Machine:
        """The machine that `user@host[:port]` or an alias means.

        Raises ValidationFailed for a bad string, SettingsError for a config that cannot be read
        or whose jumps lead in a circle.
        """
        return self._machine(parse(text), ())

    def names(self) -> list[str]:
        """The Host aliases of the config without wildcards, in its order, each once."""
        found: dict[str, None] = {}
        if (path := self.config_file) is not None:
            self._gather(path, found, 0)
        return list(found)

    def _gather(self, path: Path, found: dict[str, None], depth: int) -> None:
        for line in _text_of(path).splitlines():
            try:
                words = shlex.split(line.replace("=", " ", 1), comments=True)
            except ValueError:
                continue
            keyword = words[0].lower() if words else ""
            if keyword == "host":
                found |= dict.fromkeys(w for w in words[1:] if _is_plain(w))
            elif keyword == "include" and depth < MAX_JUMPS:
                for pattern in words[1:]:
                    for included in _included(pattern, self.home):
                        self._gather(included, found, depth + 1)

    def _machine(self, target: Target, on_the_way: Sequence[str]) -> Machine:
        if target.host.lower() in on_the_way or len(on_the_way) > MAX_JUMPS:
            way = " → ".join([*on_the_way, target.host])
            raise SettingsError(
                f"{self.config_file}: ProxyJump leads in a circle or through more than "
                f"{MAX_JUMPS} machines: {way}",
                action="Correct ProxyJump in that file.",
            )
        path = self.config_file
        options = _read(target, path)
        host = str(options.get("Hostname") or target.host)
        user = str(options.get("User") or getpass.getuser())
        port = int(options.get("Port", 22))
        for name, value, pattern in (("HostName", host, _NAME), ("User", user, _USER)):
            if not pattern.fullmatch(value) or value.startswith("-"):
                raise SettingsError(
                    f"{path}: {name} for {target.host} is {value[:80]!r}, which is no such name",
                    action=f"Correct {name} in that file.",
                )
        if not 0 < port < 65536:
            raise SettingsError(
                f"{path}: Port for {target.host} is {port}, not 1 to 65535",
                action="Correct Port in that file.",
            )
        files = (Path(str(name)).expanduser() for name in options.get("IdentityFile") or ())
        jump: str | None = options.get("ProxyJump")
        here = (*on_the_way, target.host.lower())
        return Machine(
            target=target,
            host=host,
            port=port,
            user=user,
            identity_files=tuple(file for file in files if file.is_file()),
            identities_only=bool(options.get("IdentitiesOnly")),
            host_key_alias=options.get("HostKeyAlias"),
            host_key_algorithms=bool(options.get("HostKeyAlgorithms")),
            ciphers=bool(options.get("Ciphers")),
            known_hosts=self._known_hosts(options),
            jumps=self._jumps(jump, here),
            proxy_command=() if jump else tuple(shlex.split(options.get("ProxyCommand") or "")),
            config=path,
        )

    def _jumps(self, jump: str | None, on_the_way: Sequence[str]) -> tuple[Machine, ...]:
        """ProxyJump's machines; only the first may have jumps of its own, as in OpenSSH."""
        if not jump:
            return ()
        hops = [parse(one.removeprefix("ssh://")) for one in jump.split(",")]
        first = self._machine(hops[0], on_the_way)
        rest = [self._machine(hop, on_the_way) for hop in hops[1:]]
        return (*first.jumps, _alone(first), *map(_alone, rest))

    def _known_hosts(self, options: dict[str, Any]) -> tuple[Path, ...]:
        """`none` there means no file, never that keys go unchecked."""
        user: list[str] | None = options.get("UserKnownHostsFile")
        if user is None:
            user = [str(self.home / ".ssh" / name) for name in ("known_hosts", "known_hosts2")]
        machine: list[str] | None = options.get("GlobalKnownHostsFile")
        if machine is None:
            machine = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]
        return tuple(Path(name).expanduser() for name in (*user, *machine))


def parse(text: str) -> Target:
    """`[user@]host[:port]`, `[user@][v6]:port` or an alias. Raises ValidationFailed."""
    user, at, rest = text.rpartition("@")
    host, port = rest, ""
    if match := re.fullmatch(r"\[([^\]]+)\](?::(.+))?", rest, re.S):
        host, port = match[1], match[2] or ""
    elif match := re.fullmatch(r"([^:]+):(.+)", rest, re.S):
        host, port = match[1], match[2]
    wrong = not _NAME.fullmatch(host) or host.startswith("-")
    wrong = wrong or (":" in host and not _is_v6(host))
    wrong = wrong or (at != "" and (not _USER.fullmatch(user) or user.startswith("-")))
    number = int(port) if re.fullmatch(r"[0-9]{1,5}", port) else None
    if wrong or (port and (number is None or not 0 < number < 65536)):
        raise ValidationFailed(
            f"{text[:80]!r} is not user@host, user@host:port or a Host of ~/.ssh/config",
            action="Write it like vince@10.0.0.7 or vince@gaming-pc:2222.",
            field="target",
            constraint="user@host[:port]",
        )
    return Target(host, user if at else None, number)


def _is_v6(host: str) -> bool:
    try:
        return IPv6Address(host).version == 6
    except AddressValueError:
        return False


def _alone(machine: Machine) -> Machine:
    return replace(machine, jumps=())


def _is_plain(word: str) -> bool:
    return not _WILD & set(word) and bool(_NAME.fullmatch(word)) and not word.startswith("-")


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_CONFIG_BYTES).decode("utf-8", "replace")
    except OSError as exc:
        raise SettingsError(
            f"{path} cannot be read: {exc.strerror}", action="Correct the file's rights."
        ) from exc


def _included(pattern: str, home: Path) -> list[Path]:
    path = Path(pattern).expanduser()
    root, rest = (Path(path.anchor), path.parts[1:]) if path.anchor else (home / ".ssh", path.parts)
    return sorted(p for p in root.glob(str(Path(*rest))) if p.is_file()) if rest else []


def _read(target: Target, path: Path | None) -> dict[str, Any]:
    """The options of a target, as asyncssh's parser finds them."""
    from asyncssh.config import ConfigParseError, SSHClientConfig
    from asyncssh.misc import IllegalUserName

    rest: tuple[Any, ...] = (getpass.getuser(), target.user or (), target.host, target.port or ())
    files = [path] if path else []
    try:
        config: SSHClientConfig | Any = SSHClientConfig.load(
            None, files, False, False, False, *rest
        )
        if config.has_match_final():
            config = SSHClientConfig.load(config, files, True, False, True, *rest)
        return config.get_options(False)
    except (ConfigParseError, IllegalUserName, UnicodeDecodeError, OSError, IndexError) as exc:
        raise SettingsError(
            f"the ssh config cannot be used for {target.host}: {exc}",
            action=f"Correct {path}; `ssh -G {target.host}` checks it too.",
        ) from exc
