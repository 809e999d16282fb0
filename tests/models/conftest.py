"""`ask`: a Hub of the stand-in; `world`: a home. Never with what is of whoever runs the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import Programs

from rbee.models.hub import Hub
from tests.support.hub_fixture import StandIn

Ask = Callable[..., Hub]
PLACES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS")


@pytest.fixture
def ask(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """`ask()` is nobody's Hub, `ask("hf_member")` a member's."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def make(token: str | None = None) -> Hub:
        return Hub(hub.url, token)

    return make


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    """The home of whoever runs the tests."""
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Programs(tmp_path)
    yield made
    made.stock.close()
