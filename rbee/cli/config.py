"""`rbee config …`: settings and folders."""

from __future__ import annotations

from typing import Annotated

import typer

from rbee.cli.shared import AsJson, group, run

config = group("Settings and where they come from.")


@config.command("show")
def config_show(as_json: AsJson = False) -> None:
    """Every setting, its value and where that comes from."""
    from rbee.commands import config as command

    run(lambda: command.show(as_json=as_json), as_json=as_json)


@config.command("paths")
def config_paths(
    system: Annotated[bool, typer.Option("--system", help="Those of the whole machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """The folders and files rbee uses."""
    from rbee.commands import config as command

    run(lambda: command.paths(system=system, as_json=as_json), as_json=as_json)


@config.command("init")
def config_init(
    system: Annotated[bool, typer.Option("--system", help="For the whole machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a settings file with every default and what it means."""
    from rbee.commands import config as command

    run(lambda: command.init(system=system, as_json=as_json), as_json=as_json)
