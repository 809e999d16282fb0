"""A virtual environment for `llama_cpp.server`: its web packages and the installed library.

Nothing is compiled: the environment sees the installed `llama_cpp` package itself through a link,
so it is the very same library as the worker's. The product's own environment stays as it is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.places import BUILD

LIMIT = 300.0
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


class NoServer(Exception):
    """It cannot be had; the message is told in the table."""


def needed(requirements: Sequence[str]) -> list[str]:
    """Of a package's requirements those of its base and its extra `server`."""
    found: list[str] = []
    for requirement in requirements:
        what, _, marker = requirement.partition(";")
        extra = _EXTRA.search(marker)
        if extra is None or extra[1] == "server":
            found.append(what.strip())
    return found


def prepare(say: Callable[[str], None]) -> Path:
    """The environment's Python, made if it is not there. Raises NoServer."""
    version = importlib.metadata.version("llama-cpp-python")
    folder = BUILD / f"llama_cpp-server-{version}"
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    say("installing what llama_cpp.server needs")
    packages = needed(importlib.metadata.requires("llama-cpp-python") or [])
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages])
    _link(folder)
    _run([str(python), "-c", "import llama_cpp.server.app"])
    (folder / "ready").touch()
    return python


def _link(folder: Path) -> None:
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise NoServer("llama-cpp-python is not installed")
    shared = folder / "shared"
    shared.mkdir()
    (shared / "llama_cpp").symlink_to(Path(spec.origin).parent)
    packages = next((folder / "lib").glob("python3*/site-packages"))
    (packages / "llama_cpp.pth").write_text(f"{shared}\n", "utf-8")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise NoServer(f"its packages could not be installed in {LIMIT:.0f} s") from exc
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NoServer(f"its packages cannot be installed here ({last[:120]})")
