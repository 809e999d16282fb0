"""Memory that was freed and is still the process's."""

from __future__ import annotations

import ctypes
import sys
from typing import Any


def give_back() -> None:
    """Return freed memory to the system, where the C library keeps it (glibc)."""
    if sys.platform == "linux":
        trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(ctypes.c_size_t(0))
