"""The clauses on a backend before it has a model, and on what it refuses to load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rbee.backend_api import BackendInfo, LoadOptions, ModelFile
from rbee.backend_contract.damage import damaged
from rbee.backend_contract.harness import Broken, Skip, load, must
from rbee.errors import (
    BackendUnavailable,
    Cancelled,
    DeviceFailed,
    InternalError,
    RbeeError,
    ValidationFailed,
)


def _describes(info: BackendInfo, file: ModelFile, options: LoadOptions, scratch: Path) -> None:
    del scratch
    must(bool(info.formats), "formats is empty: it would never be chosen")
    must(file.format in info.formats, f"the model is {file.format}, it runs {info.formats}")
    must(bool(info.capabilities), "capabilities is empty")
    must(info.max_slots >= 1, f"max_slots is {info.max_slots}")
    support = info.probe()
    must(support.available, f"its probe says that it cannot run here: {support.reason}")
    kind = options.device.partition(":")[0]
    must(
        bool({kind, options.device} & set(support.devices)),
        f"it is checked on {options.device}, and its probe names {support.devices}",
    )


def _no_other_device(
    info: BackendInfo, file: ModelFile, options: LoadOptions, scratch: Path
) -> None:
    del scratch
    for device in ("abacus:0", "cuda:99"):
        try:
            model = load(info, file, replace(options, device=device))
        except (BackendUnavailable, DeviceFailed, ValidationFailed):
            continue
        except RbeeError as exc:
            raise Broken(
                f"asked for {device} it raised {exc.code}, not DEVICE_FAILED or BACKEND_UNAVAILABLE"
            ) from exc
        model.close()
        raise Broken(f"asked for {device}, which is not here, it loaded on something else")


def _refuses_damage(
    info: BackendInfo, file: ModelFile, options: LoadOptions, scratch: Path
) -> None:
    copies = list(damaged(file, scratch))
    if not copies:
        raise Skip("the model is no file")
    for words, copy in copies:
        try:
            model = load(info, copy, options)
        except RbeeError as exc:
            if exc.code == InternalError.code:
                raise Broken(f"{words}: it raised {exc.code}: {exc.message}") from exc
            continue
        except Exception as exc:
            raise Broken(f"{words}: {type(exc).__name__}, which is no RbeeError: {exc}") from exc
        model.close()
        raise Broken(f"{words}: it loaded all the same")


def _gives_up(info: BackendInfo, file: ModelFile, options: LoadOptions, scratch: Path) -> None:
    del scratch
    try:
        model = load(info, file, options, cancelled=True)
    except Cancelled:
        return
    model.close()
    raise Broken("loading went on to its end although it was cancelled before it began")


UNLOADED = (
    ("describes itself", _describes),
    ("takes no other device", _no_other_device),
    ("refuses damaged files", _refuses_damage),
    ("gives up loading", _gives_up),
)
"""Name and clause, in their order."""
