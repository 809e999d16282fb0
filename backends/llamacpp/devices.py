"""The devices the loaded library can use, by ggml's own list.

Owns the mapping from rbee's names (`cuda:0`) to ggml's (`CUDA0`), the amounts of memory a device
reports, and the refusals: of a device the build does not have, and of a model a device has no room
for. Never chooses another device than asked and never lets a part of a model lie elsewhere.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rbee.errors import BackendUnavailable, InsufficientVram, ModelLoadFailed, ValidationFailed

from . import builds
from .native import LOG, ggml, library

_GPU, _INTEGRATED = 1, 2
"""Values of ggml_backend_dev_type; 0 is the CPU, others are helpers that hold no model."""
_NAME = re.compile(r"([A-Za-z]+)(\d+)?")
_WANTED = re.compile(r"([a-z]{1,16})(?::(\d{1,3}))?")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers")
_MIB = 1 << 20


@dataclass(frozen=True)
class NativeDevice:
    """A device of the library's list. Memory in bytes, 0: it does not tell."""

    name: str
    """Ours: `cuda:0`."""
    native: str
    """ggml's: `CUDA0`."""
    description: str
    memory_free: int
    memory_total: int
    handle: int


def devices() -> list[NativeDevice]:
    """The GPUs this build can use here. Empty where there is none or the build does not tell."""
    library()
    calls = _Calls.of(ggml())
    if calls is None:  # a library older than the device list
        return []
    found: list[NativeDevice] = []
    for index in range(calls.count()):
        handle = calls.get(index)
        if handle and calls.type(handle) in (_GPU, _INTEGRATED):
            native = (calls.name(handle) or b"").decode("utf-8", "replace")
            text = (calls.description(handle) or b"").decode("utf-8", "replace")
            free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
            calls.memory(handle, ctypes.byref(free), ctypes.byref(total))
            name = name_of(native)
            found.append(NativeDevice(name, native, text, free.value, total.value, handle))
    return found


def name_of(native: str) -> str:
    """`CUDA0` → `cuda:0`, `MTL0` and `Metal` → `metal:0`; lower case of what is not known."""
    match = _NAME.fullmatch(native)
    if match is None:
        return native.lower()
    prefixes = {build.prefix.lower(): build.kind for build in builds.BUILDS}
    kind = prefixes.get(match[1].lower(), match[1].lower())
    return f"{kind}:{match[2] or 0}"


def find_device(wanted: str) -> NativeDevice:
    """The library's device for `cuda:0`, `metal`, …, never another.

    Raises BackendUnavailable with how to build for it, ValidationFailed for what is no name.
    """
    match = _WANTED.fullmatch(wanted)
    if match is None:
        raise ValidationFailed(
            f"device: {wanted[:40]!r} is no device's name",
            action="Name it as cpu, cuda:0, metal:0 or vulkan:0.",
            field="device",
            constraint="KIND or KIND:NUMBER",
        )
    kind, number = match[1], int(match[2] or 0)
    found = devices()
    for device in found:
        if device.name == f"{kind}:{number}":
            return device
    have = ", ".join(["cpu", *(device.name for device in found)])
    if kind in builds.built():
        raise BackendUnavailable(
            f"llama.cpp is built for {kind} and finds no {kind}:{number} here; it has {have}",
            action=f"Use one of: {have}; or look whether the driver works and shows the device.",
            device=wanted,
        )
    raise BackendUnavailable(
        f"the installed llama.cpp cannot use {wanted}: it has {have}",
        action=f"Use --device cpu. {builds.how(kind)}",
        device=wanted,
    )


def check_room(device: NativeDevice, path: Path, size: int) -> None:
    """Raises InsufficientVram when the weights alone, of `size` bytes, are more than is free."""
    if device.memory_total and size > device.memory_free:
        raise InsufficientVram(
            f"{path.name} has {size / _MIB:.0f} MiB of weights; {device.name}"
            f" ({device.description}) has {device.memory_free / _MIB:.0f} MiB free of"
            f" {device.memory_total / _MIB:.0f} MiB",
            required=size,
            available=device.memory_free,
            device=device.name,
        )


def check_offload(device: NativeDevice) -> None:
    """Raises ModelLoadFailed unless the library said, since LOG.clear(), that all layers are there.

    It says so in its log only: `offloaded 31/31 layers to GPU`, and one line per buffer.
    """
    said = [match for line in LOG.lines() if (match := _OFFLOADED.search(line))]
    there = any(f"{device.native} " in line and "buffer size" in line for line in LOG.lines())
    if said and said[-1][1] == said[-1][2] and there:
        return
    what = f"{said[-1][1]} of {said[-1][2]} layers" if said else "no layers"
    raise ModelLoadFailed(
        f"llama.cpp put {what} on {device.name} and the rest elsewhere; rbee runs a model on one"
        " device or not at all",
        action="Choose a smaller model or quantisation, or --device cpu.",
        device=device.name,
    )


@dataclass(frozen=True)
class _Calls:
    """ggml's functions about devices, with the types they have in ggml-backend.h."""

    count: Any
    get: Any
    name: Any
    description: Any
    type: Any
    memory: Any

    @staticmethod
    def of(lib: Any) -> _Calls | None:
        try:
            calls = _Calls(*(getattr(lib, f"ggml_backend_dev_{name}") for name in _SIGNATURES))
        except AttributeError:
            return None
        for name, (arguments, result) in _SIGNATURES.items():
            function = getattr(calls, name)
            function.argtypes, function.restype = arguments, result
        return calls


_SIZE = ctypes.POINTER(ctypes.c_size_t)
_SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "count": ([], ctypes.c_size_t),
    "get": ([ctypes.c_size_t], ctypes.c_void_p),
    "name": ([ctypes.c_void_p], ctypes.c_char_p),
    "description": ([ctypes.c_void_p], ctypes.c_char_p),
    "type": ([ctypes.c_void_p], ctypes.c_int),
    "memory": ([ctypes.c_void_p, _SIZE, _SIZE], None),
}
