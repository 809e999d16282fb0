"""`rbee infer` and `rbee embed`: work for a model; `rbee logs`: what was written meanwhile."""

from __future__ import annotations

from typing import Annotated

import typer

from rbee.cli.shared import (
    AsJson,
    BackendName,
    Deadline,
    Device,
    Ephemeral,
    Follow,
    HiveName,
    LogLines,
    ModelName,
    Priority,
    Quiet,
    Turn,
    Wait,
    run,
)


def infer(
    model_name: ModelName,
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
    priority: Turn = Priority.INTERACTIVE,
    deadline_ms: Deadline = None,
    hive_name: HiveName = None,
    device: Device = None,
    backend: BackendName = None,
    wait: Wait = True,
    ephemeral: Ephemeral = False,
    quiet: Quiet = False,
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
            "priority": priority.value,
            "deadline_ms": deadline_ms,
            "hive": hive_name,
            "device": device,
            "backend": backend,
            "wait": wait,
        },
        manner=command.Manner(ephemeral=ephemeral, quiet=quiet, as_json=as_json),
    )
    run(lambda: command.run(ask), as_json=as_json)


def embed(
    model_name: ModelName,
    texts: Annotated[
        list[str] | None, typer.Argument(help="The texts; `-` or nothing: each line of stdin.")
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Vectors of length 1.")
    ] = True,
    priority: Turn = Priority.INTERACTIVE,
    deadline_ms: Deadline = None,
    hive_name: HiveName = None,
    device: Device = None,
    backend: BackendName = None,
    wait: Wait = True,
    ephemeral: Ephemeral = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Turn texts into vectors: a line for each with its first numbers, or all with --json."""
    from rbee.commands import embed as command

    ask = command.Ask(
        model=model_name,
        texts=texts or (),
        options={
            "normalize": normalize,
            "priority": priority.value,
            "deadline_ms": deadline_ms,
            "hive": hive_name,
            "device": device,
            "backend": backend,
            "wait": wait,
        },
        manner=command.Manner(ephemeral=ephemeral, quiet=quiet, as_json=as_json),
    )
    run(lambda: command.run(ask), as_json=as_json)


def logs(
    hive_name: Annotated[str | None, typer.Option("--hive", help="Of this machine's hive.")] = None,
    worker_id: Annotated[str | None, typer.Option("--worker", help="Of this worker.")] = None,
    follow: Follow = False,
    lines: LogLines = 100,
) -> None:
    """What a hive, a worker or, without a name, the queen in the background has written."""
    from rbee.commands import logs as command

    run(lambda: command.run(hive=hive_name, worker=worker_id, lines=lines, follow=follow))
