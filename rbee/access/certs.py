"""Certificates of the user's own authority: made, kept, renewed.

Owns the folder `tls` in the data folder: `ca.pem` with `ca.key`, and `server.pem` (the certificate
and the authority's) with `server.key`; keys have mode 0600. `cryptography`, which asyncssh brings,
does what is cryptographic. Knows nothing of sockets.

Elliptic curve P-256, as every client knows it; a server's certificate is valid for at most 825
days, beyond which Apple's systems refuse one, <https://support.apple.com/103769>.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbee.access.keys import write_private
from rbee.errors import InternalError, ValidationFailed

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_DAYS = 3650
CA_LEAST_DAYS = 30
"""An authority that ends sooner is made anew."""
NAMES_MAX = 100
_NAME = re.compile(r"(?=.{1,253}$)(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9-]{1,63}")


@dataclass(frozen=True)
class Made:
    """What was made. `fingerprint`: of the authority, SHA-256, in hex pairs."""

    ca: Path
    cert: Path
    key: Path
    names: tuple[str, ...]
    expires: datetime.datetime
    fingerprint: str
    new_ca: bool


def machine_names(more: Iterable[str] = ()) -> list[str]:
    """Names and addresses of this machine, and more of the caller's. Raises ValidationFailed."""
    import psutil  # 15 ms

    host = socket.gethostname().lower().rstrip(".")
    short = host.partition(".")[0]
    found = ["localhost", "127.0.0.1", "::1", host, short, f"{short}.local"]
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                address = ipaddress.ip_address(one.address.partition("%")[0])
                if not address.is_link_local:
                    found.append(str(address))
    given = [check_name(name) for name in more]
    own = [name for name in found if _is_name(name)]
    return list(dict.fromkeys([*given, *own]))[:NAMES_MAX]


def check_name(name: str) -> str:
    """In small letters. Raises ValidationFailed for what is neither a name nor an address."""
    small = name.strip().lower().rstrip(".")
    if not _is_name(small):
        raise ValidationFailed(
            f"--name: {name[:80]!r} is neither a host's name nor an address",
            action="Give it as clients write it: box.example.org, 192.168.1.20",
            field="name",
            constraint="host name or IP address",
        )
    return small


def create(folder: Path, names: Sequence[str], *, days: int) -> Made:
    """A new certificate for the names, by the authority there is or a new one.

    Raises InternalError when what is there cannot be read or nothing can be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now = datetime.datetime.now(datetime.UTC)
    ca, ca_key, new_ca = _authority(folder, now)
    key = ec.generate_private_key(ec.SECP256R1())
    expires = min(now + datetime.timedelta(days=days), ca.not_valid_after_utc)
    builder = _builder(f"rbee queen on {names[0]}", ca.subject, key, now, expires)
    server = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, _sha256())
    )
    cert_file, key_file = folder / "server.pem", folder / "server.key"
    write_private(key_file, _pem_key(key))
    write_private(cert_file, _pem(server) + _pem(ca))
    return Made(
        folder / "ca.pem",
        cert_file,
        key_file,
        tuple(names),
        expires,
        ca.fingerprint(_sha256()).hex(":"),
        new_ca,
    )


def _authority(
    folder: Path, now: datetime.datetime
) -> tuple[x509.Certificate, EllipticCurvePrivateKey, bool]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    cert_file, key_file = folder / "ca.pem", folder / "ca.key"
    if cert_file.exists() and key_file.exists():
        try:
            ca = x509.load_pem_x509_certificate(cert_file.read_bytes())
            key: Any = load_pem_private_key(key_file.read_bytes(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError("its key is of another kind")
        except (OSError, ValueError, TypeError) as exc:
            raise InternalError(
                f"the authority in {folder} cannot be read",
                action="Move ca.pem and ca.key away; clients must then trust a new one.",
            ) from exc
        if ca.not_valid_after_utc - now > datetime.timedelta(days=CA_LEAST_DAYS):
            return ca, key, False
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"rbee of {socket.gethostname()[:40]}")
    end = now + datetime.timedelta(days=CA_DAYS)
    ca = (
        _builder(None, name, key, now, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, _sha256())
    )  # fmt: skip
    write_private(key_file, _pem_key(key))
    write_private(cert_file, _pem(ca))
    cert_file.chmod(0o644)
    return ca, key, True


def _builder(
    subject: str | None,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    now: datetime.datetime,
    expires: datetime.datetime,
) -> x509.CertificateBuilder:
    """`subject`: None for one that signs itself."""
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(_subject(subject) if subject is not None else issuer)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _subject(name: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _is_name(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return _NAME.fullmatch(name) is not None
    return True


def _sha256() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def _pem(cert: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return cert.public_bytes(Encoding.PEM)


def _pem_key(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
