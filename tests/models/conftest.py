"""`ask`: a Hub for tests, of the stand-in, never with a token of whoever runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rbee.models.hub import Hub
from tests.support.hub_fixture import StandIn

Ask = Callable[..., Hub]


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
