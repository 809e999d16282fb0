"""Adding a machine: where it is and what it is called, and the question about its host key.

Owns the two dialogs and what may be written in them. What is done with the answers is the Hives
screen's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from rbee.errors import HostKeyUnknown, RbeeError, ValidationFailed
from rbee.machine_words import add_name, key_check
from rbee.narration import printable
from rbee.protocol.base import convert
from rbee.protocol.machines import Nearby
from rbee.protocol.operations import HiveAdd
from rbee.tui.screens.dialogs import Choice, Confirm

MOST_OFFERED = 50
TRUST = "trust"


class AddMachine(ModalScreen[HiveAdd | None]):
    """Two fields and the machines that are known; None for escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("down", "move(1)", show=False, priority=True),
        Binding("up", "move(-1)", show=False, priority=True),
    ]

    def __init__(
        self,
        known: Sequence[Nearby],
        taken: Collection[str],
        *,
        target: str = "",
        name: str = "",
        hint: str = "",
    ) -> None:
        """`known`: what may be chosen; `taken`: names that are in use."""
        super().__init__(classes="dialog")
        self._known = [one for one in known if one.added_as is None][:MOST_OFFERED]
        self._taken = frozenset(taken)
        self._target, self._name, self._hint = target, name, hint
        self._own_name = bool(name)
        self._proposed = name

    def compose(self) -> ComposeResult:
        box = Vertical(
            Static(
                "Where is it?  user@host, user@host:port or a Host of ~/.ssh/config", markup=False
            ),
            Input(self._target, id="target", compact=True, max_length=400),
            Static("What is it called here?", markup=False),
            Input(self._name, id="name", compact=True, max_length=63),
            Static("", id="wrong", markup=False),
            Static(self._hint, id="known", markup=False),
            OptionList(id="near", compact=True),
            classes="box wide",
        )
        box.border_title = "Add a machine"
        box.border_subtitle = "enter add · tab other field · ↑↓ choose · esc"
        yield box

    def on_mount(self) -> None:
        for field in self.query(Input):
            field.cursor_blink = False
        options = self.query_one("#near", OptionList)
        options.can_focus = False
        options.add_options([Option(_offer(one), id=str(at)) for at, one in enumerate(self._known)])
        options.display = bool(self._known)
        options.highlighted = None
        if self._known:
            self.query_one("#known", Static).update(Content("Known already:"))
        if self._target and not self._name:
            self._propose(self._target)

    def action_move(self, step: int) -> None:
        """Choose one of those that are known."""
        if not self._known:
            return
        options = self.query_one("#near", OptionList)
        at = options.highlighted
        options.highlighted = 0 if at is None else (at + step) % len(self._known)
        self._choose(options.highlighted)

    @on(OptionList.OptionSelected)
    def _clicked(self, event: OptionList.OptionSelected) -> None:
        self._choose(event.option_index)

    @on(Input.Changed, "#target")
    def _located(self, event: Input.Changed) -> None:
        self._propose(event.value)
        self._say("")

    @on(Input.Changed, "#name")
    def _named(self, event: Input.Changed) -> None:
        self._own_name = event.value not in ("", self._proposed)
        self._say("")

    @on(Input.Submitted)
    def _submitted(self) -> None:
        target = self.query_one("#target", Input).value.strip()
        name = self.query_one("#name", Input).value.strip()
        try:
            self.dismiss(wanted(name, target, self._taken))
        except RbeeError as exc:
            self._say(exc.message)
            self.query_one("#target" if not target else "#name", Input).focus()

    def _choose(self, at: int) -> None:
        chosen = self._known[at]
        field = self.query_one("#target", Input)
        field.value = chosen.target
        field.cursor_position = len(field.value)
        self._own_name = False
        self._propose(chosen.name)

    def _propose(self, target: str) -> None:
        if self._own_name:
            return
        self._proposed = proposed_name(target)
        self.query_one("#name", Input).value = self._proposed

    def _say(self, words: str) -> None:
        self.query_one("#wrong", Static).update(Content(words))


def wanted(name: str, target: str, taken: Collection[str] = ()) -> HiveAdd:
    """The operation. Raises ValidationFailed, with words for the person who wrote it."""
    if not target:
        raise ValidationFailed("Say where it is.", field="target", constraint="not empty")
    if not name:
        raise ValidationFailed("Give it a name.", field="name", constraint="not empty")
    if name in taken:
        raise ValidationFailed(
            f"{name} is the name of another machine.", field="name", constraint="unique"
        )
    try:
        return convert({"operation": "hive_add", "name": name, "target": target}, HiveAdd)
    except ValidationFailed as exc:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            words = "A name has small letters, digits and hyphens, like gaming-pc."
        else:
            words = "Write it like vince@10.0.0.7 or vince@gaming-pc:2222."
        raise ValidationFailed(words, field="name", constraint=exc.message) from exc


def proposed_name(target: str) -> str:
    """What a machine could be called: `attic` for `vince@attic.local:22`, else an empty text."""
    host = target.strip().rpartition("@")[2]
    if re.fullmatch(r"[0-9.]+(:[0-9]*)?", host):
        host = host.partition(":")[0].replace(".", "-")
    name = add_name(re.sub(r":[0-9]*$", "", host))
    return "" if name == "NAME" else name


def key_question(name: str, error: HostKeyUnknown | RbeeError) -> Confirm:
    """Whether a host key may be trusted; its answer is TRUST or anything else."""
    told = error.details
    host, kind = (printable(str(told.get(key, "")))[:120] for key in ("host", "key_type"))
    shown = printable(str(told.get("fingerprint", "")))[:120]
    question = (
        f"{host or name} was never seen before. It shows this {kind or 'host'} key:\n\n"
        f"{shown}\n\n"
        "Anyone on the way could show a key of their own. Compare it on the machine itself:\n\n"
        f"{key_check(kind)}"
    )
    return Confirm(
        f"Is this {name}?",
        question,
        [
            Choice("k", "do not trust it: nothing is added", "keep"),
            Choice("t", "it is the same: trust it and go on", TRUST),
        ],
    )


def _offer(one: Nearby) -> Content:
    answers = {True: "answers", False: "does not answer", None: ""}[one.answers]
    where = "" if one.target == one.name else printable(one.target)
    told = "  ".join(part for part in (where, answers) if part)
    return Content.assemble((printable(one.name), "bold"), (f"  {told}", "$muted"))
