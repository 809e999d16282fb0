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


Name = Annotated[str, typer.Argument(help="`section.key`, as `rbee config show` prints it.")]


@config.command("get")
def config_get(name: Name, as_json: AsJson = False) -> None:
    """One setting's value."""
    from rbee.commands import config as command

    run(lambda: command.get(name, as_json=as_json), as_json=as_json)


@config.command("set")
def config_set(
    name: Name,
    value: Annotated[str, typer.Argument(help="As in a variable: a list is `a,b`, a table `a=b`.")],
    as_json: AsJson = False,
) -> None:
    """Set one in ui.toml, which counts more than config.toml; that is never written."""
    from rbee.commands import config as command

    run(lambda: command.put(name, value, as_json=as_json), as_json=as_json)


@config.command("unset")
def config_unset(name: Name, as_json: AsJson = False) -> None:
    """Take one out of ui.toml again."""
    from rbee.commands import config as command

    run(lambda: command.put(name, None, as_json=as_json), as_json=as_json)


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
