"""Certificates of one's own authority, and whether TLS takes them."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from rbee.access import certs
from rbee.errors import InternalError, ValidationFailed

NAMES = ["box.example.org", "localhost", "127.0.0.1", "::1"]


def shake_hands(made: certs.Made, name: str) -> None:
    """A handshake with the certificate, as a client that trusts the authority. Raises SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.cert, made.key)
    client = ssl.create_default_context(cafile=str(made.ca))
    here, there = socket.socketpair()
    here.settimeout(20)
    there.settimeout(20)

    def serve() -> None:
        try:
            server.wrap_socket(there, server_side=True).close()
        except (ssl.SSLError, OSError):
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        client.wrap_socket(here, server_hostname=name).close()
    finally:
        here.close()
        thread.join(20)


def test_a_client_that_trusts_the_authority_trusts_the_machine(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    made = certs.create(folder, NAMES, days=30)
    assert made.new_ca
    for name in ("box.example.org", "localhost", "127.0.0.1"):
        shake_hands(made, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(made, "other.example.org")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "server.pem": 0o600, "server.key": 0o600}


def test_the_authority_stays_and_the_certificate_is_renewed(tmp_path: Path) -> None:
    first = certs.create(tmp_path, NAMES, days=30)
    ca, cert = first.ca.read_bytes(), first.cert.read_bytes()
    second = certs.create(tmp_path, ["new.example.org"], days=60)
    assert (second.new_ca, second.fingerprint) == (False, first.fingerprint)
    assert second.ca.read_bytes() == ca
    assert second.cert.read_bytes() != cert
    shake_hands(second, "new.example.org")
    parsed = x509.load_pem_x509_certificate(second.cert.read_bytes())
    left = parsed.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=59) < left <= datetime.timedelta(days=60)


def test_a_damaged_authority_is_not_replaced_behind_ones_back(tmp_path: Path) -> None:
    certs.create(tmp_path, NAMES, days=30)
    (tmp_path / "ca.key").write_text("nothing")
    with pytest.raises(InternalError, match="cannot be read"):
        certs.create(tmp_path, NAMES, days=30)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a.example", "a" * 300, "a\n.b", "ex ample"])
def test_what_is_no_name_of_a_machine(name: str) -> None:
    with pytest.raises(ValidationFailed):
        certs.machine_names([name])


def test_a_machine_has_its_names_and_addresses() -> None:
    names = certs.machine_names(["Box.Example.org."])
    assert names[0] == "box.example.org"
    assert {"localhost", "127.0.0.1", "::1"} <= set(names)
