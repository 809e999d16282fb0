"""What the installed llama.cpp can do, as JSON: `python -m rbee.backends.llamacpp.report`.

For `rbee doctor`, which runs it as a process of its own: the library is loaded and its devices are
asked, and a broken driver can end a process there.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from rbee.errors import RbeeError

from . import builds
from .devices import devices
from .native import library


def report() -> dict[str, Any]:
    """`version`, `kinds` built in, `features` of the CPU code, `devices`, `missing` with how.

    Memory in bytes. Raises BackendUnavailable when the library cannot be loaded.
    """
    lib = library()
    system = (lib.llama_print_system_info() or b"").decode("utf-8", "replace")
    kinds = builds.built()
    return {
        "version": builds.version() or "",
        "kinds": list(kinds),
        "features": re.findall(r"(\w+) = 1\b", system),
        "devices": [
            {
                "name": device.name,
                "label": device.description,
                "memory_free": device.memory_free,
                "memory_total": device.memory_total,
            }
            for device in devices()
        ],
        "missing": {
            build.kind: builds.how(build.kind) for build in builds.BUILDS if build.kind not in kinds
        },
    }


def main() -> int:
    """Print it; 1 with the reason on stderr when there is nothing to report."""
    try:
        text = json.dumps(report())
    except RbeeError as exc:
        sys.stderr.write(f"{exc.message}\n{exc.action}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
