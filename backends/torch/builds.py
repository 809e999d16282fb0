"""What the installed torch was built for, and how to install one that is built for something else.

Owns the table of builds. Looks at files only and loads no library: importing torch takes seconds,
and a broken driver can end the process.

PyTorch's builds are packages of one name on several indexes (https://pytorch.org/get-started):
which one pip takes is decided by the index it is told, so the commands here name it. On Linux the
default index has the CUDA build, of several GB; on macOS the build there has Metal.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = "torch"
_INDEX = "https://download.pytorch.org/whl"
_LONGEST = 64 << 10


class Build(NamedTuple):
    """A kind of device besides the CPU."""

    kind: str
    """As rbee names it."""
    mark: str
    """The name in torch/version.py that has a value in such a build."""
    folder: str
    """The folder of PyTorch's index with the packages."""
    torch: str
    """As torch names it."""


BUILDS = (
    Build("cuda", "cuda", "cu128", "cuda"),
    Build("hip", "hip", "rocm6.4", "cuda"),
    Build("xpu", "xpu", "xpu", "xpu"),
)


def version() -> str | None:
    """The installed version of torch."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def built() -> tuple[str, ...]:
    """Kinds of device this torch was built for; `cpu` always, empty when it is not installed."""
    text = _said()
    if text is None:
        return ()
    found = [build.kind for build in BUILDS if re.search(_valued(build.mark), text, re.MULTILINE)]
    if sys.platform == "darwin":
        found.append("metal")
    return ("cpu", *found)


def install(kind: str | None = None) -> str:
    """One sentence: the shell command that installs what the backend needs for a kind of device."""
    python = shlex.quote(sys.executable)
    if kind == "metal":
        if sys.platform != "darwin":
            return "Metal exists on macOS only."
        return f"Install it: {python} -m pip install 'rbee[torch]'."
    build = next((one for one in BUILDS if one.kind == kind), None)
    if build is None and kind not in (None, "cpu"):
        known = ", ".join(one.kind for one in BUILDS)
        return f"torch is built for cpu, metal, {known}; name one of them."
    if sys.platform == "darwin" and build is None:
        return f"Install it: {python} -m pip install 'rbee[torch]'."
    folder = build.folder if build is not None else "cpu"
    again = "--force-reinstall --no-deps " if version() is not None and build is not None else ""
    first = f"{python} -m pip install {again}torch --index-url {_INDEX}/{folder}"
    return f"Install it: {first} && {python} -m pip install 'rbee[torch]'."


def _said() -> str | None:
    """torch/version.py as text."""
    spec = importlib.util.find_spec(PACKAGE)
    for root in spec.submodule_search_locations or () if spec is not None else ():
        path = Path(root) / "version.py"
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                return file.read(_LONGEST)
    return None


def _valued(name: str) -> str:
    """A line that gives the name another value than None."""
    return rf"^{name}(\s*:[^=\n]*)?\s*=\s*['\"]"
