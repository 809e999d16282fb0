"""The command line: what can be asked for. Each command imports its own module when it runs.

Imports typer and the standard library only, so that `rbee --help` is instant; a test watches that.
Owns names, flags and exit codes; never does a command's work.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

try:
    import typer

    from rbee import __version__
    from rbee.errors import RbeeError
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
queen = typer.Typer(help="The queen in the background.", no_args_is_help=True)
hive = typer.Typer(help="The machines of the colony.", no_args_is_help=True)
worker = typer.Typer(help="The processes that run models.", no_args_is_help=True)
job = typer.Typer(help="What was asked for, and what became of it.", no_args_is_help=True)
model = typer.Typer(help="The models on the colony's disks.", no_args_is_help=True)
config = typer.Typer(help="Settings and where they come from.", no_args_is_help=True)
for group, name in (
    (queen, "queen"),
    (hive, "hive"),
    (worker, "worker"),
    (job, "job"),
    (model, "model"),
    (config, "config"),
):
    app.add_typer(group, name=name)

WorkerId = Annotated[str, typer.Argument(help="As `rbee worker list` shows it.")]
JobId = Annotated[str, typer.Argument(help="As `rbee job list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, errors too.")]


class LogFormat(StrEnum):
    """How daemons write their log."""

    TEXT = "text"
    JSON = "json"


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rbee {__version__}")
        raise typer.Exit


def _run(call: Callable[[], int | None], *, as_json: bool = False) -> None:
    """Run a command's function: its exit code, or its error's."""
    try:
        raise typer.Exit(call() or 0)
    except RbeeError as exc:
        from rbee.output import print_error

        print_error(exc, as_json=as_json)
        raise typer.Exit(exc.exit_code) from exc
    except BrokenPipeError as exc:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the interpreter's last flush
        raise typer.Exit(0) from exc
    except KeyboardInterrupt as exc:
        raise typer.Exit(130) from exc
    except (typer.Exit, typer.Abort):
        raise
    except Exception as exc:
        from rbee.commands.common import report_defect
        from rbee.output import print_error

        error = report_defect(exc)
        print_error(error, as_json=as_json)
        raise typer.Exit(error.exit_code) from exc


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
    flags = {key: str(value) for key, value in given.items() if value is not None}
    _run(lambda: command.headless(flags) if no_tui else command.screen(flags, model=model_name))


@app.command()
def infer(
    model_name: Annotated[str, typer.Option("--model", "-m", help="Model name or reference.")],
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; `-` or nothing: read it from stdin.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=5, help="0: always the likeliest.")
    ] = 0.7,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="From the likeliest, this share.")
    ] = 0.95,
    top_k: Annotated[
        int, typer.Option(min=0, max=1000, help="From so many likeliest; 0: from all.")
    ] = 40,
    presence_penalty: Annotated[
        float, typer.Option(min=-2, max=2, help="More: rather words that are not there yet.")
    ] = 0.0,
    frequency_penalty: Annotated[
        float, typer.Option(min=-2, max=2, help="More: rather words that are rare so far.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="The same text again.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop at this text; up to 4.")] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on when the model would end.")
    ] = False,
    json_schema: Annotated[
        str | None, typer.Option(help="Answer in JSON valid under it: a file, or the schema.")
    ] = None,
    grammar: Annotated[
        str | None, typer.Option(help="Answer by the rules in this file (GBNF).")
    ] = None,
    logprobs: Annotated[
        int | None, typer.Option(min=0, max=20, help="With --json: so many likeliest per token.")
    ] = None,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Use what is computed of the prompt.")
    ] = True,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Computed apart, nothing can change it.")
    ] = False,
    hive_name: Annotated[str | None, typer.Option("--hive", help="Only on this machine.")] = None,
    device: Annotated[str | None, typer.Option(help="Only on this device: cpu, cuda:0, …")] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Queue when all slots are busy.")
    ] = True,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Take down at once what had to be started.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No narration.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a model. The answer streams on stdout, what happens is told on stderr."""
    from rbee.commands import infer as command

    ask = command.Ask(
        model=model_name,
        prompt=prompt,
        system=system,
        json_schema=json_schema,
        grammar=grammar,
        options={
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "seed": seed,
            "stop": list(stop or ()),
            "ignore_eos": ignore_eos,
            "logprobs": logprobs,
            "cache": cache,
            "deterministic": deterministic,
            "hive": hive_name,
            "device": device,
            "wait": wait,
        },
        manner=command.Manner(ephemeral=ephemeral, quiet=quiet, as_json=as_json),
    )
    _run(lambda: command.run(ask), as_json=as_json)


