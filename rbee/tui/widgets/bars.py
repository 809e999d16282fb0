"""The three rows around every screen: TopBar, NavBar, FooterBar; and the notice for tiny terminals.

Each is a pure function of the store, the mode or the active bindings, painted again only when its
text has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from textual import events
from textual.binding import Binding
from textual.content import Content
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Static

from rbee.tui import cells, keymap
from rbee.tui.glyphs import Glyphs, duration
from rbee.tui.keymap import MODES
from rbee.tui.store import ColonyStore, Link
from rbee.tui.trouble import trouble

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

SMALLEST = (60, 16)
Part = tuple[str, str]


def _spread(left: list[Part], right: list[list[Part]], width: int) -> Content:
    """Left text, right text against the edge; right groups that do not fit are left out."""
    used = sum(len(text) for text, _ in left)
    while right:
        tail = [part for group in right for part in group]
        size = sum(len(text) for text, _ in tail)
        if used + size + 2 <= width:
            return Content.assemble(*left, " " * (width - used - size - 1), *tail)
        right = right[:-1]
    return Content.assemble(*left)


def top_parts(store: ColonyStore, glyphs: Glyphs, width: int) -> Content:
    """The one line that says whether all is well."""
    left: list[Part] = [(f" {glyphs.logo} rbee", "$primary bold"), ("  ", "")]
    counts = store.counts()
    match store.link:
        case Link.UP:
            left += [(glyphs.ready, "$success"), (f" queen {store.port()}", "$foreground")]
        case Link.STARTING:
            left += [(f"{glyphs.loading} queen starting{glyphs.queued}", "$warning")]
        case Link.STOPPING:
            left += [(f"{glyphs.loading} queen stopping{glyphs.queued}", "$warning")]
        case Link.LOST | Link.FAILED | Link.REFUSED:
            told = trouble(store)
            head = "" if told is None else told.head
            tail = glyphs.queued if head.endswith("restarting") else ""
            left += [(f"{glyphs.failed} {head}{tail}", "$error bold")]
            room = width - sum(len(text) for text, _ in left) - 3
            left += [(f"  {glyphs.clip(store.message, room)}", "$muted")]
            return Content.assemble(*left)
    if store.link is Link.STARTING:
        return Content.assemble(*left)
    hives = f"{counts.hives_online}/{counts.hives_total}" if counts.hives_total else "0"
    hive_style = "$warning" if counts.hives_missing else "$foreground"
    left += [("  hives ", "$muted"), (hives, hive_style)]
    left += [("  workers ", "$muted"), (str(counts.workers_live), "$foreground")]
    left += [("  jobs ", "$muted")]
    jobs = [
        (f"{counts.jobs_running}{glyphs.running}", "$success") if counts.jobs_running else None,
        (f"{counts.jobs_queued}{glyphs.queued}", "$warning") if counts.jobs_queued else None,
    ]
    shown = [part for part in jobs if part is not None] or [("0", "$foreground")]
    for at, part in enumerate(shown):
        left += [(" ", ""), part] if at else [part]
    right: list[list[Part]] = []
    if counts.workers_live:
        right.append([(f"{store.tokens_per_second():.0f}", "$accent"), (" tok/s", "$muted")])
    if (uptime := store.uptime()) is not None:
        gap = "  " if right else ""
        right.append([(f"{gap}up ", "$muted"), (duration(uptime), "$foreground")])
    return _spread(left, right, width)


class _Bar(Widget):
    """One row that repaints when its text differs."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = Content("")

    @property
    def rbee(self) -> RbeeApp:
        """The app."""
        return cast("RbeeApp", self.app)

    def build(self) -> Content:
        """The row's content now."""
        raise NotImplementedError

    def render(self) -> Content:
        """As Textual asks for it."""
        self._shown = self.build()
        return self._shown

    async def on_click(self, event: events.Click) -> None:
        """A part that names an action is a button (not `@click`, whose look is a link's)."""
        action = event.style.meta.get("act")
        if action:
            await self.run_action(action)

    def repaint(self) -> None:
        """Paint again if something has changed."""
        if self.build().markup != self._shown.markup:
            self.refresh()


class TopBar(_Bar):
    """Is the queen up, is anything wrong, how fast are we."""

    def build(self) -> Content:
        return top_parts(self.rbee.store, self.rbee.glyphs, self.size.width)


