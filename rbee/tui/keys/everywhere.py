"""The nine screens, and the keys that work on all of them."""

from __future__ import annotations

from rbee.tui.actions import Action, Mode

MODES: tuple[Mode, ...] = (
    Mode("dashboard", "Dash", "Dashboard"),
    Mode("hives", "Hives", "Hives"),
    Mode("workers", "Work", "Workers"),
    Mode("models", "Models", "Models"),
    Mode("jobs", "Jobs", "Jobs"),
    Mode("chat", "Chat", "Chat"),
    Mode("logs", "Logs", "Logs"),
    Mode("code", "Code", "Scheduler"),
    Mode("settings", "Conf", "Settings"),
)

SCOPES = {"everywhere": "Everywhere"}


def _everywhere() -> list[Action]:
    modes = [
        Action(
            f"screen.{mode.name}",
            str(number),
            mode.short.lower(),
            f"{mode.title} screen",
            "everywhere",
            f"app.mode('{mode.name}')",
            palette=True,
        )
        for number, mode in enumerate(MODES, 1)
    ]
    return [
        *modes,
        Action(
            "screen.previous",
            "left_square_bracket",
            "previous",
            "Previous screen",
            "everywhere",
            "app.step_mode(-1)",
        ),
        Action(
            "screen.next",
            "right_square_bracket",
            "next",
            "Next screen",
            "everywhere",
            "app.step_mode(1)",
        ),
        Action(
            "view.jump",
            "ctrl+o",
            "jump",
            "Jump to a panel or a table's row",
            "everywhere",
            "app.jump",
            True,
            True,
        ),
        Action(
            "app.palette", "ctrl+p", "palette", "Everything", "everywhere", "app.command_palette"
        ),
        Action(
            "help.keys",
            "question_mark,f1",
            "help",
            "Keys of this screen",
            "everywhere",
            "app.help",
            True,
            True,
        ),
        Action("view.next_panel", "tab", "panels", "Next panel", "everywhere", "app.focus_next"),
        Action(
            "view.previous_panel",
            "shift+tab",
            "panels",
            "Previous panel",
            "everywhere",
            "app.focus_previous",
        ),
        Action("view.back", "escape", "back", "Back, or leave", "everywhere", "app.step_back"),
        Action(
            "view.maximise",
            "z",
            "maximise",
            "Maximise the panel, and back",
            "everywhere",
            "app.maximise",
            palette=True,
        ),
        Action(
            "error.story",
            "e",
            "details",
            "The last error in full",
            "everywhere",
            "app.error_story",
            palette=True,
        ),
        Action(
            "queen.retry",
            "ctrl+t",
            "try again",
            "Look for the queen now",
            "everywhere",
            "app.try_again",
            palette=True,
        ),
        Action("app.quit", "ctrl+q", "quit", "Quit rbee", "everywhere", "app.quit", palette=True),
    ]


ACTIONS = _everywhere()
