"""What the installed torch can do, as JSON: `python -m rbee.backends.torch.report`.

For `rbee doctor`, which runs it as a process of its own: torch is loaded and its devices are asked,
and a broken driver can end a process there.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from . import builds


def report() -> dict[str, Any]:
    """`version`, `kinds` built in, `features` of the CPU code, `devices`, `missing` with how.

    Memory in bytes. Raises ImportError when torch cannot be loaded.
    """
    import torch  # 2 s

    from .devices import devices

    kinds = builds.built()
    found = [device for device in devices() if not device.on_cpu]
    return {
        "version": builds.version() or "",
        "kinds": list(kinds),
        "features": [torch.backends.cpu.get_cpu_capability()],
        "devices": [
            {
                "name": device.name,
                "label": device.label,
                "memory_free": device.memory_free,
                "memory_total": device.memory_total,
            }
            for device in found
        ],
        "missing": {
            build.kind: builds.install(build.kind)
            for build in builds.BUILDS
            if build.kind not in kinds
        },
    }


def main() -> int:
    """Print it; 1 with the reason on stderr when there is nothing to report."""
    try:
        text = json.dumps(report())
    except (ImportError, OSError, RuntimeError) as exc:
        sys.stderr.write(f"torch cannot be loaded: {exc}\n{builds.install()}\n")
        return 1
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