@runtime_checkable
class HasCrumbs(Protocol):
    """A screen that says where on it somebody is."""

    def crumbs(self) -> Sequence[str]:
        """From the screen's title inwards; empty: on its first level."""
        ...


class NavBar(_Bar):
    """The nine screens, the current one in brackets; each is also a button. At the right, where
    somebody has gone in from there: `Workers › w-05`."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode

    def build(self) -> Content:
        parts: list[Content | str] = ["  "]
        crumbs = self.screen.crumbs() if isinstance(self.screen, HasCrumbs) else ()
        full = self.size.width >= (77 if not crumbs else 110)
        for number, mode in enumerate(MODES, 1):
            if number > 1:
                parts.append("  ")
            click = Style.from_meta({"act": f"app.mode('{mode.name}')"})
            if mode.name == self._mode:
                label = Content.styled(f"[{number} {mode.short}]", "$primary bold")
            elif full:
                label = Content.assemble((str(number), "$foreground"), (f" {mode.short}", "$muted"))
            else:
                label = Content.styled(str(number), "$muted")
            parts.append(label.stylize(click))
        if not crumbs:
            return Content.assemble(*parts)
        row = Content.assemble(*parts)
        room = self.size.width - row.cell_length - 2
        text = self.rbee.glyphs.clip(f" {self.rbee.glyphs.crumb} ".join(crumbs), max(0, room))
        gap = " " * max(2, self.size.width - row.cell_length - cells.width(text) - 1)
        return Content.assemble(row, gap, (text, "$muted"))


class FooterBar(_Bar):
    """The keys that work right now, from the registry; the palette at the right."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.repaint())

    def build(self) -> Content:
        width = self.size.width
        usual = keymap.BY_ID["app.palette"].keys
        key = keymap.key_text(self.rbee.overrides.get("app.palette", usual))
        palette = f"{self.rbee.glyphs.edge}{key}"
        tail = len(palette) + len(" palette") + 1
        parts: list[Content | str] = [" "]
        used = 1
        for key, action, binding in self._shown_actions():
            size = len(key) + 1 + len(action.label) + 2
            if used + size + tail > width + 1:
                break
            item = Content.assemble(
                (key, "$footer-key-foreground bold"), (f" {action.label}", "$muted")
            )
            parts += [item.stylize(Style.from_meta({"act": _click(binding)})), "  "]
            used += size
        parts.append(" " * max(0, width - used - tail))
        parts.append(
            Content.assemble(
                (palette, "$footer-key-foreground bold"), (" palette", "$muted")
            ).stylize(Style.from_meta({"act": "app.command_palette"}))
        )
        return Content.assemble(*parts)

    def _shown_actions(self) -> list[tuple[str, keymap.Action, Binding]]:
        active: dict[str, Binding] = {}
        focused = self.screen.focused
        # Textual 8.2 knows no character of `slash`, and so not that a text box takes it.
        typing = focused is not None and focused.check_consume_key("slash", "/")
        for entry in self.screen.active_bindings.values():
            id_ = entry.binding.id
            if typing and entry.binding.key == "slash":
                continue
            if id_ and entry.binding.key != "none" and entry.enabled and id_ not in active:
                active[id_] = entry.binding
        local = [a for a in keymap.ACTIONS if a.show and a.scope != "everywhere"]
        # A screen may take the filter's key from the dashboard, whose actions come first.
        local.sort(key=lambda action: action.id == "list.filter")
        common = [a for a in keymap.ACTIONS if a.show and a.scope == "everywhere"]
        out: list[tuple[str, keymap.Action, Binding]] = []
        labels: set[str] = set()
        for action in [*local, *common]:
            binding = active.get(action.id)
            if binding is not None and action.label not in labels:
                labels.add(action.label)
                out.append((keymap.key_text(binding.key), action, binding))
        return out


def _click(binding: Binding) -> str:
    action = binding.action
    return action if action.startswith("app.") else f"screen.{action}"


class TooSmall(Static):
    """Shown instead of everything else below 60×16."""

    def on_resize(self) -> None:
        width, height = self.app.size
        least_width, least_height = SMALLEST
        self.update(f"rbee needs {least_width}×{least_height}, this is {width}×{height}")
