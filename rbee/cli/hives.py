"""`rbee hive …`: the machines of the colony, and how they join it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rbee.cli.shared import AsJson, Follow, LogLines, Quiet, group, run

if TYPE_CHECKING:
    from rbee.commands.following import Manner

hive = group("The machines of the colony, and how they join it.")


class Forward(StrEnum):
    """What carries token streams; as rbee.protocol.machines has it, too heavy for a help."""

    AUTO = "auto"
    SSH = "ssh"
    SYSTEM_SSH = "system-ssh"


def ssh_hosts(incomplete: str) -> list[str]:
    """For a shell that completes: the hosts of ~/.ssh/config."""
    from rbee.errors import RbeeError
    from rbee.ssh.hosts import Hosts

    try:
        return [name for name in Hosts().names() if name.startswith(incomplete)]
    except (RbeeError, OSError, ValueError):
        return []


Name = Annotated[str, typer.Argument(metavar="NAME", help="As `rbee hive list` shows it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Online = Annotated[
    bool, typer.Option("--online/--offline", help="It may use its own package index.")
]
Extras = Annotated[list[str] | None, typer.Option("--extra", help="Else those that suit it.")]
Path = Annotated[str | None, typer.Option("--path", help="Where rbee is installed there.")]
Python = Annotated[str | None, typer.Option("--python", help="The Python there to use.")]
ModelsDir = Annotated[str | None, typer.Option("--models-dir", help="Where models are there.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="NAME=TEXT: region, tier, …")]


@hive.command("add")
def hive_add(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="What to call it.", autocompletion=ssh_hosts),
    ],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="USER@HOST[:PORT], or a Host of ~/.ssh/config; else NAME is one.",
            autocompletion=ssh_hosts,
        ),
    ] = None,
    accept_new: Annotated[
        bool, typer.Option("--accept-new", help="Trust whatever key it shows, if none is known.")
    ] = False,
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", help="Trust its host key: SHA256:….")
    ] = None,
    path: Path = None,
    python: Python = None,
    models_dir: ModelsDir = None,
    label: Labels = None,
    forward: Annotated[Forward, typer.Option(help="What carries token streams.")] = Forward.AUTO,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Reach a machine over SSH and remember it. An unknown host key is shown and asked about."""
    from rbee.commands import hive_adding as command

    given = {
        "accept": fingerprint,
        "accept_new": accept_new,
        "path": path,
        "python": python,
        "models_dir": models_dir,
        "forward": forward.value,
    }
    run(
        lambda: command.add(name, target, given, label or (), _manner(quiet, as_json)),
        as_json=as_json,
    )


