"""How a daemon's log lines look: text for people or JSON for machines, both with their fields.

Owns the two forms and the correlation id that the lines of one request share. What is given as
`extra=` comes out as JSON keys, or as `key=value` behind the text. Never decides what is logged.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from typing import Literal

Form = Literal["text", "json"]

correlation: ContextVar[str] = ContextVar("correlation", default="")
"""The id of the request that is being answered here; empty outside of one."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_FOREIGN = frozenset({"color_message"})
"""uvicorn's own, a message once more."""
_PLAIN = re.compile(r"[^\s\"'=\x00-\x1f\x7f]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
"""What would move a terminal's cursor, or look like another line: messages repeat what came from
elsewhere."""


class TextFormatter(logging.Formatter):
    """A line in `%` style, then the fields."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        record.message = _CONTROL.sub(_shown, record.message)
        line = super().formatMessage(record)
        return " ".join([line, *(f"{key}={_quoted(v)}" for key, v in fields_of(record).items())])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: at, level, logger, message, the fields, traceback when there is one.

    `at` is UTC seconds since the epoch. A field never takes the place of those five.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        from rbee.protocol.base import encode

        own: dict[str, object] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _valid(record.getMessage()),
        }
        if record.exc_info:
            own["traceback"] = _valid(self.formatException(record.exc_info))
        fields = {key: _simple(value) for key, value in fields_of(record).items()}
        return encode(own | fields | own).decode()


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What the caller gave as `extra`, and the correlation id of the request in progress."""
    given = vars(record)
    fields = {key: given[key] for key in given if key not in _STANDARD and key not in _FOREIGN}
    if (current := correlation.get()) and not fields.get("correlation_id"):
        fields["correlation_id"] = current
    return fields


def handler_of(form: Form, text: str, *, dates: str | None = None) -> logging.Handler:
    """Writes to stderr; `text` and `dates` are the formats of the lines for people."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(text, dates))
    return handler


def _simple(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _valid(str(value))


def _valid(text: str) -> str:
    """Lone surrogates, as in undecodable file names, have no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _shown(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _quoted(value: object) -> str:
    """Bare when that is clear, else as a JSON string: a value never looks like another line."""
    text = _valid(str(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
