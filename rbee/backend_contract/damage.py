"""Copies of a model that are damaged, each in one way, to see that a backend refuses them.

Owns the damage. Copies little: a file is cut off after some megabytes, so that it costs the same
whatever the model's size.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rbee.backend_api import ModelFile

_MOST = 4 << 20
_SMALL = 32 << 20
"""Bytes; of a folder only files up to this size are copied whole."""
_BROUGHT = (".py", ".pyc")
"""A model that a backend brings along may have no file but its own code."""


def damaged(file: ModelFile, scratch: Path) -> Iterator[tuple[str, ModelFile]]:
    """What is wrong, and the copy. Nothing for a model that is no file."""
    if file.path.suffix in _BROUGHT or not file.path.exists():
        return
    if file.path.is_dir():
        yield from _folders(file, scratch)
        return
    path = scratch / f"cut{file.path.suffix}"
    path.write_bytes(_beginning(file.path))
    yield "a file that was cut off", replace(file, path=path)
    path = scratch / f"empty{file.path.suffix}"
    path.write_bytes(b"")
    yield "an empty file", replace(file, path=path)
    path = scratch / f"gone{file.path.suffix}"
    yield "a file that is not there", replace(file, path=path)


def _folders(file: ModelFile, scratch: Path) -> Iterator[tuple[str, ModelFile]]:
    cut = scratch / "cut"
    shutil.copytree(file.path, cut, ignore=_large)
    for path in file.path.glob("*.safetensors"):
        (cut / path.name).write_bytes(_beginning(path))
    yield "weights that were cut off", replace(file, path=cut)
    bare = scratch / "bare"
    bare.mkdir()
    yield "an empty folder", replace(file, path=bare)
    garbled = scratch / "garbled"
    shutil.copytree(cut, garbled)
    (garbled / "config.json").write_text("{", encoding="utf-8")
    yield "a config.json that is no JSON", replace(file, path=garbled)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(min(_MOST, path.stat().st_size // 2))


def _large(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).stat().st_size > _SMALL]
