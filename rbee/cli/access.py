"""`rbee key|usage|cert …`: who may use the queen, what was used, and her certificate."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rbee.cli.shared import AsJson, group, run

key = group("Keys: who may use the queen from elsewhere, and who may administer her.")
cert = group("The queen's certificate, for HTTPS.")
KeyName = Annotated[str, typer.Argument(help="As `rbee key list` shows it.")]


class Scope(StrEnum):
    """What a key allows; as rbee.protocol.access has it, which is too heavy for a help."""

    INFER = "infer"
    ADMIN = "admin"


@key.command("create")
def key_create(
    name: Annotated[str, typer.Argument(help="Whose key it is: laptop, open-webui, anna, …")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="infer: ask models. admin: everything. Default: infer."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="Until when: 90m, 12h, 30d, 1y. Default: for ever.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, help="So many at most.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens-per-minute", min=1, help="Of prompts and answers, at most."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, once. Works with and without a running queen."""
    from rbee.commands import keys as command

    scopes = [str(one) for one in scope or [Scope.INFER]]
    run(
        lambda: command.create(
            name, scopes=scopes, expires=expires, requests=requests, tokens=tokens, as_json=as_json
        ),
        as_json=as_json,
    )


@key.command("list")
def key_list(as_json: AsJson = False) -> None:
    """The keys there are, by name and fingerprint; no key can be shown again."""
    from rbee.commands import keys as command

    run(lambda: command.listing(as_json=as_json), as_json=as_json)


@key.command("revoke")
def key_revoke(name: KeyName, as_json: AsJson = False) -> None:
    """Withdraw a key: it opens nothing from now on."""
    from rbee.commands import keys as command

    run(lambda: command.revoke(name, as_json=as_json), as_json=as_json)


@key.command("rotate")
def key_rotate(name: KeyName, as_json: AsJson = False) -> None:
    """Renew a key: the same name and limits, another secret; the old one opens nothing any more."""
    from rbee.commands import keys as command

    run(lambda: command.rotate(name, as_json=as_json), as_json=as_json)


@cert.command("create")
def cert_create(
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="One more name or address that clients use for this machine."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=825, help="How long it is valid.")] = 820,
    as_json: AsJson = False,
) -> None:
    """Make a certificate for this machine's names and addresses, and an authority of your own."""
    from rbee.commands import certs as command

    run(lambda: command.create(names or [], days=days, as_json=as_json), as_json=as_json)


def usage(
    days: Annotated[
        int, typer.Option(min=1, max=3650, help="So many days back, today included.")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """What was used: requests and tokens by key, app and model."""
    from rbee.commands import keys as command

    run(lambda: command.usage(days=days, as_json=as_json), as_json=as_json)
