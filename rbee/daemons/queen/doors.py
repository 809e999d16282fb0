"""The sockets the queen answers on, and who may reach them: decided here, before they are open.

On a loopback address without TLS there is one socket. Else there are two: one of her own on
loopback, for the owner's commands and her workers, and the one that was asked for, with TLS where
there is a certificate. An address that other machines reach is refused while there is no key.
Where Ollama's port is answered, too, that is at the address that was asked for, in the same way.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rbee.access.keys import Keys
from rbee.daemons.base import is_loopback, listen, url_of
from rbee.errors import BindRefused, SettingsError

if TYPE_CHECKING:
    from rbee.paths import Paths
    from rbee.settings import QueenSettings, Settings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Tls:
    """Files of a certificate (with what leads to its authority) and its key, in PEM."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Doors:
    """`inner` is hers and her owner's; `outer` is None where that is the one everybody uses."""

    inner: socket.socket
    outer: socket.socket | None = None
    tls: Tls | None = None
    ollama: socket.socket | None = None
    """Where everybody finds her, too, like `outer`."""

    @property
    def address(self) -> str:
        """Where others than her own reach her."""
        if self.outer is None:
            return url_of(self.inner)
        url = url_of(self.outer)
        return url.replace("http:", "https:", 1) if self.tls is not None else url


@contextlib.contextmanager
def opened(settings: Settings, paths: Paths, *, now: float) -> Generator[Doors]:
    """Raises BindRefused, PortTaken, SettingsError; `now` in UTC seconds."""
    wanted = settings.queen
    tls, public = tls_of(wanted, paths), not is_loopback(wanted.host)
    networks_of(wanted)
    if public and not Keys(paths.keys_file).usable(now):
        raise BindRefused(
            f"{wanted.host} can be reached from other machines, and there is no key to protect it",
            action="Make a key, then start again: rbee key create NAME. Or listen on 127.0.0.1.",
        )
    with contextlib.ExitStack() as stack:

        def opened_at(host: str, port: int) -> socket.socket:
            return stack.enter_context(listen(host, port, public=public))

        alone = not public and tls is None
        inner = opened_at(wanted.host, wanted.port) if alone else opened_at("127.0.0.1", 0)
        outer = None if alone else opened_at(wanted.host, wanted.port)
        more = opened_at(wanted.host, wanted.ollama_port) if wanted.ollama_port else None
        yield Doors(inner, outer, tls, more)


def tls_of(wanted: QueenSettings, paths: Paths) -> Tls | None:
    """The certificate to show. Raises SettingsError for one that cannot be used.

    That of `rbee cert create` is for addresses that other machines reach only.
    """
    if wanted.tls_cert or wanted.tls_key:
        if not (wanted.tls_cert and wanted.tls_key):
            raise SettingsError(
                "queen.tls_cert and queen.tls_key: one is given without the other",
                action="Give both files, or none.",
            )
        tls = Tls(Path(wanted.tls_cert).expanduser(), Path(wanted.tls_key).expanduser())
    else:
        tls = Tls(paths.tls_dir / "server.pem", paths.tls_dir / "server.key")
        if is_loopback(wanted.host) or not tls.cert.exists():
            return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, _no_password)
    except (OSError, ssl.SSLError, ValueError) as exc:
        why = exc.strerror or exc.reason if isinstance(exc, ssl.SSLError) else str(exc)
        raise SettingsError(
            f"the certificate {tls.cert} with the key {tls.key} cannot be used: {why}",
            action="Check the two files, or make new ones: rbee cert create",
        ) from exc
    return tls


def networks_of(wanted: QueenSettings) -> list[Network]:
    """Whose machines may call. Raises SettingsError naming what is no network."""
    found: list[Network] = []
    for text in wanted.allowed_networks:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError as exc:
            raise SettingsError(
                f"queen.allowed_networks: {text[:60]!r} is no network",
                action="Write networks like 192.168.1.0/24, or single addresses.",
            ) from exc
    return found


def hosts_of(wanted: QueenSettings, doors: Doors) -> list[str]:
    """Names under which others may ask for her: this machine's, where they reach her at all."""
    if doors.outer is None:
        return [host.lower() for host in wanted.allowed_hosts]
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return [*dict.fromkeys([name, short, f"{short}.local", *map(str.lower, wanted.allowed_hosts)])]


def address_of(wanted: QueenSettings, tls: Tls | None) -> str:
    """Where she would be reached by these settings."""
    host = f"[{wanted.host}]" if ":" in wanted.host else wanted.host
    return f"{'https' if tls is not None else 'http'}://{host}:{wanted.port}"


def posture(wanted: QueenSettings, tls: Tls | None, address: str, keys: int) -> list[str]:
    """What is open beyond this machine's owner, one sentence each; none: nothing is."""
    told: list[str] = []
    if not is_loopback(wanted.host):
        who = ", ".join(wanted.allowed_networks) or "any machine that reaches this one"
        more = f" and port {wanted.ollama_port}" if wanted.ollama_port else ""
        told.append(f"open to {who} at {address}{more}, for whoever has {_keys(keys)}")
        if tls is None:
            told.append("without TLS: keys and prompts can be read on the way; rbee cert create")
    if wanted.allowed_origins:
        told.append(f"open to the web pages {', '.join(wanted.allowed_origins)}")
    return told


def _keys(count: int) -> str:
    return "the one key there is" if count == 1 else f"one of {count} keys"


def _no_password() -> str:
    raise ValueError("its key is protected with a password")
