"""NVIDIA devices through NVML (package nvidia-ml-py), when both it and a driver are here.

Owns the NVML session. Every failure becomes an `Absent` that says what is missing and what to do;
a value that one device does not offer is None for that device only.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from rbee.protocol.hives import Absent, Device

_RETRY_SECONDS = 60.0
"""A driver that is not here is asked for again this often, not at every reading."""


class Nvidia:
    """Opens NVML at the first reading and keeps it open."""

    def __init__(
        self, *, module: str = "pynvml", now: Callable[[], float] = time.monotonic
    ) -> None:
        self._module = module
        self._now = now
        self._nvml: Any = None
        self._absent: Absent | None = None
        self._asked_at = 0.0

    def read(self) -> tuple[list[Device], list[Absent]]:
        """Devices `cuda:N` in the driver's order, or why there are none."""
        nvml = self._open()
        if nvml is None:
            return [], [self._absent] if self._absent is not None else []
        try:
            count = nvml.nvmlDeviceGetCount()
            found = [_device(nvml, index) for index in range(count)]
        except nvml.NVMLError as exc:
            self.close()
            return [], [_absent(f"the NVIDIA driver reports: {exc}", "Look at nvidia-smi.")]
        if not found:
            return [], [
                _absent(
                    "the NVIDIA driver is loaded but sees no device",
                    "Look at nvidia-smi; in a container, pass the devices through.",
                )
            ]
        return found, []

    def close(self) -> None:
        """End the NVML session."""
        if self._nvml is not None:
            nvml, self._nvml = self._nvml, None
            self._asked_at = 0.0
            _optional(nvml, nvml.nvmlShutdown)

    def _open(self) -> Any:
        if self._nvml is not None:
            return self._nvml
        if self._absent is not None and self._now() - self._asked_at < _RETRY_SECONDS:
            return None
        self._asked_at = self._now()
        try:
            nvml: Any = importlib.import_module(self._module)
        except ImportError:
            self._absent = _absent(
                "the package nvidia-ml-py is not installed",
                "If this machine has an NVIDIA card: pip install 'rbee[nvidia]'.",
            )
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as exc:
            self._absent = _absent(
                f"no NVIDIA driver answers ({exc})",
                "If this machine has an NVIDIA card, install its driver; nvidia-smi must work.",
            )
            return None
        self._nvml, self._absent = nvml, None
        return nvml


def _device(nvml: Any, index: int) -> Device:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name = nvml.nvmlDeviceGetName(handle)
    rates = _optional(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    heat = _optional(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    power = _optional(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    label = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
    return Device(
        name=f"cuda:{index}",
        kind="cuda",
        label=label.removeprefix("NVIDIA ").removeprefix("GeForce "),
        memory_total=int(memory.total),
        memory_used=int(memory.used),
        memory_free=int(memory.free),
        utilisation=None if rates is None else float(rates.gpu),
        temperature_c=None if heat is None else float(heat),
        power_w=None if power is None else power / 1000,
    )


def _optional(nvml: Any, call: Callable[..., Any], *args: Any) -> Any:
    """What not every device can tell: None where NVML says so."""
    try:
        return call(*args)
    except nvml.NVMLError:
        return None


def _absent(reason: str, action: str) -> Absent:
    return Absent(name="cuda", reason=reason, action=action)
