"""A model that is made in a moment, for every test here."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbee.backend_contract import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of safetensors."""
    return tiny.make(tmp_path_factory.mktemp("tiny"))