@hive.command("install")
def hive_install(
    name: Name,
    online: Online = False,
    extra: Extras = None,
    path: Path = None,
    python: Python = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Put this version of rbee on a machine and start its hive. Needs no root there."""
    from rbee.commands import hive_tasks as command

    run(
        lambda: command.install(
            name, online=online, extras=extra or (), path=path, python=python,
            manner=_manner(quiet, as_json),
        ),
        as_json=as_json,
    )  # fmt: skip


@hive.command("upgrade")
def hive_upgrade(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="As `rbee hive list` shows it.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All machines, in turn.")] = False,
    online: Online = False,
    extra: Extras = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Bring a machine to this version. What does not do well goes back to the old one."""
    from rbee.commands import hive_tasks as command

    run(
        lambda: command.upgrade(
            name, everything=everything, online=online, extras=extra or (),
            manner=_manner(quiet, as_json),
        ),
        as_json=as_json,
    )  # fmt: skip


@hive.command("uninstall")
def hive_uninstall(
    name: Name,
    models: Annotated[bool, typer.Option("--models", help="Its models, too.")] = False,
    yes: Yes = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Stop the hive and take rbee off the machine. It stays added; asks first."""
    from rbee.commands import hive_tasks as command

    run(
        lambda: command.uninstall(name, models=models, yes=yes, manner=_manner(quiet, as_json)),
        as_json=as_json,
    )


@hive.command("remove")
def hive_remove(
    name: Name, yes: Yes = False, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Stop the hive and forget the machine; asks first. What is installed there stays."""
    from rbee.commands import hive_tasks as command

    run(
        lambda: command.remove(name, yes=yes, manner=_manner(quiet, as_json)),
        as_json=as_json,
    )


@hive.command("start")
def hive_start(
    name: Name,
    detached: Annotated[
        float | None,
        typer.Option("--detached", metavar="SECONDS", help="It stays so long without a queen."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Have a machine's hive up, now and whenever the queen starts."""
    from rbee.commands import hive_tasks as command

    run(
        lambda: command.start(name, detached=detached, manner=_manner(quiet, as_json)),
        as_json=as_json,
    )


@hive.command("stop")
def hive_stop(name: Name, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Stop a machine's hive and its workers. It stays down until it is started."""
    _simple("stop", name, quiet, as_json)


@hive.command("restart")
def hive_restart(name: Name, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Stop a machine's hive and start it again."""
    _simple("restart", name, quiet, as_json)


@hive.command("refresh")
def hive_refresh(name: Name, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Connect at once where the link is down. What is there is looked at anew."""
    _simple("refresh", name, quiet, as_json)


@hive.command("wake")
def hive_wake(name: Name, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Wake a machine over the network and wait until it is reached."""
    _simple("wake", name, quiet, as_json)


@hive.command("check")
def hive_check(name: Name, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Try the way to a hive and back. Each step has its time; what fails is the error."""
    from rbee.commands import hive_tasks as command

    run(lambda: command.check(name, _manner(quiet, as_json)), as_json=as_json)


@hive.command("list")
def hive_list(as_json: AsJson = False) -> None:
    """The machines and how they do. Where one does not: why, and what to do."""
    from rbee.commands import hives as command

    run(lambda: command.listing(as_json=as_json), as_json=as_json)


@hive.command("show")
def hive_show(name: Name, as_json: AsJson = False) -> None:
    """One machine: how it is reached and what is there."""
    from rbee.commands import hives as command

    run(lambda: command.show(name, as_json=as_json), as_json=as_json)


@hive.command("status")
def hive_status(name: Name, as_json: AsJson = False) -> None:
    """As show; exit code 1 unless it is online."""
    from rbee.commands import hives as command

    run(lambda: command.status(name, as_json=as_json), as_json=as_json)


@hive.command("set")
def hive_set(
    name: Name,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Where it is now.", autocompletion=ssh_hosts),
    ] = None,
    path: Path = None,
    python: Python = None,
    models_dir: ModelsDir = None,
    label: Labels = None,
    forward: Annotated[
        Forward | None, typer.Option("--forward", help="What carries token streams.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change what is remembered of a machine. An empty text is the default again."""
    from rbee.commands import hives as command

    given = {
        "target": target,
        "path": path,
        "python": python,
        "models_dir": models_dir,
        "forward": forward.value if forward else None,
    }
    run(lambda: command.change(name, given, label or (), as_json=as_json), as_json=as_json)


@hive.command("scan")
def hive_scan(
    lan: Annotated[
        bool, typer.Option("--lan", help="Those that announce themselves, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Machines that could be added. Those of ~/.ssh/config and Tailscale, if they answer."""
    from rbee.commands import hives as command

    run(lambda: command.scan(lan=lan, as_json=as_json), as_json=as_json)


@hive.command("logs")
def hive_logs(name: Name, follow: Follow = False, lines: LogLines = 100) -> None:
    """What a machine's hive has written."""
    from rbee.commands import logs as command

    run(lambda: command.of_hive(name, lines=lines, follow=follow))


@hive.command("doctor")
def hive_doctor(name: Name, as_json: AsJson = False) -> None:
    """What works on a machine and what does not. Names the command that would change it."""
    from rbee.commands import hive_doctor as command

    run(lambda: command.run(name, as_json=as_json), as_json=as_json)


def _simple(verb: str, name: str, quiet: bool, as_json: bool) -> None:
    from rbee.commands import hive_tasks as command

    run(lambda: command.simple(verb, name, _manner(quiet, as_json)), as_json=as_json)


def _manner(quiet: bool, as_json: bool) -> Manner:
    from rbee.commands.following import Manner

    return Manner(ephemeral=False, quiet=quiet, as_json=as_json, reaches=True)
