"""Settings: their values, and where each came from.

Owns reading and checking (flag > environment > ui.toml > config.toml > default); never writes a
file and never decides anything. What there is to set is in rbee.settings_sections. A key nobody
knows is an error that names the nearest known one, so that a typing mistake cannot pass for a
setting.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
from msgspec import Meta

from rbee import naming
from rbee.errors import SettingsError
from rbee.paths import Paths
from rbee.settings_layers import Field, env_layer, file_layer, flag_layer, parse
from rbee.settings_sections import (
    HiveSettings,
    JobSettings,
    LogSettings,
    ModelSettings,
    QueenSettings,
    Section,
    TuiSettings,
    WorkerSettings,
)

__all__ = ["API_KEY", "SECTIONS", "Loaded", "ModelSettings", "Settings", "fields", "load"]

API_KEY = "RBEE_API_KEY"
"""Variable that sets `queen.api_key`, by the name that other tools' variables have."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every setting. `Settings()` has the defaults."""

    queen: QueenSettings = msgspec.field(default_factory=QueenSettings)
    hive: HiveSettings = msgspec.field(default_factory=HiveSettings)
    worker: WorkerSettings = msgspec.field(default_factory=WorkerSettings)
    job: JobSettings = msgspec.field(default_factory=JobSettings)
    models: ModelSettings = msgspec.field(default_factory=ModelSettings)
    tui: TuiSettings = msgspec.field(default_factory=TuiSettings)
    log: LogSettings = msgspec.field(default_factory=LogSettings)
    keys: dict[str, str] = {}
    """Action → key, for the screen."""


@dataclass(frozen=True)
class Loaded:
    """Settings, and where each came from.

    `origins["queen.port"]` is `default`, `…/config.toml:3`, `RBEE_QUEEN_PORT` or `--port`.
    """

    settings: Settings
    origins: dict[str, str]
    problem: SettingsError | None = None
    """What is wrong with `ui.toml`, of which then nothing counts."""


SECTIONS: dict[str, type[Section]] = {
    "queen": QueenSettings,
    "hive": HiveSettings,
    "worker": WorkerSettings,
    "job": JobSettings,
    "models": ModelSettings,
    "tui": TuiSettings,
    "log": LogSettings,
}


def fields() -> Iterator[Field]:
    """All settings but the free table `keys`, in the file's order."""
    for section, kind in SECTIONS.items():
        for item in msgspec.structs.fields(kind):
            notes = [meta.description for meta in get_args(item.type) if isinstance(meta, Meta)]
            default: Any = item.default
            if item.default_factory is naming.hive_name:
                default = ""
            elif item.default_factory is not msgspec.NODEFAULT:
                default = item.default_factory()
            yield Field(section, item.name, item.type, default, notes[-1] or "")


def load(
    *, paths: Paths, env: Mapping[str, str] = os.environ, flags: Mapping[str, str] | None = None
) -> Loaded:
    """Read all layers. `flags` maps `queen.port` → text.

    Raises SettingsError with the place (file:line, variable or flag) for an unknown key, a bad
    value, or a file that is no TOML. What is wrong with `ui.toml`, which programs write, ends
    nothing: it is left out, and told as `problem`.
    """
    try:
        return _read(paths, env, flags or {}, ui=True)
    except SettingsError as exc:
        if not paths.ui_file.exists():
            raise
        found = _read(paths, env, flags or {}, ui=False)
        return Loaded(found.settings, found.origins, exc)


def _read(paths: Paths, env: Mapping[str, str], flags: Mapping[str, str], *, ui: bool) -> Loaded:
    known = {field.name: field for field in fields()}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(known, "default")
    keys: dict[str, str] = {}
    for file in (paths.machine_config, paths.config_file, paths.ui_file if ui else None):
        if file is not None:
            for name, value, origin in file_layer(file, known):
                if name.startswith("keys."):
                    keys[name.removeprefix("keys.")] = value
                else:
                    values[name] = value
                origins[name] = origin
    if text := env.get(API_KEY, ""):
        env = {**env, known["queen.api_key"].variable: text}
    for name, text, origin in (*env_layer(env, known), *flag_layer(flags, known)):
        values[name] = parse(known[name], text, origin)
        origins[name] = origin
    if values.get("hive.name") == "":
        del values["hive.name"]
    sections = {
        section: kind(
            **{n.partition(".")[2]: v for n, v in values.items() if n.startswith(f"{section}.")}
        )
        for section, kind in SECTIONS.items()
    }
    settings = Settings(**sections, keys=keys)  # pyright: ignore[reportArgumentType]
    _check_together(settings, origins)
    return Loaded(settings, origins)


def _check_together(settings: Settings, origins: Mapping[str, str]) -> None:
    worker = settings.worker
    for smaller, larger in (("heartbeat", "stale_after"), ("stale_after", "remove_after")):
        if getattr(worker, smaller) >= getattr(worker, larger):
            low, high = f"worker.{smaller}", f"worker.{larger}"
            raise SettingsError(
                f"{origins[high]}: {high} = {getattr(worker, larger)} must be more than "
                f"{low} = {getattr(worker, smaller)} ({origins[low]})",
                action=f"Raise worker.{larger} or lower worker.{smaller}.",
            )
