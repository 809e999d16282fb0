"""Leaving: stops what this screen started and nothing else, and says which it was.

One flow, run in a worker of the app; it asks only when jobs would be lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from rbee.errors import RbeeError
from rbee.tui.screens.dialogs import Choice, Confirm, Notice

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

POLL_SECONDS = 0.2


def jobs_words(count: int) -> str:
    """`1 job is`, `3 jobs are`."""
    return "1 job is" if count == 1 else f"{count} jobs are"


async def leave(app: RbeeApp) -> None:
    """Quit, or come back without having changed anything."""
    if not app.keeper.owned and app.store.url is not None:
        await app.link.leave_queen()
        app.exit(_still_runs(app))
        return
    jobs = app.store.active_jobs()
    while jobs:
        choice = await app.push_screen_wait(_question(len(jobs)))
        if choice is None:
            return
        if choice == "leave":
            await app.link.leave_queen()
            app.exit(_still_runs(app))
            return
        if choice == "stop":
            break
        if not await _idle(app):
            return
        jobs = app.store.active_jobs()
    await _stop(app)


async def _stop(app: RbeeApp) -> None:
    await app.push_screen(Notice("Quit", "stopping…", leavable=False))
    url, message, failure = app.store.url, app.store.message, app.link.failure
    try:
        await app.link.stop_queen()
    except RbeeError as exc:
        app.exit(f"the queen could not be stopped: {exc.message}; {exc.action}")
        return
    if failure is not None:
        app.exit(f"{failure.message}; {failure.action}")
    elif url is None:
        app.exit(f"no queen was up; nothing keeps running{f' ({message})' if message else ''}")
    else:
        app.exit("queen stopped")


async def _idle(app: RbeeApp) -> bool:
    """Wait until no job runs; False when the user would rather not."""
    notice = Notice("Quit", _waiting(app), leavable=True)
    gone = anyio.Event()
    await app.push_screen(notice, lambda _: gone.set())
    while app.store.active_jobs():
        notice.say(_waiting(app))
        with anyio.move_on_after(POLL_SECONDS):
            await gone.wait()
            return False
    if not gone.is_set():
        notice.dismiss(None)
    return True


def _waiting(app: RbeeApp) -> str:
    return f"{jobs_words(len(app.store.active_jobs()))} still running; rbee quits when done."


def _question(count: int) -> Confirm:
    lost = "it gets" if count == 1 else "they get"
    return Confirm(
        "Quit?",
        f"{jobs_words(count)} running on the queen that this screen started.",
        [
            Choice("w", "wait until done, then quit", "wait"),
            Choice("l", "leave the queen running", "leave"),
            Choice("s", f"stop now: {lost} an error", "stop"),
        ],
    )


def _still_runs(app: RbeeApp) -> str:
    return f"queen still runs at {app.store.url}; stop it with `rbee queen stop`"
