"""What `rbee doctor` asks of MLX: `python -m rbee.backends.mlx.report` prints one JSON object.

Loads the library in a process of its own, so that a broken installation ends nothing else.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import mlx.core as mx
import psutil


def main() -> int:
    """Version, devices and what is missing."""
    memory = psutil.virtual_memory()
    devices = [
        {"name": "cpu", "label": "CPU", "memory_free": memory.available,
         "memory_total": memory.total}
    ]  # fmt: skip
    if mx.metal.is_available():
        told = mx.device_info()
        total = int(told["max_recommended_working_set_size"])
        devices.insert(0, {
            "name": "metal:0", "label": str(told.get("device_name", "Apple GPU")),
            "memory_free": max(0, total - mx.get_active_memory()), "memory_total": total,
        })  # fmt: skip
    found = {
        "version": f"{version('mlx-lm')} on MLX {version('mlx')}",
        "kinds": [str(device["name"]).partition(":")[0] for device in devices],
        "features": [],
        "devices": devices,
        "missing": {},
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
