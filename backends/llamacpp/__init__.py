"""Runs GGUF models with llama.cpp, through the low-level C interface of llama-cpp-python.

Importing this package is cheap: the library is looked for, and loaded only by what `create` makes.
`native` is the door to the C library, `model` and `vocab` hold what is loaded, `context` decodes,
`sampling` chooses tokens, `template` renders chats, `text` turns tokens into safe text, and
`generate` ties them into one answer. One request runs at a time.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from rbee.backend_api import Backend, BackendInfo, Support

_NEEDED = {"llama_cpp": "llama-cpp-python", "jinja2": "jinja2"}
_INSTALL = "Install it: pip install 'rbee[llamacpp]'."
_BUILDS = {"cuda": "*ggml-cuda*", "metal": "*ggml-metal*", "vulkan": "*ggml-vulkan*"}
"""Device kind → the library file that a build with it has beside the others."""


def probe() -> Support:
    """Whether the library is installed and for which device kinds it was built; loads nothing."""
    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            return Support(False, (), f"the package {package} is not installed", _INSTALL)
    folder = library_folder()
    names = [path for pattern in ("*llama.*", "*llama-*") for path in folder.glob(pattern)]
    if not names:
        return Support(
            False,
            (),
            f"llama-cpp-python is installed without its C library ({folder})",
            "Install it again: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        )
    built = [kind for kind, pattern in _BUILDS.items() if any(folder.glob(pattern))]
    return Support(True, ("cpu", *built))


def library_folder() -> Path:
    """Where llama-cpp-python keeps its C libraries; the package must be installed."""
    spec = importlib.util.find_spec("llama_cpp")
    roots = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(roots[0] if roots else sys.prefix) / "lib"


def _create() -> Backend:
    from .backend import LlamaBackend  # some 30 ms: jinja2

    return LlamaBackend()


INFO = BackendInfo(
    name="llamacpp",
    formats=("gguf",),
    capabilities=("text-gen",),
    probe=probe,
    create=_create,
    max_slots=1,
)
