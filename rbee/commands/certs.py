"""`rbee cert create`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rbee.access import certs
from rbee.commands.common import settings_and_paths
from rbee.narration import Narrator
from rbee.output import print_json


def create(names: Sequence[str], *, days: int, as_json: bool) -> int:
    """Make it, and say how clients come to trust it. Raises ValidationFailed, InternalError."""
    settings, paths = settings_and_paths()
    paths.ensure()
    made = certs.create(paths.tls_dir, certs.machine_names(names), days=days)
    if as_json:
        print_json(
            {
                "ca": str(made.ca),
                "cert": str(made.cert),
                "key": str(made.key),
                "names": made.names,
                "expires_at": made.expires.timestamp(),
                "ca_fingerprint": made.fingerprint,
                "new_ca": made.new_ca,
            }
        )
        return 0
    say = Narrator().say
    kind = "a new authority" if made.new_ca else "the authority that clients trust already"
    say(f"certificate until {made.expires:%Y-%m-%d} by {kind}, SHA-256 {made.fingerprint}")
    say(f"for {', '.join(made.names)}")
    port = settings.queen.port or 8500
    sys.stdout.write(
        f"{made.ca}\n"
        "\n"
        "A queen that listens beyond this machine takes the certificate when she is next started.\n"
        "Copy that file (never a .key) to each client, and there:\n"
        "  rbee          set queen.tls_ca to the copy\n"
        "  Python        SSL_CERT_FILE=ca.pem      (openai, anthropic, httpx)\n"
        "  Node.js       NODE_EXTRA_CA_CERTS=ca.pem\n"
        f"  curl          curl --cacert ca.pem https://{made.names[0]}:{port}/health\n"
        "  Debian        cp ca.pem /usr/local/share/ca-certificates/rbee.crt;"
        " update-ca-certificates\n"
        "  Fedora        trust anchor ca.pem\n"
        "  macOS         security add-trusted-cert -d -k"
        " /Library/Keychains/System.keychain ca.pem\n"
        "  Windows       certutil -addstore Root ca.pem\n"
    )
    return 0
