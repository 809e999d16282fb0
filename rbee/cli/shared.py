"""What the commands share: how one is run and ends, and the arguments that several take.

Owns exit codes of errors and signals; never does a command's work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from rbee.errors import RbeeError


class LogFormat(StrEnum):
    """How daemons write their log."""

    TEXT = "text"
    JSON = "json"


class Priority(StrEnum):
    """Which jobs go first; as rbee.protocol.operations has it, which is too heavy for a help."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


WorkerId = Annotated[str, typer.Argument(help="As `rbee worker list` shows it.")]
JobId = Annotated[str, typer.Argument(help="As `rbee job list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No narration.")]
ModelName = Annotated[str, typer.Option("--model", "-m", help="Model name or reference.")]
HiveName = Annotated[str | None, typer.Option("--hive", help="Only on this machine.")]
Device = Annotated[str | None, typer.Option(help="Only on this device: cpu, cuda:0, …")]
BackendName = Annotated[
    str | None, typer.Option("--backend", help="Only by this one; else the queen chooses.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Queue when all slots are busy.")]
Turn = Annotated[
    Priority, typer.Option("--priority", help="batch: when nobody waits for an answer.")
]
Deadline = Annotated[
    int | None,
    typer.Option("--deadline-ms", min=1, help="Give up unless work begins in so many ms."),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Until Ctrl+C.")]
LogLines = Annotated[
    int, typer.Option("--lines", "-n", min=1, max=2000, help="So many of the last.")
]
Ephemeral = Annotated[
    bool, typer.Option("--ephemeral", help="Take down at once what had to be started.")
]


def group(text: str) -> typer.Typer:
    """Commands under one noun."""
    return typer.Typer(help=text, no_args_is_help=True)


def run(call: Callable[[], int | None], *, as_json: bool = False) -> None:
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
