"""Reads a GGUF file's header, and believes nothing in it that the file's size does not bear out.

Owns the format only: magic, counts, metadata, tensor table, and whether they agree with each other
and with the file. No count or length from the file is ever allocated before it is checked, large
arrays (the vocabulary) are walked over and never built, and every defect is a ModelCorrupted that
names the place. llama.cpp aborts the process on some of what is refused here.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rbee.errors import ModelCorrupted, ModelIncompatible
from rbee.models.gguf_types import ARRAY, FILE_TYPES, SCALARS, STRING, TENSOR_TYPES

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_WINDOW = 1 << 20
_MAX_NAME = 64 << 10
_MAX_STRING = 16 << 20
_MAX_TENSORS = 1 << 17
_MAX_KEYS = 1 << 16
_KEPT = 4096
"""Arrays of numbers up to this length are kept (one per layer); longer ones are only counted."""
_KEPT_STRINGS = 64
_MAX_TOKENS = 1 << 21
"""The largest vocabularies have 262 144; each token costs some 60 bytes while it is counted."""
_TOKENS = "tokenizer.ggml.tokens"
_TOKEN_TYPES = "tokenizer.ggml.token_type"
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")
_LAYER = re.compile(r"(?:enc\.)?blk\.(\d{1,9})\.")


class Source(Protocol):
    """What a header is read from: an open file, or one that is far away."""

    def read(self, size: int, /) -> bytes | None:
        """Up to `size` bytes from where it stands; none at the end."""
        ...

    def seek(self, offset: int, /) -> int:
        """Stand at `offset` from the start."""
        ...


class Skipped(NamedTuple):
    """Stands in the metadata for an array that was walked over."""

    length: int


class Vocabulary(NamedTuple):
    """Stands in the metadata for the tokens: what can be told of them without keeping them."""

    length: int
    distinct: int
    """How many different texts; llama.cpp takes a text to end at a zero byte."""
    byte_tokens: dict[int, int]
    """Index → byte of the tokens called `<0x0A>`."""
    single: frozenset[int]
    """Bytes that are a token as they are."""


class Tensor(NamedTuple):
    """One tensor; `offset` is from the start of the data section, sizes in bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """What a file says of itself, checked."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    data_start: int

    @property
    def architecture(self) -> str:
        """`llama`, `qwen3`, …"""
        return str(self.metadata["general.architecture"])

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value of the architecture's own: `get("block_count")`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def quant(self) -> str | None:
        """The file's type (`Q4_1`), else the type most of its bytes have."""
        named = FILE_TYPES.get(self.metadata.get("general.file_type", -1))
        if named is not None:
            return named
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size
        return max(sizes, key=lambda kind: sizes[kind]) if sizes else None

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors)


