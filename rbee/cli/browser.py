"""`rbee web`: the screens in a browser of this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from rbee.cli.shared import AsJson, run


def web(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the server; 0 takes any free one.")
    ] = 0,
    host: Annotated[
        str, typer.Option(help="Its address, of this machine only: from elsewhere use ssh -L.")
    ] = "127.0.0.1",
    tabs: Annotated[
        int, typer.Option(min=1, max=32, help="At most so many at a time; each is a process.")
    ] = 4,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the link in a browser, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The screens in a browser, until Ctrl+C. Prints a link that works once.

    Needs `pip install 'rbee[web]'`.
    """
    from rbee.commands import web as command

    run(
        lambda: command.run(
            host=host, port=port, tabs=tabs, open_browser=open_browser, as_json=as_json
        ),
        as_json=as_json,
    )
