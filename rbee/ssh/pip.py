"""pip on the queen's machine: wheels from her package index, or built.

Owns the command lines and how their output is read. Runs as a process of its own, ended with all
its children when the caller goes away.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc

from rbee.errors import InstallFailed
from rbee.ssh.target import Target

DOWNLOAD_LIMIT = 1800.0
BUILD_LIMIT = 3600.0
_LINE = 1 << 16
_SECRET = re.compile(r"(?<=//)[^/@\s]+@")
_QUERY = re.compile(r"\?[^\s)>\"']+")


@dataclass(frozen=True)
class Ended:
    """How it went. `tail`: its last lines, without what an address may hold of a secret."""

    status: int
    tail: list[str]

    @property
    def unreachable(self) -> bool:
        """It tried again and again to reach an index."""
        return self.status != 0 and any("Retrying (Retry(" in line for line in self.tail)

    @property
    def why(self) -> str:
        """Its own last word."""
        if self.unreachable:
            return "the queen's package index does not answer"
        errors = [line for line in self.tail if line.startswith("ERROR")]
        return (errors or self.tail or [f"status {self.status}"])[-1].removeprefix("ERROR: ")


def _words(name: str) -> list[str]:
    quiet = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
    return [name, *quiet, "--retries", "2", "--no-deps"]


def pip() -> list[str]:
    """What runs pip here: the installed one, else the one that Python brings along.

    Raises InstallFailed where there is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    bundled = bundled_pip()
    if bundled is not None:
        return [sys.executable, f"{bundled}/pip"]
    raise InstallFailed(
        "the queen's Python has no pip, which gathers packages for other machines",
        action=f"Install it: {sys.executable} -m ensurepip, or your system's python3-pip.",
        step="packages",
    )


def bundled_pip() -> Path | None:
    """The wheel of pip that Python itself has for new environments."""
    spec = importlib.util.find_spec("ensurepip")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for wheel in sorted(Path(folder).glob("_bundled/pip-*.whl")):
            return wheel
    return None


def download_command(target: Target, wanted: Sequence[str], folder: Path) -> list[str]:
    """Wheels of exactly these requirements, for another machine's Python."""
    major, minor = target.minor
    platforms = [word for platform in target.platforms for word in ("--platform", platform)]
    return [
        *_words("download"), "--only-binary=:all:", "--dest", str(folder), *platforms,
        "--python-version", f"{major}.{minor}", "--implementation", "cp",
        "--abi", f"cp{major}{minor}", *wanted,
    ]  # fmt: skip


def build_command(wanted: str, folder: Path) -> list[str]:
    """A wheel compiled from the sources of a package."""
    package = re.split(r"[^A-Za-z0-9._-]", wanted, maxsplit=1)[0]
    return [
        *_words("wheel"), "--verbose", "--no-cache-dir", "--no-binary", package,
        "--wheel-dir", str(folder), wanted,
    ]  # fmt: skip


def source_command(source: Path, folder: Path) -> list[str]:
    """A wheel of a source tree of pure Python; with the setuptools that is installed, if any."""
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
    return [
        *_words("wheel"), "--quiet", *isolation, "--wheel-dir", str(folder), str(source),
    ]  # fmt: skip


async def run(
    words: Sequence[str],
    *,
    limit: float,
    line: Callable[[str], None] = lambda _: None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run pip with these words; `line` hears each line it prints. Raises InstallFailed when it
    takes longer than `limit` seconds or cannot be started."""
    tail: deque[str] = deque(maxlen=30)
    command = [*pip(), *words]
    try:
        process = await anyio.open_process(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C", **(env or {})}, start_new_session=True, cwd="/",
        )  # fmt: skip
    except OSError as exc:
        raise InstallFailed(f"{command[0]} could not be started: {exc}", step="packages") from exc
    try:
        with anyio.fail_after(limit):
            assert process.stdout is not None
            async for text in _lines(process.stdout):
                tail.append(without_secrets(text))
                line(tail[-1])
            return Ended(await process.wait(), list(tail))
    except TimeoutError as exc:
        raise InstallFailed(
            f"pip {words[0]} took longer than {limit / 60:.0f} minutes on the queen's machine",
            step="packages",
            tail=list(tail),
        ) from exc
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await process.aclose()


def without_secrets(text: str) -> str:
    """What an index's address may hold of a name, a password or a signature is left out."""
    return _QUERY.sub("?…", _SECRET.sub("", text))[:2000]


async def _lines(stream: anyio.abc.ByteReceiveStream) -> AsyncIterator[str]:
    """Those that are not blank; the rest of a very long one is left out."""
    left = b""
    async for data in stream:
        *lines, left = (left + data).split(b"\n")
        for line in (line for line in lines if line.strip()):
            yield line[:_LINE].decode("utf-8", "replace").rstrip()
        left = left[:_LINE]
    if left.strip():
        yield left.decode("utf-8", "replace").rstrip()