def is_gguf(path: Path) -> bool:
    """Whether the file begins like a GGUF file. Raises OSError."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read(path: Path) -> Header:
    """The header of a single-file model.

    Raises ModelCorrupted with the place, ModelIncompatible for a split file, OSError.
    """
    with path.open("rb", buffering=0) as file:
        return read_from(file, name=path.name, size=path.stat().st_size)


def read_from(file: Source, *, name: str, size: int) -> Header:
    """The header of a model whose file has `size` bytes, wherever they are.

    Only the header is read, in pieces of 1 MiB; what it promises is checked against `size`.
    Raises as `read`, and what `file` raises.
    """
    reader = _Reader(file, name, size)
    if reader.take(4, "magic") != MAGIC:
        raise reader.bad("it does not begin with GGUF")
    version = reader.number("<I", "version")
    if version not in _VERSIONS:
        raise reader.bad(f"version {version} is not 2 or 3")
    tensor_count = reader.count("tensor count", least=24, limit=_MAX_TENSORS)
    key_count = reader.count("key count", least=13, limit=_MAX_KEYS)
    metadata = _metadata(reader, key_count)
    tensors = _tensors(reader, tensor_count, metadata)
    return _checked(reader, version, metadata, tensors)


def _metadata(reader: _Reader, count: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for index in range(count):
        key = reader.text(f"name of key {index}", limit=_MAX_NAME)
        if not key or key in out:
            raise reader.bad(f"key {index} is {'repeated' if key else 'empty'}: {key[:80]!r}")
        kind = reader.number("<I", f"kind of {key[:80]!r}")
        out[key] = _array(reader, key) if kind == ARRAY else _value(reader, kind, key)
    return out


def _value(reader: _Reader, kind: int, key: str) -> Any:
    if kind == STRING:
        return reader.text(f"value of {key[:80]!r}", limit=_MAX_STRING)
    form = SCALARS.get(kind)
    if form is None:
        raise reader.bad(f"{key[:80]!r} has the unknown kind {kind}")
    return reader.number(form, f"value of {key[:80]!r}")


def _array(reader: _Reader, key: str) -> Any:
    where = f"array {key[:80]!r}"
    kind = reader.number("<I", where)
    if kind == STRING:
        length = reader.count(where, least=8)
        if key == _TOKENS:
            return _vocabulary(reader, length, where)
        if length <= _KEPT_STRINGS:
            return [reader.text(where, limit=_MAX_STRING) for _ in range(length)]
        reader.skip_texts(length, where)
        return Skipped(length)
    form = SCALARS.get(kind)
    if form is None:
        raise reader.bad(f"{where} has elements of the unknown kind {kind}")
    size = struct.calcsize(form)
    length = reader.count(where, least=size)
    if length <= _KEPT or (key == _TOKEN_TYPES and length <= _MAX_TOKENS):
        data = reader.take(length * size, where)
        return list(struct.unpack(f"<{length}{form[1]}", data))
    reader.skip(length * size, where)
    return Skipped(length)


def _vocabulary(reader: _Reader, length: int, where: str) -> Vocabulary:
    if length > _MAX_TOKENS:
        raise reader.bad(f"{where} promises {length} tokens; there are at most {_MAX_TOKENS}")
    texts, named, single = set[int](), dict[int, int](), set[int]()
    for index, text in enumerate(reader.texts(length, where)):
        known = text.partition(b"\0")[0] if 0 in text else text
        texts.add(hash(known or b"[EMPTY_%d]" % index))  # as llama.cpp calls the empty ones
        if len(known) == 1:
            single.add(known[0])
        elif len(known) == 6 and (match := _BYTE.fullmatch(known)) is not None:
            named[index] = int(match[1], 16)
    return Vocabulary(length, len(texts), named, frozenset(single))


def _tensors(reader: _Reader, count: int, metadata: dict[str, Any]) -> tuple[Tensor, ...]:
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise reader.bad(f"alignment {alignment!r} is not a power of two")
    expected, names, out = 0, set[str](), list[Tensor]()
    for index in range(count):
        tensor = _tensor(reader, index)
        if tensor.name in names:
            raise reader.bad(f"tensor {tensor.name!r} occurs twice")
        if tensor.offset != expected:
            raise reader.bad(
                f"tensor {tensor.name!r} lies at {tensor.offset}, it should at {expected}"
            )
        names.add(tensor.name)
        expected += _up(tensor.size, alignment)
        out.append(tensor)
    reader.align(alignment)
    if out and (end := reader.at + out[-1].offset + out[-1].size) > reader.size:
        raise reader.bad(
            f"tensor {out[-1].name!r} ends at byte {end}, the file has only {reader.size}"
        )
    return tuple(out)


def _tensor(reader: _Reader, index: int) -> Tensor:
    name = reader.text(f"name of tensor {index}", limit=_MAX_NAME)
    where = f"tensor {index} {name[:64]!r}"
    rank = reader.number("<I", where)
    if not 1 <= rank <= 4:
        raise reader.bad(f"{where} has {rank} dimensions")
    shape = struct.unpack(f"<{rank}Q", reader.take(8 * rank, where))
    kind = TENSOR_TYPES.get(code := reader.number("<I", where))
    if kind is None:
        raise reader.bad(f"{where} has the unknown type {code}")
    offset = reader.number("<Q", where)
    elements = math.prod(shape)
    if not 0 < elements < 1 << 62 or shape[0] % kind.block:
        raise reader.bad(f"{where} has the impossible shape {shape} for {kind.name}")
    return Tensor(name, shape, kind.name, offset, elements // kind.block * kind.size)


def _checked(
    reader: _Reader, version: int, metadata: dict[str, Any], tensors: tuple[Tensor, ...]
) -> Header:
    if not isinstance(architecture := metadata.get("general.architecture"), str):
        raise reader.bad("it has no general.architecture")
    header = Header(version, metadata, tensors, reader.at)
    if isinstance(parts := metadata.get("split.count", 1), int) and parts > 1:
        raise ModelIncompatible(
            f"{reader.name} is one of {parts} parts of a split model",
            action="Join the parts with llama-gguf-split --merge; this version reads single files.",
        )
    layers = {int(match[1]) for tensor in tensors if (match := _LAYER.match(tensor.name))}
    blocks = header.get("block_count")
    if not isinstance(blocks, int) or blocks < 1 or layers != set(range(len(layers))):
        raise reader.bad(f"{architecture}.block_count is {blocks!r} with {len(layers)} layers")
    if blocks != len(layers):
        raise reader.bad(
            f"{architecture}.block_count is {blocks}, but there are {len(layers)} layers of tensors"
        )
    return header


class _Reader:
    """A window moving over the file; every length is checked against what is left of the file."""

    def __init__(self, file: Source, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._file = file
        self._window = b""
        self._start = 0
        self._pos = 0

    @property
    def at(self) -> int:
        """Bytes from the start of the file."""
        return self._start + self._pos

    def bad(self, what: str) -> ModelCorrupted:
        """The error for a defect found here."""
        return ModelCorrupted(f"{self.name}: {what} (at byte {self.at} of {self.size})")

    def take(self, length: int, where: str) -> bytes:
        """The next bytes."""
        self._need(length, where)
        data = self._window[self._pos : self._pos + length]
        self._pos += length
        return data

    def number(self, form: str, where: str) -> Any:
        """One number of a struct format."""
        return struct.unpack(form, self.take(struct.calcsize(form), where))[0]

    def count(self, where: str, *, least: int, limit: int | None = None) -> int:
        """A count of things that take at least `least` bytes each."""
        value: int = self.number("<Q", where)
        if value * least > self.size - self.at or (limit is not None and value > limit):
            raise self.bad(f"{where} promises {value} entries, more than the file can hold")
        return value

    def text(self, where: str, *, limit: int) -> str:
        """A string; bytes that are not UTF-8 are replaced."""
        length: int = self.number("<Q", where)
        if length > min(limit, self.size - self.at):
            raise self.bad(f"{where} promises {length} bytes")
        return self.take(length, where).decode("utf-8", "replace")

    def skip(self, length: int, where: str) -> None:
        """Walk over bytes without reading them."""
        if length > self.size - self.at:
            raise self.bad(f"{where} ends beyond the file")
        target = self.at + length
        if target <= self._start + len(self._window):
            self._pos += length
            return
        self._file.seek(target)
        self._window, self._start, self._pos = b"", target, 0

    def texts(self, count: int, where: str) -> Iterator[bytes]:
        """The next strings one by one: the hot loop, some 100 000 turns for a vocabulary."""
        unpack = struct.Struct("<Q").unpack_from
        for _ in range(count):
            window, pos = self._window, self._pos
            if pos + 8 > len(window):
                self._need(8, where)
                window, pos = self._window, self._pos
            length: int = unpack(window, pos)[0]
            end = pos + 8 + length
            if end > len(window):
                if length > min(_MAX_STRING, self.size - self.at):
                    raise self.bad(f"a string of {where} promises {length} bytes")
                self._pos += 8
                yield self.take(length, where)
                continue
            self._pos = end
            yield window[pos + 8 : end]

    def skip_texts(self, count: int, where: str) -> None:
        """Walk over strings."""
        unpack = struct.Struct("<Q").unpack_from
        done = 0
        while done < count:
            self._need(8, where)
            window, pos, last = self._window, self._pos, len(self._window) - 8
            while done < count and pos <= last:
                length: int = unpack(window, pos)[0]
                if length > last:
                    break
                pos += 8 + length
                done += 1
            if pos <= len(window):
                self._pos = pos
                if done < count and pos <= last:
                    self._skip_long(where)
                    done += 1
            else:
                self._pos = len(window)
                self.skip(pos - len(window), where)

    def _skip_long(self, where: str) -> None:
        length: int = self.number("<Q", where)
        if length > min(_MAX_STRING, self.size - self.at):
            raise self.bad(f"a string of {where} promises {length} bytes")
        self.skip(length, where)

    def align(self, alignment: int) -> None:
        """Move to the next multiple; a file without tensors may end before it."""
        target = _up(self.at, alignment)
        self.skip(min(target, self.size) - self.at, "padding")

    def _need(self, length: int, where: str) -> None:
        if self._pos + length <= len(self._window):
            return
        if length > self.size - self.at:
            raise self.bad(f"the file ends inside {where}")
        rest = self._window[self._pos :]
        more = bytearray(rest)
        while len(more) < length or len(more) < _WINDOW:
            chunk = self._file.read(_WINDOW)
            if not chunk:
                break
            more += chunk
        if len(more) < length:
            raise self.bad(f"the file ends inside {where}")
        self._start, self._pos, self._window = self.at, 0, bytes(more)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
