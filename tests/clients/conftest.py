"""One queen for all clients, and a model that calls functions."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from rbee.models import packages
from tests.support.home import Home
from tests.support.retemplated import HERMES, retemplated


@pytest.fixture(scope="session")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("clients"))
    assert home.rbee("queen", "start").returncode == 0
    yield home
    home.close()


@pytest.fixture(scope="session")
def client(user: Home) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{user.url}/openai/v1", api_key="none", max_retries=0, timeout=60
    ) as it:
        yield it


@pytest.fixture(scope="session")
def caller(user: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the demo model with a template that tells of tools; its owner has loaded it."""
    pytest.importorskip("llama_cpp")
    source = packages.packaged("smollm2-135m").path
    target = tmp_path_factory.mktemp("models") / "caller-135m.gguf"
    name = f"file:{retemplated(source, target, HERMES)}"
    assert user.rbee("model", "load", name).returncode == 0
    return name
