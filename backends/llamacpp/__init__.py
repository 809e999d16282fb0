"""Runs GGUF models with llama.cpp, through the low-level C interface of llama-cpp-python.

Importing this package is cheap: the library is looked for, and loaded only by what `create` makes.
`native` is the door to the C library, `model` and `vocab` hold what is loaded. `generate` puts the
`text_model` of `shared` and a `grammar` on the engine of `shared`, which answers all requests at
once in the slots of one `context`; `embedding` makes vectors.
"""

from __future__ import annotations

import importlib.util

from rbee.backend_api import Backend, BackendInfo, Support

from . import builds

_NEEDED = {"llama_cpp": "llama-cpp-python", "jinja2": "jinja2"}
_INSTALL = "Install it: pip install 'rbee[llamacpp]'."


def probe() -> Support:
    """Whether the library is installed and for which device kinds it was built; loads nothing."""
    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            return Support(False, (), f"the package {package} is not installed", _INSTALL)
    if not (kinds := builds.built()):
        return Support(
            False,
            (),
            f"llama-cpp-python is installed without its C library ({builds.folder()})",
            f"Install it again: {builds.command()}",
        )
    return Support(True, kinds)


def _create() -> Backend:
    from .backend import LlamaBackend  # some 30 ms: jinja2

    return LlamaBackend()


INFO = BackendInfo(
    name="llamacpp",
    formats=("gguf",),
    capabilities=("text-gen", "embedding"),
    probe=probe,
    create=_create,
    max_slots=64,
    continues=True,
    report="rbee.backends.llamacpp.report",
)
