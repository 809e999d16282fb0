"""Which backend runs a model on a device of a hive, and in words why that one.

Owns the order of liking, and the sentence for a hive where none fits with the command that would
change that. Knows names of backends that come with rbee for that only: any installed one that runs
the format and can use the device is a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rbee.errors import BackendUnavailable, ModelIncompatible, RbeeError
from rbee.protocol.hives import BackendStatus, Device, ModelInfo

if TYPE_CHECKING:
    from rbee.core.fleet import HiveState

OWN = {"gguf": ("llamacpp", "torch"), "safetensors": ("torch",)}
"""Format → the backends of rbee that are made for it, the most liked first."""
APPLE = {"gguf": ("llamacpp", "torch"), "safetensors": ("mlx", "torch")}
"""The same on a Mac with Apple silicon."""
REASONS = {
    "llamacpp": "made for GGUF files",
    "mlx": "made for Apple silicon",
    "torch": "runs folders of safetensors on any device",
}
EXTRAS = ("llamacpp", "torch", "mlx")
"""Backends that are an extra of rbee's own package, by its name."""


def choose(
    model: ModelInfo, hive: HiveState, device: Device, running: list[BackendStatus]
) -> BackendStatus | RbeeError:
    """The backend for the model on that device, of those that run it (`able`), or why none."""
    usable = [backend for backend in running if uses(backend, device)]
    if len(usable) == 1:
        return usable[0]
    if not usable:
        return _unusable(running, hive, device)
    return min(usable, key=lambda backend: _rank(model.format, hive, backend.name))


def able(model: ModelInfo, hive: HiveState, asked: str | None) -> list[BackendStatus] | RbeeError:
    """The backends of the hive that run such a model, whatever the device, or why there is none."""
    there = hive.capabilities.backends
    if asked is not None:
        there = [backend for backend in there if backend.name == asked]
        if there and model.format not in there[0].formats:
            return ModelIncompatible(
                f"{hive.name}: backend {asked} runs {', '.join(there[0].formats)},"
                f" {model.id} is {model.format}",
                action="Leave the backend out, or choose the model in a form that it runs.",
            )
    running = [backend for backend in there if model.format in backend.formats]
    if not running:
        return _missing(model, hive, asked)
    wanted = model.capabilities
    fitting = [b for b in running if not wanted or any(one in b.capabilities for one in wanted)]
    if fitting:
        return fitting
    names = ", ".join(backend.name for backend in running)
    return ModelIncompatible(
        f"{hive.name}: {names} cannot do what {model.id} is for ({', '.join(sorted(wanted))})",
        action=install(model.format, hive, without={backend.name for backend in running}),
    )


def uses(backend: BackendStatus, device: Device) -> bool:
    """Whether it can compute there."""
    return device.name in backend.devices or device.kind in backend.devices


def why(model: ModelInfo, hive: HiveState, device: Device, chosen: str, asked: str | None) -> str:
    """One clause: why this backend and none of the others."""
    if asked is not None:
        return f"{chosen}, as asked"
    known = able(model, hive, None)
    others: Iterable[BackendStatus] = () if isinstance(known, RbeeError) else known
    rivals = sorted(b.name for b in others if b.name != chosen and uses(b, device))
    unable = sorted(b.name for b in others if b.name != chosen and not uses(b, device))
    if rivals:
        reason = REASONS.get(chosen, "the first by name")
        return f"{chosen}: {reason}; {', '.join(rivals)} could, too"
    if unable:
        return f"{chosen}: {', '.join(unable)} cannot use {device.name}"
    return f"{chosen}: the only one installed there that runs {model.format}"


def install(form: str, hive: HiveState, *, without: Iterable[str] = ()) -> str | None:
    """How to bring a backend for a format onto the hive; None: rbee has no other for it."""
    ours = [name for name in _liked(form, hive) if name not in without]
    return _command(ours[0], hive) if ours else None


def extras_with(name: str, backends: Iterable[str], devices: Iterable[Device]) -> list[str]:
    """The extras to name for `rbee hive install` so that a backend is added: it puts in what it is
    told and nothing else, so what is there already is named, too."""
    have = {*backends, name}
    extras = [extra for extra in EXTRAS if extra in have]
    if name not in extras:
        extras.append(name)
    if name != "nvidia" and any(device.kind == "cuda" for device in devices):
        extras.append("nvidia")
    return extras


def _command(name: str, hive: HiveState, action: str = "") -> str:
    """`action`: what the machine itself says of a backend that is not usable there."""
    if hive.kind != "ssh":
        words = action or f"Install it: pip install 'rbee[{name}]'."
        return words if hive.kind == "local" else f"On {hive.name}: {words}"
    have = (backend.name for backend in hive.capabilities.backends)
    extras = extras_with(name, have, hive.devices)
    return f"rbee hive install {hive.name} " + " ".join(f"--extra {extra}" for extra in extras)


def _liked(form: str, hive: HiveState) -> tuple[str, ...]:
    """Of rbee's own, those that run the format on such a machine."""
    system = hive.capabilities.os
    apple = system.startswith("Darwin") and system.endswith("arm64")
    return (APPLE if apple else OWN).get(form, ())


def _rank(form: str, hive: HiveState, name: str) -> tuple[int, str]:
    liked = _liked(form, hive)
    return (liked.index(name) if name in liked else len(liked), name)


def _unusable(running: list[BackendStatus], hive: HiveState, device: Device) -> BackendUnavailable:
    names = " and ".join(backend.name for backend in running)
    can = sorted({name for backend in running for name in backend.devices})
    return BackendUnavailable(
        f"{hive.name}: the installed {names} cannot use {device.name}"
        f" (it can use {', '.join(can) or 'nothing'})",
        action=f"Install a build of {running[0].name} for {device.kind}."
        f" `rbee hive show {hive.name}` tells what is there and what is missing.",
    )


def _missing(model: ModelInfo, hive: HiveState, asked: str | None) -> BackendUnavailable:
    caps = hive.capabilities
    liked = _liked(model.format, hive)
    absent = {one.name: one for one in caps.absent_backends}
    broken = absent.get(asked) if asked is not None else None
    if broken is None and asked is None:
        broken = next((absent[name] for name in liked if name in absent), None)
        broken = broken or next((one for one in caps.absent_backends if not one.formats), None)
        broken = broken or next(
            (o for o in caps.absent_backends if model.format in o.formats), None
        )
    if broken is not None:
        ours = broken.name in EXTRAS and f"rbee[{broken.name}]" in broken.action
        return BackendUnavailable(
            f"{hive.name}: backend {broken.name} is not usable: {broken.reason}",
            action=_command(broken.name, hive, broken.action) if ours else broken.action or None,
            backend=broken.name,
        )
    if asked is not None:
        known = ", ".join(backend.name for backend in caps.backends) or "none"
        return BackendUnavailable(
            f"{hive.name}: no backend named {asked} is installed (installed: {known})",
            action=_command(asked, hive) if asked in EXTRAS else "Leave the backend out.",
            backend=asked,
        )
    runs = sorted({form for backend in caps.backends for form in backend.formats})
    return BackendUnavailable(
        f"{hive.name}: no installed backend runs {model.format} files"
        f" (what is installed runs {', '.join(runs) or 'nothing'})",
        action=install(model.format, hive)
        or (
            "Choose the model in another form: `rbee model search` shows those there are."
            if runs
            else None
        ),
    )
