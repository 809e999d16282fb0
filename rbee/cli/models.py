"""`rbee model …`: the models of the colony, and how they get there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rbee.cli.shared import AsJson, BackendName, Device, HiveName, Quiet, group, run

if TYPE_CHECKING:
    from rbee.commands.following import Manner

model = group("The models of the colony, and how they get there.")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Name or reference.")]


@model.command("list")
def model_list(
    everything: Annotated[bool, typer.Option("--all", help="Test models too.")] = False,
    hive_name: HiveName = None,
    as_json: AsJson = False,
) -> None:
    """The models that can be used now."""
    from rbee.commands import models as command

    run(
        lambda: command.listing(everything=everything, hive=hive_name, as_json=as_json),
        as_json=as_json,
    )


@model.command("show")
def model_show(name: ModelArgument, as_json: AsJson = False) -> None:
    """One model: what it is, where, its files, and the memory it takes."""
    from rbee.commands import models as command

    run(lambda: command.show(name, as_json=as_json), as_json=as_json)


@model.command("search")
def model_search(
    text: Annotated[str, typer.Argument(help="What to look for on the hub.")],
    limit: Annotated[int, typer.Option(min=1, max=50, help="So many repositories.")] = 8,
    as_json: AsJson = False,
) -> None:
    """Look on the hub: sizes, and what of it fits which machine."""
    from rbee.commands import searching as command

    run(lambda: command.run(text, limit=limit, as_json=as_json), as_json=as_json)


@model.command("download")
def model_download(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Names or references.")],
    hive_name: Annotated[
        str | None, typer.Option("--hive", help="To this machine; else where it runs best.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Fetch models from the hub, side by side. What has come is kept when it is broken off."""
    from rbee.commands import fetching as command

    run(
        lambda: command.download(names, hive=hive_name, manner=_manner(quiet, as_json)),
        as_json=as_json,
    )


@model.command("downloads")
def model_downloads(as_json: AsJson = False) -> None:
    """The models that are on their way now."""
    from rbee.commands import fetching as command

    run(lambda: command.downloads(as_json=as_json), as_json=as_json)


@model.command("delete")
def model_delete(
    name: ModelArgument,
    hive_name: HiveName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Take a model off a machine's disk; asks first."""
    from rbee.commands import keeping as command

    run(
        lambda: command.delete(name, hive=hive_name, yes=yes, manner=_manner(quiet, as_json)),
        as_json=as_json,
    )


@model.command("verify")
def model_verify(
    name: ModelArgument, hive_name: HiveName = None, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Read a model's files again and compare their hashes; exit code 1 when one is wrong."""
    from rbee.commands import keeping as command

    run(
        lambda: command.verify(name, hive=hive_name, manner=_manner(quiet, as_json)),
        as_json=as_json,
    )


@model.command("gc")
def model_gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    hive_name: HiveName = None,
    as_json: AsJson = False,
) -> None:
    """Clear away begun downloads, and what is over the quota when there is one."""
    from rbee.commands import keeping as command

    run(
        lambda: command.gc(hive=hive_name, dry_run=dry_run, as_json=as_json),
        as_json=as_json,
    )


@model.command("import")
def model_import(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="Paths, or names as this lists them."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is there.")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the files instead.")] = False,
    name: Annotated[str | None, typer.Option("--name", help="What to call it.")] = None,
    hive_name: Annotated[
        str | None, typer.Option("--hive", help="On this machine; else the one of the queen.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What Ollama, LM Studio and the hub cache keep here; with names, take it in uncopied."""
    from rbee.commands import keeping as command

    run(
        lambda: command.take_in(
            names or (), everything=everything, copy=copy, name=name, hive=hive_name,
            as_json=as_json,
        ),
        as_json=as_json,
    )  # fmt: skip


@model.command("copy")
def model_copy(
    name: ModelArgument,
    to: Annotated[str, typer.Option("--to", help="The machine that gets it.")],
    source: Annotated[
        str | None, typer.Option("--from", help="From this machine; else any that has it.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Bring a model from one machine to another; the hub is not asked."""
    from rbee.commands import fetching as command

    run(
        lambda: command.copy(name, to=to, source=source, manner=_manner(quiet, as_json)),
        as_json=as_json,
    )


@model.command("load")
def model_load(
    name: ModelArgument,
    hive_name: HiveName = None,
    device: Device = None,
    backend: BackendName = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Have a worker load it now, so that the first answer is quick."""
    from rbee.commands import loading as command

    run(
        lambda: command.load(
            name, hive=hive_name, device=device, backend=backend,
            manner=_manner(quiet, as_json),
        ),
        as_json=as_json,
    )  # fmt: skip


@model.command("unload")
def model_unload(
    name: ModelArgument,
    hive_name: HiveName = None,
    device: Device = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """End its workers, each when what it runs has ended; their memory is given back."""
    from rbee.commands import loading as command

    run(
        lambda: command.unload(
            name, hive=hive_name, device=device, manner=_manner(quiet, as_json)
        ),
        as_json=as_json,
    )  # fmt: skip


@model.command("aliases")
def model_aliases(as_json: AsJson = False) -> None:
    """The short names of models."""
    from rbee.commands import models as command

    run(lambda: command.aliases(as_json=as_json), as_json=as_json)


def _manner(quiet: bool, as_json: bool) -> Manner:
    from rbee.commands.following import Manner

    return Manner(ephemeral=False, quiet=quiet, as_json=as_json)
