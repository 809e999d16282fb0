"""The queen beside a bare proxy and LiteLLM: CPU time, latency, requests per second (P4 to P7)."""

from __future__ import annotations

import os

from bench.figures import percentile
from bench.queen.book import DIRECT, QUEEN
from bench.queen.clients import closed_loop
from bench.queen.context import FAILURES, Context, answers
from bench.queen.programs import HOST, Program

CLIENTS = 16
LEAST, MOST = 40, 4000
"""Requests of one round."""
EVENT_GAP = 0.005
"""Seconds between two tokens of a stream, so that none wait for others."""
SLOWER = 4
"""LiteLLM streams to so many times fewer clients: it could not keep up, and events would gather."""


async def per_request(context: Context, case: str, *, tokens: int, stream: bool) -> None:
    """CPU time of each proxy for one answer; as many answers as show it exactly."""
    proxies = await context.proxies()
    await proxies.direct.pace()
    context.missing(case)
    counts: dict[str, int] = {}
    for _ in range(context.rounds):
        for program in proxies.all():
            if (case, program.name) in context.book.absent:
                continue
            try:
                if program.name not in counts:
                    probe = await answers(program, count=LEAST, clients=CLIENTS,
                                          tokens=tokens, stream=stream)  # fmt: skip
                    wanted = context.size.cpu / max(probe.each, 1e-5)
                    counts[program.name] = round(min(max(wanted, LEAST), MOST))
                cost = await answers(program, count=counts[program.name], clients=CLIENTS,
                                     tokens=tokens, stream=stream)  # fmt: skip
            except FAILURES as exc:
                context.book.drop(case, program.name, str(exc) or type(exc).__name__)
                continue
            context.book.add(case, program.name, {"cpu": cost.each * 1e6})


async def short(context: Context) -> None:
    """8 tokens in one body."""
    await per_request(context, "short", tokens=8, stream=False)


async def streamed(context: Context) -> None:
    """20 tokens, streamed as fast as they are taken."""
    await per_request(context, "streamed", tokens=20, stream=True)


async def events(context: Context) -> None:
    """Long answers less short ones: what remains is the cost of the events between."""
    proxies = await context.proxies()
    await proxies.direct.pace(gap=EVENT_GAP)
    context.missing("events")
    few, many = context.size.events
    for _ in range(context.rounds):
        for program in proxies.all():
            if ("events", program.name) in context.book.absent:
                continue
            clients = CLIENTS // (SLOWER if program is proxies.litellm else 1)
            try:
                short_ones = await answers(program, count=clients, clients=clients,
                                           tokens=few, stream=True)  # fmt: skip
                long_ones = await answers(program, count=clients, clients=clients,
                                          tokens=many, stream=True)  # fmt: skip
            except FAILURES as exc:
                context.book.drop("events", program.name, str(exc) or type(exc).__name__)
                continue
            passed = clients * (many - few)
            cost = (long_ones.cpu - short_ones.cpu) / passed
            context.book.add("events", program.name, {"cpu": cost * 1e6})
    await proxies.direct.pace()


async def latency(context: Context) -> None:
    """One client, one token, one after another; what the way adds is the difference."""
    proxies = await context.proxies()
    await proxies.direct.pace()
    context.missing("latency")
    for _ in range(context.rounds):
        base = await _waits(proxies.direct, context.size.latencies)
        context.book.add("latency", DIRECT, base)
        for program in proxies.all():
            if ("latency", program.name) in context.book.absent:
                continue
            try:
                found = await _waits(program, context.size.latencies)
            except FAILURES as exc:
                context.book.drop("latency", program.name, str(exc) or type(exc).__name__)
                continue
            added = {f"added_{key}": found[key] - base[key] for key in base}
            context.book.add("latency", program.name, found | added)


async def _waits(program: Program, count: int) -> dict[str, float]:
    request = program.chat(1, stream=False)
    sent = await closed_loop(HOST, program.port, lambda _: request, count=count, clients=1)
    return {
        "p50": percentile(sent.latencies, 0.5) * 1000,
        "p99": percentile(sent.latencies, 0.99) * 1000,
    }


async def throughput(context: Context) -> None:
    """16 clients, 20 tokens; the proxy has one core to itself, all others share the rest."""
    proxies = await context.proxies()
    await proxies.direct.pace()
    context.missing("throughput")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    pinned = len(cores) > 1 and proxies.direct.pin(cores[1])
    if pinned:
        os.sched_setaffinity(0, {cores[1]})
        for program in proxies.all():
            program.pin(cores[0])
    else:
        context.book.note("Programs could not be kept on cores of their own (throughput).")
    counts: dict[str, int] = {}
    try:
        for _ in range(context.rounds):
            for program in proxies.all():
                await _throughput(context, program, counts)
    finally:
        if pinned:
            os.sched_setaffinity(0, set(cores))
            for program in (*proxies.all(), proxies.direct):
                program.unpin(cores)


async def _throughput(context: Context, program: Program, counts: dict[str, int]) -> None:
    case, stream, tokens = "throughput", True, 20
    if (case, program.name) in context.book.absent:
        return
    try:
        if program.name not in counts:
            probe = await answers(program, count=2 * LEAST, clients=CLIENTS,
                                  tokens=tokens, stream=stream)  # fmt: skip
            wanted = 2 * LEAST / probe.seconds * context.size.throughput
            counts[program.name] = round(max(wanted, LEAST))
        cost = await answers(program, count=counts[program.name], clients=CLIENTS,
                             tokens=tokens, stream=stream)  # fmt: skip
    except FAILURES as exc:
        context.book.drop(case, program.name, str(exc) or type(exc).__name__)
        return
    context.book.add(case, program.name, {
        "rate": cost.requests / cost.seconds,
        "by_cpu": 1 / cost.each,
        "busy": cost.cpu / cost.seconds * 100,
    })  # fmt: skip
    if program.name == QUEEN:
        context.tell(f"  throughput: {cost.requests / cost.seconds:.0f}/s")
