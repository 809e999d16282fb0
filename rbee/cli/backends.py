"""`rbee backend …`: what runs models on this machine, and whether it keeps the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rbee.cli.shared import AsJson, Quiet, group, run

backend = group("What runs models on this machine: those of rbee, and those of others.")


@backend.command("list")
def backend_list(as_json: AsJson = False) -> None:
    """Each backend that is installed: its devices, or why it cannot run and what would help."""
    from rbee.commands import backends as command

    run(lambda: command.show(as_json=as_json), as_json=as_json)


@backend.command("check")
def backend_check(
    name: Annotated[str, typer.Argument(help="As `rbee backend list` shows it.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="A file or folder; else a small one of its own."),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="Its format, where the name does not tell it.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where: cpu, cuda:0, metal:0, …")] = "cpu",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Load a model and see whether it does all that rbee counts on; 1 when it does not."""
    from rbee.commands import backend_check as command

    run(
        lambda: command.run(
            name, model=model, form=form, device=device, quiet=quiet, as_json=as_json
        ),
        as_json=as_json,
    )
