"""A queen that is killed in the middle of a real model's answer: her successor goes on with it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx

from tests.support.home import Home

STORY = {
    "operation": "infer", "model": "smollm2-135m", "prompt": "Tell me a story about bees.",
    "max_tokens": 60, "temperature": 0, "ignore_eos": True, "deterministic": True,
}  # fmt: skip
KILL_AFTER = 12


def test_a_reader_who_comes_back_gets_the_rest_and_the_text_is_as_if_nothing_happened(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    try:
        assert home.rbee("queen", "start").returncode == 0
        path = f"/v1/jobs/{home.post('/v1/jobs', STORY).json()['job_id']}/stream"
        seen = b""
        with httpx.stream("GET", f"{home.url}{path}", trust_env=False, timeout=60) as reply:
            for chunk in reply.iter_raw():
                seen += chunk
                if seen.count(b"event: token") >= KILL_AFTER and seen.endswith(b"\n\n"):
                    break
        waits = home.post("/v1/jobs", STORY | {"max_tokens": 3}).json()["job_id"]
        assert home.state is not None
        os.kill(home.state["pid"], signal.SIGKILL)
        home.until_empty(20)

        assert home.rbee("queen", "start").returncode == 0
        before = events(seen.decode())
        rest = read(home, path, after=before[-1][0])
        assert [number for number, _, _ in before + rest] == [
            *range(1, len(before) + len(rest) + 1)
        ]
        assert [kind for _, kind, _ in rest].count("end") == 1
        assert "recovered" in str(rest)
        tokens = [data for _, kind, data in before + rest if kind == "token"]
        assert [data["i"] for data in tokens] == list(range(60))
        assert read(home, path) == before + rest
        assert [kind for _, kind, _ in read(home, f"/v1/jobs/{waits}/stream")][-1] == "end"
        again = f"/v1/jobs/{home.post('/v1/jobs', STORY).json()['job_id']}/stream"
        assert text(read(home, again)) == text(before + rest)
    finally:
        home.close()


Event = tuple[int, str, dict[str, object]]


def read(home: Home, path: str, *, after: int = 0) -> list[Event]:
    headers = {"Last-Event-ID": str(after)}
    reply = httpx.get(f"{home.url}{path}", headers=headers, trust_env=False, timeout=90)
    return events(reply.text)


def events(stream: str) -> list[Event]:
    found: list[Event] = []
    for block in stream.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "id" in lines:
            found.append((int(lines["id"]), lines["event"], json.loads(lines["data"])))
    return found


def text(stream: list[Event]) -> str:
    return "".join(str(data["t"]) for _, kind, data in stream if kind == "token")
