"""`rbee backend check NAME`: the contract against one backend, in a process of its own.

Owns the choice of a model, the process and the report. What is checked, rbee.backend_contract says.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from rbee import registry
from rbee.backend_api import BackendInfo
from rbee.backend_contract.checks import NAMES, Found
from rbee.daemons.process import python_module
from rbee.errors import BackendUnavailable, ModelNotFound, RbeeError, ValidationFailed
from rbee.models import packages
from rbee.narration import printable
from rbee.output import print_json, print_table
from rbee.protocol.base import decode

_SECONDS = 1800
"""For all clauses together."""
_TAIL = 12
"""Lines of what a process that died had said."""
_MOST_SAID = 1 << 20
"""Bytes of it that are read."""
_NOT_THERE = 2
"""The process's exit code for a backend that cannot be imported."""


class Model:
    """What it is checked with."""

    def __init__(self, path: Path, form: str, *, name: str, words: str) -> None:
        self.path, self.format, self.name, self.words = path, form, name, words


def run(
    name: str, *, model: Path | None, form: str | None, device: str, quiet: bool, as_json: bool
) -> int:
    """Check and report; 1 when a clause failed."""
    info = registry.load(name)
    support = info.probe()
    if not support.available:
        raise BackendUnavailable(
            f"backend {name} cannot run here: {support.reason}",
            action=support.action or None,
            backend=name,
        )
    with _chosen(info, model, form) as chosen:
        if not quiet:
            sys.stderr.write(f"Checking {name} with {chosen.words} on {device} …\n")
        found = _checked(name, chosen, device)
    bad = [one for one in found if one.state == "failed"]
    if as_json:
        print_json({"ok": not bad, "backend": name, "device": device, "model": chosen.words,
                    "clauses": [vars(one) for one in found]})  # fmt: skip
        return 1 if bad else 0
    rows = [[one.name, one.state, printable(one.words)] for one in found]
    print_table(["clause", "state", "why"], rows, empty="")
    if bad:
        sys.stderr.write(f"rbee: {len(bad)} of {len(found)} clauses failed\n")
    return 1 if bad else 0


def _checked(name: str, model: Model, device: str) -> list[Found]:
    command = [
        *python_module("rbee.backend_contract"), name,
        "--model", str(model.path), "--id", model.name, "--format", model.format,
        "--device", device,
    ]  # fmt: skip
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryFile("w+b"))
        said = stack.enter_context(tempfile.TemporaryFile("w+b"))
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="rbee-check-", ignore_cleanup_errors=True)
        )
        code = _ended(command, out, said, Path(scratch))
        found = _read(out)
        if _whole(code, found):
            return found
        last = " | ".join(_end_of(said).decode("utf-8", "replace").splitlines()[-_TAIL:])
    what = f"it took more than {_SECONDS} s" if code is None else f"its process ended with {code}"
    at = NAMES[min(len(found), len(NAMES) - 1)]
    return [*found, Found(at, "failed", f"{what}; it had said: {last[:1000] or 'nothing'}")]


def _ended(command: list[str], out: IO[bytes], said: IO[bytes], scratch: Path) -> int | None:
    """Its exit code, None when it took too long. Leaves no process of it and no temporary file."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=said,
        env={**os.environ, "TMPDIR": str(scratch)},
        start_new_session=True,
    )
    try:
        return process.wait(_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError, PermissionError):  # with all that it started
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _whole(code: int | None, found: list[Found]) -> bool:
    """Whether all was said that was to be. A backend may end its process with any code."""
    failed = any(one.state == "failed" for one in found)
    if code == _NOT_THERE:
        return failed
    return tuple(one.name for one in found) == NAMES and code == int(failed)


def _read(out: IO[bytes]) -> list[Found]:
    """What each clause found; a line that was cut off is none."""
    out.seek(0)
    found: list[Found] = []
    for line in out.read(_MOST_SAID).splitlines():
        with suppress(ValidationFailed):
            one = decode(line, dict[str, str])
            found.append(Found(one.get("name", ""), one.get("state", ""), one.get("words", "")))
    return found


def _end_of(said: IO[bytes]) -> bytes:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - _MOST_SAID))
    return said.read()


@contextmanager
def _chosen(
    info: BackendInfo, model: Path | None, form: str | None
) -> Generator[Model, None, None]:
    if model is not None:
        path = model.expanduser().resolve()
        if not path.exists():
            raise ModelNotFound(f"{model} does not exist", action="Name a model's file or folder.")
        told = form or _format_of(path, info)
        yield Model(path, told, name=path.stem, words=str(path))
        return
    if own := info.models():
        yield Model(own[0].path, own[0].format, name=own[0].id, words=f"its model {own[0].id}")
        return
    if "safetensors" in info.formats:
        from rbee.backend_contract import tiny  # numpy, safetensors, tokenizers

        with tempfile.TemporaryDirectory(prefix="rbee-tiny-") as folder:
            made = tiny.make(Path(folder) / "tiny")
            yield Model(made, "safetensors", name="tiny", words="a tiny model of random weights")
        return
    if "gguf" in info.formats and (file := _packaged()) is not None:
        yield Model(file, "gguf", name=file.stem, words=file.name)
        return
    raise ValidationFailed(
        f"backend {info.name} brings no model along and rbee has none in the form it runs"
        f" ({', '.join(info.formats)})",
        action=f"Name one: rbee backend check {info.name} --model PATH.",
        field="model",
        constraint=f"of {', '.join(info.formats)}",
    )


def _format_of(path: Path, info: BackendInfo) -> str:
    known = "safetensors" if path.is_dir() else path.suffix.removeprefix(".").lower()
    if known in info.formats:
        return known
    if len(info.formats) == 1:
        return info.formats[0]
    raise ValidationFailed(
        f"{path.name} does not tell which format it has; {info.name} runs"
        f" {', '.join(info.formats)}",
        action="Say it with --format.",
        field="format",
        constraint=f"of {', '.join(info.formats)}",
    )


def _packaged() -> Path | None:
    for name in packages.PACKAGED:
        try:
            file = packages.packaged(name)
        except RbeeError:
            continue
        if file is not None:
            return file.path
    return None
