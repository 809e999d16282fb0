"""Runs folders of safetensors with MLX, Apple's library for its own chips, through mlx-lm.

Importing this package is cheap: the libraries are looked for, and loaded only by what `create`
makes. `loading` reads a folder, `engine` answers all requests at once with mlx-lm's batch
generator, `prompts` keeps what was computed of prompts, `model` is the `text_model` of `shared` on
it. Templates, tokens, sampling and the text of answers are those of `shared`.

An answer has no shape asked of it here: a grammar, a JSON schema and a call that must be made are
refused by name. It makes no vectors. Keys and values are kept as the model computes. Code that lies
in a model's folder is never run.

MLX's build for Linux computes on the CPU; it is how this backend is tested. It was never run on a
Mac.
"""

from __future__ import annotations

import importlib.util
import platform
import sys

from rbee.backend_api import Backend, BackendInfo, Support

_NEEDED = {
    "mlx": "mlx", "mlx_lm": "mlx-lm", "transformers": "transformers", "jinja2": "jinja2",
    "numpy": "numpy",
}  # fmt: skip
_INSTALL = "Install it: pip install 'rbee[mlx]'."


def probe() -> Support:
    """Whether the libraries are installed and for which kinds of device; loads nothing."""
    if sys.platform == "darwin" and platform.machine() != "arm64":
        reason = f"MLX needs Apple silicon; this is a {platform.machine()} Mac"
        return Support(False, (), reason, "Use llamacpp or torch on this machine.")
    for module, package in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            return Support(False, (), f"the package {package} is not installed", _INSTALL)
    return Support(True, kinds())


def kinds() -> tuple[str, ...]:
    """Kinds of device that MLX computes on here, as rbee uses it."""
    return ("metal", "cpu") if sys.platform == "darwin" else ("cpu",)


def _create() -> Backend:
    from .loading import MlxBackend  # some 2 s: mlx-lm and transformers

    return MlxBackend()


INFO = BackendInfo(
    name="mlx",
    formats=("safetensors",),
    capabilities=("text-gen",),
    probe=probe,
    create=_create,
    max_slots=32,
    continues=True,
    report="rbee.backends.mlx.report",
)
