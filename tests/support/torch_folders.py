"""Folders of safetensors for the tests of torch: altered, loaded."""

from __future__ import annotations

import json
import shutil

from tests.support.backends import load

CTX = 256


def load_folder(path, **options):
    return load(path, backend="torch", form="safetensors", **options)


def altered(folder, target, **changes):
    """A copy whose config.json says something else."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target
