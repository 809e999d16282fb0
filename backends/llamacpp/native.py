"""The door to llama.cpp's C library: loading it and its log.

Owns the process-wide parts: there is one library and one log callback. Everything reached through
`library()` is C: a wrong argument ends the process, so callers check before they call.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import logging
import os
import re
import sys
import types
from collections import deque
from typing import Any

from rbee.errors import BackendUnavailable

from . import builds

log = logging.getLogger("rbee.llamacpp")
_DEBUG, _WARN, _ERROR, _CONTINUED = 1, 3, 4, 5
_BUFFER = re.compile(r"(\S+)\s+(?:\w+ )?buffer size\s*=\s*([0-9.]+) MiB")


class Log:
    """The library's last log lines: the only place where it says why something failed."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=400)
        self._level = _DEBUG

    def add(self, level: int, text: str) -> None:
        """One call of the log callback; a continued line is added to the one before."""
        if level == _CONTINUED:
            if self._lines and self._level != _DEBUG:
                last, before = self._lines.pop()
                self._lines.append((last, before + text))
            return
        self._level = level
        if level != _DEBUG:
            self._lines.append((level, text))

    def clear(self) -> None:
        """Forget what was said, before a step whose lines are of interest."""
        self._lines.clear()

    def reason(self) -> str:
        """The last errors in one sentence; the last warning when there was no error."""
        for least in (_ERROR, _WARN):
            found = [text.strip() for level, text in self._lines if _CONTINUED > level >= least]
            if found:
                return "; ".join(found[-3:])
        return "llama.cpp gave no reason"

    def lines(self) -> list[str]:
        """What was said since `clear`, debug lines left out, the last 400."""
        return [text for _, text in self._lines]

    def buffer_bytes(self, device: str | None = None) -> int:
        """The sum of the buffers the library reported since `clear`.

        `device`: ggml's name of one (`CUDA0`); what it shares with the host (`CUDA_Host`) and what
        stays in main memory is not counted then. None: all.
        """
        found = (_BUFFER.search(text) for _, text in self._lines)
        sizes = (
            float(match[2])
            for match in found
            if match and (device is None or match[1].partition("_")[0] == device)
        )
        return int(sum(sizes) * (1 << 20))


LOG = Log()


@functools.cache
def library() -> Any:
    """llama.cpp's functions, initialised. Raises BackendUnavailable."""
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # on abort it would start a debugger
    # GNU OpenMP's threads spin for milliseconds before they sleep, on cores that others want: with
    # one busy program beside it, 8 streams on 2 cores made 120 tokens/s so, and 198 with this.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        lib = _bindings("llama_cpp.llama_cpp")
    except (ImportError, OSError, RuntimeError) as exc:
        raise BackendUnavailable(
            f"llama-cpp-python cannot be loaded: {exc}",
            action=f"Install it again: {builds.command()}",
        ) from exc

    def on_log(level: int, text: bytes, _: object) -> None:
        LOG.add(level, text.decode("utf-8", "replace"))

    lib.rbee_log_callback = lib.llama_log_callback(on_log)  # C keeps the pointer, we the object
    lib.llama_log_set(lib.rbee_log_callback, None)
    lib.llama_backend_init()
    return lib


@functools.cache
def quick(name: str) -> Any:
    """A C function, called without giving up the GIL: for calls that take microseconds.

    Handing the GIL over and back costs more than such a call, and waits up to 5 ms when another
    thread is busy. A long call made through this door would stop every thread of the process.
    """
    lib = library()
    usual = getattr(lib, name)
    function = getattr(_keeping_gil(lib._lib._name), name)
    function.argtypes, function.restype = usual.argtypes, usual.restype
    return function


@functools.cache
def _keeping_gil(path: str) -> ctypes.PyDLL:
    return ctypes.PyDLL(path)


def ggml() -> Any:
    """ggml's own handle, for what llama_cpp has no bindings of; call `library` first."""
    return _bindings("llama_cpp._ggml").libggml


def _bindings(name: str) -> Any:
    """A module of llama_cpp without the package's own __init__: it costs 0.2 s and 22 MB."""
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("the package llama-cpp-python is not installed")
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["llama_cpp"] = package
    return importlib.import_module(name)
