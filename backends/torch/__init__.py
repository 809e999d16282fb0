"""Runs Hugging Face models with PyTorch: folders of safetensors, and GGUF files that it can read.

Importing this package is cheap: torch is looked for, and loaded only by what `create` makes.
`builds` tells from files what the installed torch was built for, `devices` asks it. `reading` loads
weights and tokenizer. `context` is the slots' memory for the engine of `shared`; `trial` checks
that a model computes in slots what it computes alone. `generate` writes text, `embedding` makes
vectors.

An answer has no shape asked of it here: a grammar, a JSON schema and a call that must be made are
refused by name. Code that lies in a model's folder is never run, and weights are read from
safetensors only, which hold no code.
"""

from __future__ import annotations

import importlib.util

from rbee.backend_api import Backend, BackendInfo, Support

from . import builds

_NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "safetensors": "safetensors",
    "jinja2": "jinja2",
    "numpy": "numpy",
}


def probe() -> Support:
    """Whether the libraries are installed and for which kinds of device torch was built; loads
    nothing."""
    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            return Support(False, (), f"the package {package} is not installed", builds.install())
    return Support(True, builds.built())


def _create() -> Backend:
    from .backend import TorchBackend  # some 3 s: torch and transformers

    return TorchBackend()


INFO = BackendInfo(
    name="torch",
    formats=("safetensors", "gguf"),
    capabilities=("text-gen", "embedding"),
    probe=probe,
    create=_create,
    max_slots=64,
    continues=True,
    report="rbee.backends.torch.report",
)
