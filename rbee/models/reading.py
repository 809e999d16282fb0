"""What lies at a path: a model, told by its content, with what is known of it before it is loaded.

Owns the choice of the reader. Reads headers only, believes no file name, and opens nothing but
regular files and folders.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

import msgspec

from rbee.errors import ModelCorrupted, ModelIncompatible
from rbee.models import gguf, safetensors_folder
from rbee.models.describe import info_of
from rbee.protocol.hives import ModelInfo

_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_TOKENIZER, _TOKENIZER_LIMIT = "tokenizer_config.json", 16 << 20


class Looked(NamedTuple):
    """`template`: whether the model brings a chat template."""

    info: ModelInfo
    template: bool


def look(path: Path) -> Looked:
    """The model at a path; its id is the name there, its ref `file:`.

    Raises ModelCorrupted, ModelIncompatible, OSError.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        return Looked(safetensors_folder.read(path), _folder_template(path))
    if not stat.S_ISREG(status.st_mode):
        raise ModelIncompatible(f"{path} is not a regular file")
    if not gguf.is_gguf(path):
        if path.suffix.lower() == ".gguf":
            what = "is empty" if status.st_size == 0 else "does not begin as a GGUF file does"
            raise ModelCorrupted(f"{path.name} {what}")
        raise ModelIncompatible(f"{path.name} is not a GGUF file")
    header = gguf.read(path)
    info = info_of(header, name=path.name, ref=f"file:{path}", path=str(path), size=status.st_size)
    return Looked(info, bool(header.metadata.get("tokenizer.chat_template")))


def _folder_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in _TEMPLATES):
        return True
    path = folder / _TOKENIZER
    try:
        if not path.is_file() or path.stat().st_size > _TOKENIZER_LIMIT:
            return False
        told = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
    return bytes(told.get("chat_template", b"null")) != b"null"
