"""`rbee sim`: what would be decided for requests that nobody has sent, in virtual time."""

from __future__ import annotations

from typing import Annotated

import typer

from rbee.cli.shared import AsJson, run


def sim(
    trace: Annotated[
        str | None,
        typer.Argument(help="A name or a file (TOML, JSONL); left out: what comes with rbee."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="One of them, several times for several; default: all."),
    ] = None,
    fleet: Annotated[
        str | None, typer.Option(help="A name or a TOML file; default: the one the trace names.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the dice; default: the trace's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a trace of requests on a fleet: the same brain, in virtual time, policies compared.

    Starts nothing and needs no model.
    """
    from rbee.commands import sim as command

    run(
        lambda: command.run(trace, policies=policy or [], fleet=fleet, seed=seed, as_json=as_json),
        as_json=as_json,
    )
