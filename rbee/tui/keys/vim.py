"""Keys that `tui.vim = true` adds: to lists, and to texts that are read."""

from __future__ import annotations

from collections.abc import Mapping

VIM: Mapping[str, str] = {
    "list.half_down": "ctrl+d",
    "list.half_up": "ctrl+u",
    "text.previous": "h",
    "text.next": "l",
    "text.first": "0",
    "text.last": "dollar_sign",
    "narration.first": "0",
    "narration.last": "dollar_sign",
    "chat.first": "0",
    "chat.last": "dollar_sign",
}
"""Id → keys. `gg` needs none: `g` goes to the first row, and once more stays there."""
