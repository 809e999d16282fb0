"""Vectors that were asked for and not begun are made after the queen was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx

from tests.support.home import Home, wait_for


def test_vectors_asked_of_a_queen_that_is_killed_are_made_by_the_next(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    try:
        assert home.rbee("queen", "start").returncode == 0
        body = {"operation": "embed", "model": "echo-slow", "input": ["a bee", "b"]}
        job = home.post("/v1/jobs", body).json()
        assert home.state is not None
        os.kill(home.state["pid"], signal.SIGKILL)
        home.until_empty(20)
        assert home.rbee("queen", "start").returncode == 0
        path = f"/v1/jobs/{job['job_id']}"
        wait_for(lambda: home.get(path)["finished_at"], limit=60, what="the job's end")
        assert home.get(path)["state"] == "completed"
        seen = httpx.get(f"{home.url}{path}/stream", trust_env=False, timeout=30).text
        assert seen.count("event: result") == 1
    finally:
        home.close()
