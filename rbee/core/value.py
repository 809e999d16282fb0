"""Records that nobody changes, made as fast as any other object.

`dataclass(frozen=True)` sets each field through `object.__setattr__`, which takes three times as
long; some thirty records are made for each request. So it is the type checker that refuses a
change, not the interpreter. Owns nothing but that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(*, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """A dataclass with slots whose fields are set once, by its `__init__`. It has no hash."""

    def made(cls: type[T]) -> type[T]:
        return dataclass(slots=True, kw_only=kw_only)(cls)

    return made