@app.command()
def embed(
    model_name: Annotated[str, typer.Option("--model", "-m", help="Model name or reference.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="The texts; `-` or nothing: each line of stdin.")
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Vectors of length 1.")
    ] = True,
    hive_name: Annotated[str | None, typer.Option("--hive", help="Only on this machine.")] = None,
    device: Annotated[str | None, typer.Option(help="Only on this device: cpu, cuda:0, …")] = None,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Take down at once what had to be started.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No narration.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn texts into vectors: a line for each with its first numbers, or all with --json."""
    from rbee.commands import embed as command

    ask = command.Ask(
        model=model_name,
        texts=texts or (),
        normalize=normalize,
        hive=hive_name,
        device=device,
        manner=command.Manner(ephemeral=ephemeral, quiet=quiet, as_json=as_json),
    )
    _run(lambda: command.run(ask), as_json=as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What works on this machine, what does not, and the command that would change it."""
    from rbee.commands import doctor as command

    _run(lambda: command.run(as_json=as_json), as_json=as_json)


@queen.command("start")
def queen_start(as_json: AsJson = False) -> None:
    """Start the queen in the background; she stays until she is stopped."""
    from rbee.commands import queen as command

    _run(lambda: command.start(as_json=as_json), as_json=as_json)


@queen.command("stop")
def queen_stop(as_json: AsJson = False) -> None:
    """Stop the queen and everything she runs."""
    from rbee.commands import queen as command

    _run(lambda: command.stop(as_json=as_json), as_json=as_json)


@queen.command("status")
def queen_status(as_json: AsJson = False) -> None:
    """Where the queen is and how she does; exit code 1 when there is none."""
    from rbee.commands import queen as command

    _run(lambda: command.status(as_json=as_json), as_json=as_json)


@queen.command("logs")
def queen_logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until Ctrl+C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=100_000, help="So many of the last.")
    ] = 100,
) -> None:
    """What the queen in the background has written."""
    from rbee.commands import queen as command

    _run(lambda: command.logs(lines=lines, follow=follow))


@hive.command("list")
def hive_list(as_json: AsJson = False) -> None:
    """The machines, their devices and how they are reached."""
    from rbee.commands import listings as command

    _run(lambda: command.hives(as_json=as_json), as_json=as_json)


@worker.command("list")
def worker_list(as_json: AsJson = False) -> None:
    """The workers, their models and what they do."""
    from rbee.commands import listings as command

    _run(lambda: command.workers(as_json=as_json), as_json=as_json)


@worker.command("health")
def worker_health(worker_id: WorkerId, as_json: AsJson = False) -> None:
    """One worker; exit code 1 unless it can take work or does."""
    from rbee.commands import listings as command

    _run(lambda: command.worker_health(worker_id, as_json=as_json), as_json=as_json)


@worker.command("stop")
def worker_stop(worker_id: WorkerId, as_json: AsJson = False) -> None:
    """Stop a worker; what it runs ends with an error."""
    from rbee.commands import listings as command

    _run(lambda: command.worker_stop(worker_id, as_json=as_json), as_json=as_json)


@job.command("list")
def job_list(
    state: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Jobs, newest first."""
    from rbee.commands import listings as command

    _run(lambda: command.jobs(state, limit, as_json=as_json), as_json=as_json)


@job.command("show")
def job_show(job_id: JobId, as_json: AsJson = False) -> None:
    """One job, and its answer when it has one."""
    from rbee.commands import listings as command

    _run(lambda: command.job_show(job_id, as_json=as_json), as_json=as_json)


@job.command("cancel")
def job_cancel(job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job, wherever it is."""
    from rbee.commands import listings as command

    _run(lambda: command.job_cancel(job_id, as_json=as_json), as_json=as_json)


@model.command("list")
def model_list(
    everything: Annotated[bool, typer.Option("--all", help="Test models too.")] = False,
    as_json: AsJson = False,
) -> None:
    """The models that can be used now."""
    from rbee.commands import listings as command

    _run(lambda: command.models(everything=everything, as_json=as_json), as_json=as_json)


@config.command("show")
def config_show(as_json: AsJson = False) -> None:
    """Every setting, its value and where that comes from."""
    from rbee.commands import config as command

    _run(lambda: command.show(as_json=as_json), as_json=as_json)


@config.command("paths")
def config_paths(
    system: Annotated[bool, typer.Option("--system", help="Those of the whole machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """The folders and files rbee uses."""
    from rbee.commands import config as command

    _run(lambda: command.paths(system=system, as_json=as_json), as_json=as_json)


@config.command("init")
def config_init(
    system: Annotated[bool, typer.Option("--system", help="For the whole machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a settings file with every default and what it means."""
    from rbee.commands import config as command

    _run(lambda: command.init(system=system, as_json=as_json), as_json=as_json)


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
