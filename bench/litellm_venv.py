"""A virtual environment for LiteLLM's proxy, made on demand, and the settings it is run with.

Settings as its documentation advises for speed: errors only in the log, no telemetry, no database,
one model, retries off. https://docs.litellm.ai/docs/proxy/prod
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.places import BUILD

VERSION = "1.106.2"
LIMIT = 900.0
KEY = "sk-5d1c0f7f1b7a4a0e9a3b8a6c2f4e7d90"
ENVIRONMENT = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_MASTER_KEY": KEY,
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_DOCS": "True",
    "NO_PROXY": "*",
}


class NoLiteLlm(Exception):
    """It cannot be had; the message is told in the table."""


def config(model: str, api_base: str) -> dict[str, Any]:
    """What it is started with: one model behind OpenAI's API."""
    params = {"model": f"openai/{model}", "api_base": api_base, "api_key": "none"}
    return {
        "model_list": [{"model_name": model, "litellm_params": params}],
        "litellm_settings": {"set_verbose": False, "telemetry": False, "num_retries": 0,
                             "request_timeout": 600, "drop_params": True},
        "general_settings": {"master_key": KEY},
    }  # fmt: skip


def present() -> Path | None:
    """The environment's Python if it was made before."""
    folder = BUILD / f"litellm-{VERSION}"
    return folder / "bin" / "python" if (folder / "ready").exists() else None


def prepare(say: Callable[[str], None]) -> Path:
    """The environment's Python, made if it is not there. Raises NoLiteLlm."""
    folder = BUILD / f"litellm-{VERSION}"
    if (python := present()) is not None:
        return python
    say(f"installing LiteLLM {VERSION} into {folder}")
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    python = folder / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check",
          "--only-binary", ":all:", f"litellm[proxy]=={VERSION}"])  # fmt: skip
    _run([str(folder / "bin" / "litellm"), "--version"])
    (folder / "ready").touch()
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False
        )
    except (subprocess.TimeoutExpired, OSError) as exc:
        raise NoLiteLlm(f"it could not be installed ({type(exc).__name__})") from exc
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NoLiteLlm(f"it cannot be installed here ({last[:160]})")
