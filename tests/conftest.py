"""What every test gets: asyncio, a clean environment, a check that no process is left behind."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.home import Home, processes_of, told
from tests.support.hub_fixture import hub  # noqa: F401

# Two test processes that compute with llama.cpp wait for each other's threads, which by default
# spin for so long that a test of 4 s takes two minutes. Read when the OpenMP library is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# A shell that starts the run in the background has it ignore Ctrl+C, and every `rbee` of it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A run must tell of this change only; `HYPOTHESIS_PROFILE=search` looks for new examples.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("search")
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    for number in range(1, 63):
        config.addinivalue_line("markers", f"s{number:02d}: acceptance scenario {number}")


def pytest_collection_finish() -> None:
    """A third of a screen test's time went into walking what thousands of tests have imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> None:
    for name in list(os.environ):
        if name.startswith("RBEE_") or name in ("NO_COLOR", "TEXTUAL_THEME"):
            del os.environ[name]


@pytest.fixture(scope="session", autouse=True)
def _nobody_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the run when a process started under the session's temporary folder is still there."""
    yield
    left = processes_of(tmp_path_factory.getbasetemp())
    lines = told(left)
    for process in left:
        process.kill()
    assert not lines, f"processes left behind: {lines}"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A user of rbee with folders of their own; everything they started must be gone by itself."""
    user = Home(tmp_path / "home")
    yield user
    user.close()
