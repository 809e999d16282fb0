"""`rbee job …` and `rbee why`: what was asked for, what became of it, and why there."""

from __future__ import annotations

from typing import Annotated

import typer

from rbee.cli.shared import AsJson, JobId, Quiet, group, run

job = group("What was asked for, and what became of it.")


@job.command("list")
def job_list(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    dead: Annotated[
        bool, typer.Option("--dead", help="Only those given up after every try.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Jobs, newest first."""
    from rbee.commands import jobs as command

    run(lambda: command.listing(state, dead=dead, limit=limit, as_json=as_json), as_json=as_json)


@job.command("queue")
def job_queue(as_json: AsJson = False) -> None:
    """Who waits: in which order, for how long yet, and why."""
    from rbee.commands import jobs as command

    run(lambda: command.queue(as_json=as_json), as_json=as_json)


@job.command("show")
def job_show(job_id: JobId, as_json: AsJson = False) -> None:
    """One job, and its answer when it has one."""
    from rbee.commands import jobs as command

    run(lambda: command.show(job_id, as_json=as_json), as_json=as_json)


@job.command("logs")
def job_logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Until it ends; Ctrl+C does not cancel it.")
    ] = False,
    text: Annotated[bool, typer.Option("--text", help="The answer too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """A job's story: why it waited, where it ran, how it ended."""
    from rbee.commands import story as command

    run(lambda: command.run(job_id, follow=follow, text=text, as_json=as_json), as_json=as_json)


@job.command("cancel")
def job_cancel(job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job, wherever it is."""
    from rbee.commands import jobs as command

    run(lambda: command.cancel(job_id, as_json=as_json), as_json=as_json)


@job.command("retry")
def job_retry(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Stream the answer; Ctrl+C cancels it.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Ask again what failed or was cancelled, as a new job, whose id is printed."""
    from rbee.commands import retry as command

    manner = command.Manner(ephemeral=False, quiet=quiet, as_json=as_json)
    run(lambda: command.run(job_id, manner, follow=follow), as_json=as_json)


def why(
    job_id: JobId,
    everything: Annotated[bool, typer.Option("--all", help="Every decision in full.")] = False,
    as_json: AsJson = False,
) -> None:
    """Why a job went where it went, or why it waits: the options and what each would cost."""
    from rbee.commands import why as command

    run(lambda: command.run(job_id, everything=everything, as_json=as_json), as_json=as_json)
