"""Reads a safetensors file's header, and believes nothing in it that the file does not bear out.

Owns the format only: the length, the JSON, and whether the tensors fill the file without gap or
overlap. Nothing is allocated for a number in the file before it is checked, and every defect is a
ModelCorrupted. The format: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from rbee.errors import ModelCorrupted

LENGTH = 8
"""Bytes of the header's length, in front of it."""
MAX_HEADER = 100_000_000
"""As the format's own reader has it."""
_MAX_OBJECTS = 1 << 18
_MAX_ITEMS = 1 << 22
"""Commas in a header: far more than any model has, far less than would fill the memory."""
_MAX_ELEMENTS = 1 << 62
BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Type of a number → how many bits it takes."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Described(msgspec.Struct, frozen=True):
    """A tensor as the file tells it."""

    dtype: str
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]


_HEADER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TENSOR = msgspec.json.Decoder(_Described)
_METADATA = msgspec.json.Decoder(dict[str, str])


class Tensor(NamedTuple):
    """One tensor; `offset` is from the start of the data, sizes in bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    size: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says of itself, checked."""

    tensors: tuple[Tensor, ...]
    data_start: int
    metadata: dict[str, str]

    @property
    def data_size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors)


def read(path: Path) -> Header:
    """The header of a file on disk. Raises ModelCorrupted naming the defect, OSError."""
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        length = header_length(file.read(LENGTH), size, path.name)
        data = bytearray(length)
        view, got = memoryview(data), 0
        while got < length and (count := file.readinto(view[got:])):
            got += count
        if got < length:
            raise ModelCorrupted(f"{path.name}: the file ends at byte {LENGTH + got} of its header")
        return parse(data, size, path.name)


def header_length(start: bytes, size: int, name: str) -> int:
    """How long the header is of a file with `size` bytes that begins with `start`."""
    if len(start) < LENGTH:
        raise ModelCorrupted(f"{name}: {len(start)} bytes are no safetensors file")
    length: int = struct.unpack("<Q", start[:LENGTH])[0]
    if length > size - LENGTH or length < 2:
        raise ModelCorrupted(
            f"{name}: it promises a header of {length} bytes and has {size} bytes in all"
        )
    if length > MAX_HEADER:
        raise ModelCorrupted(
            f"{name}: its header has {length} bytes; the format allows {MAX_HEADER}"
        )
    return length


def parse(data: bytes | bytearray, size: int, name: str) -> Header:
    """The header `data` (without its length) of a file of `size` bytes. Raises ModelCorrupted."""
    if not data.startswith(b"{"):
        raise ModelCorrupted(f"{name}: its header is not a JSON object")
    if data.count(b"{") > _MAX_OBJECTS or data.count(b",") > _MAX_ITEMS:
        raise ModelCorrupted(f"{name}: its header has more entries than a model can have")
    try:
        raw = _HEADER.decode(data)
        metadata = _METADATA.decode(raw.pop("__metadata__", b"{}"))
        told = {key: _TENSOR.decode(value) for key, value in raw.items()}
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
        raise ModelCorrupted(f"{name}: its header cannot be read: {str(exc)[:200]}") from exc
    tensors = tuple(
        sorted(
            (_tensor(key, value, name) for key, value in told.items()),
            key=lambda tensor: (tensor.offset, tensor.size),
        )
    )
    _check_layout(tensors, size - LENGTH - len(data), name)
    return Header(tensors, LENGTH + len(data), metadata)


def _tensor(key: str, told: _Described, name: str) -> Tensor:
    bits = BITS.get(told.dtype)
    if bits is None:
        raise ModelCorrupted(
            f"{name}: tensor {key[:64]!r} has the unknown type {told.dtype[:32]!r}"
        )
    elements = 1
    for size in told.shape:
        elements *= size
        if elements > _MAX_ELEMENTS:
            raise ModelCorrupted(f"{name}: tensor {key[:64]!r} has an impossible shape")
    begin, end = told.data_offsets
    if elements * bits % 8 or end - begin != elements * bits // 8:
        raise ModelCorrupted(
            f"{name}: tensor {key[:64]!r} lies from {begin} to {end},"
            f" its {elements} numbers of type {told.dtype} take {elements * bits / 8:g} bytes"
        )
    return Tensor(key, tuple(told.shape), told.dtype, begin, end - begin)


def _check_layout(tensors: tuple[Tensor, ...], data_size: int, name: str) -> None:
    expected = 0
    for tensor in tensors:
        if tensor.offset != expected:
            raise ModelCorrupted(
                f"{name}: tensor {tensor.name[:64]!r} lies at {tensor.offset},"
                f" it should at {expected}"
            )
        expected += tensor.size
        if expected > data_size:
            raise ModelCorrupted(
                f"{name}: tensor {tensor.name[:64]!r} ends at byte {expected} of the data,"
                f" the file has only {data_size}"
            )
    if expected != data_size:
        raise ModelCorrupted(
            f"{name}: its tensors take {expected} bytes, the file has {data_size} for them"
        )
