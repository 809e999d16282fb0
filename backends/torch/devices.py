"""Devices as torch has them, and which numbers a model is computed in on each.

Owns the way from `cuda:0` or `metal` to torch's device, never another one than asked, the choice of
the dtype, and which errors mean that a device has failed. Used in the worker only: asking torch may
start a driver.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

import torch
from rbee.errors import (
    DeviceFailed,
    InsufficientRam,
    InsufficientVram,
    InternalError,
    ValidationFailed,
)

from . import builds

_WANTED = re.compile(r"([a-z]+)(?::(\d{1,3}))?")
_MIB = 1 << 20
_FULL_SHARE = 0.5
"""On a CPU weights of 32 bits are taken when they need no more of the free memory than this."""
_BROKEN = ("CUDA error: ", "HIP error: ")
_FULL = ("out of memory", "_STATUS_ALLOC_FAILED")
_NO_FAULT = (
    *_FULL, "_STATUS_NOT_INITIALIZED", "_STATUS_NOT_SUPPORTED", "_STATUS_INVALID_VALUE",
    "_STATUS_ARCH_MISMATCH", "no kernel image", "invalid argument", "invalid configuration",
)  # fmt: skip
"""What is said with the same first words of a full device, and of one call that cannot be made."""
NAMES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


@dataclass(frozen=True)
class TorchDevice:
    """A device that exists."""

    name: str
    """As rbee names it."""
    label: str
    device: torch.device
    memory_free: int
    """Bytes; of the CPU main memory, 0 where it is not known."""
    memory_total: int

    @property
    def on_cpu(self) -> bool:
        """Whether it is the processor itself."""
        return self.device.type == "cpu"


def devices() -> list[TorchDevice]:
    """All that torch can use now, the CPU first."""
    memory = psutil.virtual_memory()
    found = [TorchDevice("cpu", "CPU", torch.device("cpu"), memory.available, memory.total)]
    if torch.cuda.is_available():
        kind = "hip" if torch.version.hip else "cuda"
        found += [_cuda(kind, number) for number in range(torch.cuda.device_count())]
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found += [_xpu(number) for number in range(torch.xpu.device_count())]
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = max(0, total - torch.mps.driver_allocated_memory())
        found.append(TorchDevice("metal:0", "Apple GPU", torch.device("mps"), free, total))
    return found


def find_device(wanted: str) -> TorchDevice:
    """torch's device for `cpu`, `cuda:0`, `metal`, …, never another.

    Raises DeviceFailed for one that is not there, with what to do; ValidationFailed for what is no
    name of a device.
    """
    match = _WANTED.fullmatch(wanted)
    if match is None:
        raise ValidationFailed(
            f"device: {wanted[:40]!r} is no device's name",
            action="Name it as cpu, cuda:0, xpu:0 or metal:0.",
            field="device",
            constraint="KIND or KIND:NUMBER",
        )
    kind = "metal" if match[1] == "mps" else match[1]
    name = "cpu" if kind == "cpu" else f"{kind}:{int(match[2] or 0)}"
    found = devices()
    for device in found:
        if device.name == name:
            return device
    have = ", ".join(device.name for device in found)
    if kind in builds.built():
        raise DeviceFailed(
            f"torch {builds.version()} is built for {kind} and finds no {name} here; it has {have}",
            action=f"Use one of: {have}; or look whether the driver works and shows the device.",
            device=wanted,
        )
    raise DeviceFailed(
        f"torch {builds.version()} as installed cannot use {name}: it has {have}",
        action=f"Use --device cpu. {builds.install(kind)}",
        device=wanted,
    )


def choose_dtype(device: TorchDevice, parameters: int, stored: torch.dtype) -> torch.dtype:
    """The numbers to compute in, for so many weights that were stored so.

    A GPU computes in 16 bits, as stored where that is 16 bits, else in bfloat16 (float16 where it
    has none). A CPU with instructions for bfloat16 computes 16 bits in that: half the memory to
    read for each token. What was stored in 32 bits, and everything on other CPUs, is computed in 32
    bits where half of the free memory holds them.
    """
    if not device.on_cpu:
        has = device.device.type != "cuda" or torch.cuda.is_bf16_supported()
        return torch.float16 if stored == torch.float16 or not has else torch.bfloat16
    if stored != torch.float32 and _cpu_has_bf16():
        return torch.bfloat16
    fits = parameters * 4 <= device.memory_free * _FULL_SHARE
    return torch.float32 if fits else torch.bfloat16


def check_room(device: TorchDevice, needed: int, what: str) -> None:
    """Raises InsufficientRam or InsufficientVram when `needed` bytes are more than is free."""
    if not device.memory_total or needed <= device.memory_free:
        return
    kind = InsufficientRam if device.on_cpu else InsufficientVram
    raise kind(
        f"{what} takes {needed / _MIB:.0f} MiB; {device.name} ({device.label}) has"
        f" {device.memory_free / _MIB:.0f} MiB free of {device.memory_total / _MIB:.0f} MiB",
        required=needed,
        available=device.memory_free,
        device=device.name,
    )


@contextlib.contextmanager
def computing(what: str) -> Generator[None]:
    """Without gradients; what PyTorch raises is said as it is meant: DeviceFailed, InternalError.

    `what`: as in "torch failed to compute".
    """
    try:
        with torch.inference_mode():
            yield
    except (RuntimeError, IndexError) as exc:
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
        if broken(exc):
            raise DeviceFailed(f"the device failed: torch failed {what}: {reason}") from exc
        raise InternalError(f"torch failed {what}: {reason}") from exc


def broken(exc: BaseException) -> bool:
    """Whether the device computes nothing more for this process.

    CUDA's context does not get well again after an illegal address and its like: "the process must
    be terminated and relaunched" (CUDA Runtime API, cudaError), and HIP's is the same. PyTorch has
    a class for what the driver says; what cuBLAS says is a RuntimeError with the same first words
    (its Exceptions.h), whether or not the device is to blame.
    """
    if not isinstance(exc, RuntimeError) or any(words in str(exc) for words in _NO_FAULT):
        return False
    return isinstance(exc, torch.AcceleratorError) or str(exc).startswith(_BROKEN)


def full(exc: BaseException | None) -> bool:
    """Whether there was no room for it on the device, or in main memory."""
    if isinstance(exc, torch.OutOfMemoryError):
        return True
    return isinstance(exc, RuntimeError) and any(
        words in str(exc) for words in (*_FULL, "allocate")
    )


def _cpu_has_bf16() -> bool:
    asked = getattr(torch.cpu, "get_capabilities", None)
    told: Mapping[str, Any] = asked() if asked is not None else {}
    return any(told.get(name) for name in ("avx512_bf16", "amx_bf16"))


def _cuda(kind: str, number: int) -> TorchDevice:
    device = torch.device("cuda", number)
    free, total = torch.cuda.mem_get_info(device)
    return TorchDevice(f"{kind}:{number}", torch.cuda.get_device_name(device), device, free, total)


def _xpu(number: int) -> TorchDevice:
    device = torch.device("xpu", number)
    total = int(torch.xpu.get_device_properties(device).total_memory)
    free = max(0, total - torch.xpu.memory_allocated(device))
    return TorchDevice(f"xpu:{number}", torch.xpu.get_device_name(device), device, free, total)
