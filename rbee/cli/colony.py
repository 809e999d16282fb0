"""`rbee queen|worker …`: what the colony is made of."""

from __future__ import annotations

from typing import Annotated

import typer

from rbee.cli.shared import AsJson, Quiet, WorkerId, group, run

queen = group("The queen in the background.")
worker = group("The processes that run models.")


@queen.command("start")
def queen_start(as_json: AsJson = False) -> None:
    """Start the queen in the background; she stays until she is stopped."""
    from rbee.commands import queen as command

    run(lambda: command.start(as_json=as_json), as_json=as_json)


@queen.command("stop")
def queen_stop(as_json: AsJson = False) -> None:
    """Stop the queen and everything she runs."""
    from rbee.commands import queen as command

    run(lambda: command.stop(as_json=as_json), as_json=as_json)


@queen.command("status")
def queen_status(as_json: AsJson = False) -> None:
    """Where the queen is and how she does; exit code 1 when there is none."""
    from rbee.commands import queen as command

    run(lambda: command.status(as_json=as_json), as_json=as_json)


@queen.command("logs")
def queen_logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until Ctrl+C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=100_000, help="So many of the last.")
    ] = 100,
) -> None:
    """What the queen in the background has written."""
    from rbee.commands import queen as command

    run(lambda: command.logs(lines=lines, follow=follow))


@worker.command("list")
def worker_list(as_json: AsJson = False) -> None:
    """The workers, their models and what they do."""
    from rbee.commands import workers as command

    run(lambda: command.listing(as_json=as_json), as_json=as_json)


@worker.command("health")
def worker_health(worker_id: WorkerId, as_json: AsJson = False) -> None:
    """One worker; exit code 1 unless it can take work or does."""
    from rbee.commands import workers as command

    run(lambda: command.health(worker_id, as_json=as_json), as_json=as_json)


@worker.command("drain")
def worker_drain(worker_id: WorkerId, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Stop a worker once what it runs has ended; it gets nothing more. Ctrl+C takes that back."""
    from rbee.commands import workers as command

    run(lambda: command.drain(worker_id, quiet=quiet, as_json=as_json), as_json=as_json)


@worker.command("stop")
def worker_stop(worker_id: WorkerId, as_json: AsJson = False) -> None:
    """Stop a worker at once; what it runs goes on elsewhere, where that is possible."""
    from rbee.commands import workers as command

    run(lambda: command.stop(worker_id, as_json=as_json), as_json=as_json)
