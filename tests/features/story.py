"""What the steps of all scenarios share: the scenario's story so far, and eyes on what happens."""

from __future__ import annotations

import subprocess

import httpx
import psutil

from rbee.sse import ServerEvent
from tests.support.colony import Colony
from tests.support.home import Home, words_of
from tests.support.hub_fixture import StandIn
from tests.support.told import Reader, Told, follow

BUSY = "@delay=100 @repeat=2000 tick"
"""An answer that takes longer than any scenario."""


class Story:
    """What has happened in the scenario so far."""

    home: Home
    colony: Colony
    result: subprocess.CompletedProcess[str]
    background: subprocess.Popen[str]
    foreground: subprocess.Popen[str]
    hive: subprocess.Popen[str]
    process: psutil.Process
    reply: httpx.Response
    replies: list[httpx.Response]
    events: list[ServerEvent]
    told: Told
    reader: Reader
    job: str
    jobs: list[str]
    asked: dict[str, list[str]]
    """Jobs that wait, by client."""
    worker: str
    text: str
    many: list[subprocess.Popen[str]]
    hub: StandIn


def read_stream(url: str, job_id: str, after: int = 0) -> list[ServerEvent]:
    """All events of a job, comments left out."""
    return follow(url, job_id, after=after).events


def submit(story: Story, prompt: str) -> str:
    """An echo job's id."""
    body = {"operation": "infer", "model": "echo", "prompt": prompt}
    reply = story.home.post("/v1/jobs", body)
    assert reply.status_code == 202, reply.text
    return reply.json()["job_id"]


def running(home: Home, *words: str) -> list[psutil.Process]:
    """The user's processes with any of the words on their command line."""
    found: list[psutil.Process] = []
    for process in home.processes():
        line = " ".join(words_of(process))
        if any(word in line for word in words):
            found.append(process)
    return found


def guards_and_workers(home: Home) -> list[psutil.Process]:
    return running(home, "guard.py", "worker.main")
