"""The struct base classes and the one JSON codec."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from rbee.errors import ValidationFailed

T = TypeVar("T")
Whole: TypeAlias = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
"""A whole number of what another machine says: one without an end would break whoever divides it or
tells it on."""
_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}
"""One for each kind there is: making one of a union takes ten times as long as its use."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """What our own daemons send each other: fields unknown to an older reader are ignored."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user sends: an unknown field is an error that names it."""


def encode(value: Any) -> bytes:
    """JSON, UTF-8. Raises ValidationFailed for text that was made of bytes that are no UTF-8."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError as exc:
        raise ValidationFailed(
            f"some text is not valid UTF-8 (at character {exc.start})",
            field="$",
            constraint="UTF-8",
        ) from exc


def decode(data: bytes | str, kind: type[T]) -> T:
    """Decode strictly; raises ValidationFailed with `field` and `constraint`."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as exc:
        raise _validation(exc) from exc
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise _not_json(exc) from exc


def convert(value: Any, kind: type[T]) -> T:
    """Like decode, from already parsed JSON."""
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.ValidationError as exc:
        raise _validation(exc) from exc
    except (UnicodeError, RecursionError) as exc:
        raise _not_json(exc) from exc


def builtins(value: Any) -> Any:
    """A struct as plain dicts and lists."""
    return msgspec.to_builtins(value)


def _not_json(exc: Exception) -> ValidationFailed:
    if isinstance(exc, UnicodeError):
        return ValidationFailed("body is not valid UTF-8", field="$", constraint="UTF-8")
    why = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
    return ValidationFailed(f"body is not valid JSON: {why}", field="$", constraint="json")


def _validation(exc: msgspec.ValidationError) -> ValidationFailed:
    text = str(exc)
    what, _, path = text.partition(" - at `")
    path = path.removeprefix("key` in `")  # of an object whose keys are free
    field = path.rstrip("`").removeprefix("$.").removesuffix("[...]") or "$"
    if "field `" in what:
        missing = what.split("field `", 1)[1].split("`", 1)[0]
        field = missing if field == "$" else f"{field}.{missing}"
    return ValidationFailed(
        f"{field}: {what}" if field != "$" else what, field=field, constraint=what
    )
