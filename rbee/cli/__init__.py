"""The command line: what can be asked for. Each command imports its own module when it runs.

Imports typer and the standard library only, so that `rbee --help` is instant; a test watches that.
Owns names, flags and exit codes; never does a command's work. Nouns have a module each.
"""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

try:
    import typer

    from rbee import __version__
    from rbee.cli import (
        access,
        asking,
        backends,
        browser,
        colony,
        config,
        hives,
        jobs,
        models,
        simulating,
    )
    from rbee.cli.shared import AsJson, LogFormat, run
except KeyboardInterrupt:  # these imports are most of the time before `main`
    raise SystemExit(130) from None

app = typer.Typer(
    name="rbee",
    help="Every computer you own as one private AI service. Without a command: the dashboard.",
    invoke_without_command=True,
    no_args_is_help=False,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for top in (
    *(asking.infer, asking.embed, asking.logs, jobs.why),
    *(access.usage, simulating.sim, browser.web),
):
    app.command()(top)
for group, name in (
    (colony.queen, "queen"),
    (hives.hive, "hive"),
    (colony.worker, "worker"),
    (jobs.job, "job"),
    (models.model, "model"),
    (backends.backend, "backend"),
    (access.key, "key"),
    (access.cert, "cert"),
    (config.config, "config"),
):
    app.add_typer(group, name=name)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rbee {__version__}")
        raise typer.Exit


@app.callback()
def up(
    ctx: typer.Context,
    no_tui: Annotated[
        bool, typer.Option("--no-tui", help="The queen in the foreground, without a screen.")
    ] = False,
    model_name: Annotated[
        str | None, typer.Option("--model", help="Start this model and choose it for chat.")
    ] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option("--log-format", help="How the log looks with --no-tui.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address the queen listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port the queen listens on.")] = None,
    tls_cert: Annotated[str | None, typer.Option(help="Certificate file, for HTTPS.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="Its key file.")] = None,
    ascii_only: Annotated[
        bool, typer.Option("--ascii", help="Draw the screens with ASCII alone.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """The dashboard: finds or starts the queen, shows everything, stops what it started."""
    del version
    if ctx.invoked_subcommand is not None:
        return
    from rbee.commands import up as command

    given = {"queen.host": host, "queen.port": port, "log.format": log_format}
    given |= {"queen.tls_cert": tls_cert, "queen.tls_key": tls_key}
    given["tui.ascii"] = "true" if ascii_only else None
    flags = {key: str(value) for key, value in given.items() if value is not None}
    run(lambda: command.headless(flags) if no_tui else command.screen(flags, model=model_name))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What works on this machine, what does not, and the command that would change it."""
    from rbee.commands import doctor as command

    run(lambda: command.run(as_json=as_json), as_json=as_json)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point `rbee`."""
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for out in (sys.stdout, sys.stderr):
            if isinstance(out, io.TextIOWrapper):  # what the terminal cannot show becomes a `?`
                out.reconfigure(errors="replace")
        app(args=list(argv) if argv is not None else None)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
