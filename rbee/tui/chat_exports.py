"""What leaves a chat: a command line, a block of code, a file. Owns the texts and free file names.

Files are written where they are asked for and replace nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from rbee.errors import Local
from rbee.tui.answer import Answer, Phase
from rbee.tui.sampling import DEFAULTS, NUMBERS, Sampling
from rbee.tui.talk import Dialogue, Exchange

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.M | re.S)
_SENT = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def curl(
    url: str, chat: Dialogue, exchange: Exchange, answer: Answer, *, keyed: bool = False
) -> str:
    """The question as a command for a shell, by the queen's OpenAI route. What that route would
    choose otherwise than this chat is written out. `keyed`: with the key that the shell has in
    RBEE_API_KEY, which is not written out."""
    messages = [message.plain() for message in chat.messages(exchange)]
    if chat.sampling.system:
        messages.insert(0, {"role": "system", "content": chat.sampling.system})
    body = {
        "model": answer.model,
        "messages": messages,
        "stream": True,
        **sampling_body(chat.sampling),
    }
    where = f"{url.rstrip('/')}/v1/chat/completions"
    kind = "Content-Type: application/json"
    key = ' -H "Authorization: Bearer $RBEE_API_KEY"' if keyed else ""
    told = shlex.join(["-H", kind, "-d", json.dumps(body)])
    return f"{shlex.join(['curl', '-sN', where])}{key} {told}"


def sampling_body(sampling: Sampling) -> dict[str, object]:
    """The parameters of a chat, with defaults where the OpenAI route has others."""
    told = sampling.told()
    return {name: told.get(name, DEFAULTS[name]) for name in _SENT} | {
        name: value for name, value in told.items() if name not in _SENT
    }


def last_code(text: str) -> str | None:
    """The last block of code of an answer, without its fences; one that has no end yet, too."""
    blocks = [found[2] for found in _FENCE.finditer(text)]
    return blocks[-1].rstrip("\n") if blocks else None


def markdown(chat: Dialogue) -> str:
    """The conversation as a document. Thoughts are left out."""
    out = [f"# {chat.title}", ""]
    facts = {name: getattr(chat.sampling, name) for name in NUMBERS}
    set_ones = [f"{name} {value}" for name, value in facts.items() if value is not None]
    if set_ones:
        out += [f"*{', '.join(set_ones)}*", ""]
    if chat.sampling.system:
        out += ["## System", "", chat.sampling.system, ""]
    for exchange in chat.exchanges:
        out += ["## Question", "", exchange.prompt, ""]
        for answer in exchange.shown:
            out += [*_answer(answer.counts), ""]
    return "\n".join(out).rstrip() + "\n"


def as_json(chat: Dialogue) -> str:
    """The conversation as messages in OpenAI's form, with its model and parameters."""
    messages: list[dict[str, object]] = []
    if chat.sampling.system:
        messages.append({"role": "system", "content": chat.sampling.system})
    for exchange in chat.exchanges:
        messages.append({"role": "user", "content": exchange.prompt})
        if said := exchange.answer.counts.said():
            messages.append({"role": "assistant", "content": said})
    body = {"title": chat.title, "model": chat.model, "messages": messages}
    return json.dumps(body | chat.sampling.told(), ensure_ascii=False, indent=2) + "\n"


def write_new(folder: Path, title: str, ending: str, content: str, now: float) -> Path:
    """Write a file under a name that no other has. Blocking. Raises Local."""
    for name in _names(title, ending, now):
        path = folder / name
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        except OSError as exc:
            raise _unwritten(path, exc) from exc
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(content)
        except OSError as exc:
            path.unlink(missing_ok=True)
            raise _unwritten(path, exc) from exc
        return path
    raise Local(f"{folder} has a hundred files of that name", action="Move some of them.")


def _answer(answer: Answer) -> list[str]:
    where = f" on {answer.hive} {answer.device}" if answer.hive else ""
    ended = "" if answer.phase is Phase.DONE else f" ({answer.phase.value})"
    head = f"## {answer.model}{where}{ended}"
    if answer.error is not None:
        return [head, "", answer.said(), "", f"> {answer.error.message}"]
    return [head, "", answer.said()]


def _names(title: str, ending: str, now: float) -> Iterator[str]:
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "chat"
    stem = f"rbee-{time.strftime('%Y-%m-%d', time.localtime(now))}-{slug}"
    yield f"{stem}.{ending}"
    for number in range(2, 101):
        yield f"{stem}-{number}.{ending}"


def _unwritten(path: Path, exc: OSError) -> Local:
    return Local(
        f"{path} cannot be written: {exc.strerror}",
        action="Start rbee in a folder of your own.",
    )


def no_folder() -> Local:
    """The folder rbee was started in is gone."""
    return Local("the folder rbee was started in is gone", action="Start rbee in another one.")
