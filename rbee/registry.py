"""Finds backends: whatever is installed under the entry point group `rbee.backends`.

Owns discovery only. The bundled backends come through the same door as a third party's, and one
that is broken or hangs is reported with its reason, never allowed to take its finder down. Nothing
here imports a heavy library: an entry point holds a `BackendInfo`, which is cheap by contract.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, metadata
from threading import Thread

from rbee.backend_api import Backend, BackendInfo, Support
from rbee.errors import BackendUnavailable

GROUP = "rbee.backends"
PATIENCE = 10.0
"""Seconds for a backend to be imported and to say of itself what it can: cheap, by contract."""
_hanging: dict[str, Thread] = {}
"""By the backend's name. Nothing ends a thread from outside: it is left behind, but only one."""


def names() -> list[str]:
    """Names of all installed backends, sorted."""
    return sorted(_entries())


def load(name: str) -> BackendInfo:
    """One backend's description. Raises BackendUnavailable when it is absent or broken."""
    entries = _entries()
    entry = entries.get(name)
    if entry is None:
        known = ", ".join(sorted(entries)) or "none"
        raise BackendUnavailable(
            f"backend {name!r} is not installed here (installed: {known})",
            action=f"Install it: pip install 'rbee[{name}]', or choose an installed one."
            if name in _extras()
            else "Install the package that brings it, or choose an installed one.",
            backend=name,
        )
    return _load(entry)


def package_of(name: str) -> tuple[str, str]:
    """The package that brings a backend, and its version; empty where nothing tells."""
    entry = _entries().get(name)
    if entry is None or entry.dist is None:
        return "", ""
    return entry.dist.name, entry.dist.version


def survey() -> list[tuple[BackendInfo, Support]]:
    """Every installed backend with what it says of itself; one that is broken, or does not say it
    within PATIENCE, is unavailable."""
    return [_survey(entry) for _, entry in sorted(_entries().items())]


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _extras() -> list[str]:
    """Of rbee's own package."""
    try:
        return metadata("rbee").get_all("Provides-Extra") or []
    except PackageNotFoundError:  # it runs from a folder
        return []


def _load(entry: EntryPoint) -> BackendInfo:
    try:
        info = entry.load()
    except (Exception, SystemExit) as exc:  # third-party code: what it raises is why it is not used
        raise _broken(entry, f"cannot be imported: {type(exc).__name__}: {exc}") from exc
    if not isinstance(info, BackendInfo):
        raise _broken(entry, f"{entry.value} is a {type(info).__name__}, not a BackendInfo")
    if info.name != entry.name:
        raise _broken(entry, f"it calls itself {info.name!r}")
    return info


def _survey(entry: EntryPoint) -> tuple[BackendInfo, Support]:
    before = _hanging.get(entry.name)
    if before is None or not before.is_alive():
        found: list[tuple[BackendInfo, Support]] = []
        thread = Thread(target=lambda: found.append(_asked(entry)), daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if found:
            return found[0]
        _hanging[entry.name] = thread
    error = _broken(entry, f"it does not say what it can ({PATIENCE:g} s are allowed)")
    again = "Start the hive again, if its machine was only busy. "
    error.details["suggested_action"] = again + error.action
    return _placeholder(entry.name, error), Support(False, (), error.message, error.action)


def _asked(entry: EntryPoint) -> tuple[BackendInfo, Support]:
    try:
        info = _load(entry)
    except BackendUnavailable as exc:
        return _placeholder(entry.name, exc), Support(False, (), exc.message, exc.action)
    try:
        return info, info.probe()
    except (Exception, SystemExit) as exc:  # third-party code, as above
        error = _broken(entry, f"its probe failed: {type(exc).__name__}: {exc}")
        return info, Support(False, (), error.message, error.action)


def _broken(entry: EntryPoint, reason: str) -> BackendUnavailable:
    source = entry.dist.name if entry.dist is not None else "an unknown package"
    return BackendUnavailable(
        f"backend {entry.name!r} of package {source} is broken: {reason}",
        action=f"Update or remove the package: pip install --upgrade {source}.",
        backend=entry.name,
    )


def _placeholder(name: str, error: BackendUnavailable) -> BackendInfo:
    def create() -> Backend:
        raise error

    return BackendInfo(
        name=name,
        formats=(),
        capabilities=(),
        probe=lambda: Support(False, (), error.message, error.action),
        create=create,
    )
