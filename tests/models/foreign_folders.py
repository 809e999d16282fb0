"""Folders of models as other programs write them: the hub's cache, LM Studio, Ollama."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_cache(cache: Path, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """As huggingface_hub keeps a revision: blobs by hash, links to them by name. The snapshot."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    for name, content in files.items():
        large = len(content) > 1000
        blob = folder / "blobs" / (sha256(content) if large else git_sha1(content))
        blob.write_bytes(content)
        link = snapshot / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(
            Path(*[".."] * (1 + len(link.relative_to(folder).parts) - 2), "blobs", blob.name)
        )
    return snapshot


def lmstudio(root: Path, repo: str, name: str, content: bytes) -> Path:
    """Publisher, repository, file."""
    path = root / repo / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def ollama(root: Path, name: str, content: bytes, *, adapter: bool = False) -> Path:
    """As `ollama pull` leaves it: `name` is `[host/][space/]model:tag`. The blob."""
    blob = blob_of(root, content)
    config = blob_of(root, json.dumps({"model_format": "gguf", "os": "linux"}).encode())
    template = blob_of(root, b"{{ .Prompt }}")
    layers = [
        layer(blob, "application/vnd.ollama.image.model"),
        layer(template, "application/vnd.ollama.image.template"),
    ]
    if adapter:
        layers.append(layer(template, "application/vnd.ollama.image.adapter"))
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer(config, "application/vnd.docker.container.image.v1+json"),
        "layers": layers,
    }
    manifest_of(root, name).write_text(json.dumps(manifest))
    return blob


def manifest_of(root: Path, name: str) -> Path:
    """Where a name's manifest is."""
    model, _, tag = name.rpartition(":")
    parts = model.split("/")
    parts = {1: ["registry.ollama.ai", "library"], 2: ["registry.ollama.ai"], 3: []}[
        len(parts)
    ] + parts
    path = root.joinpath("manifests", *parts, tag)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def blob_of(root: Path, content: bytes) -> Path:
    path = root / "blobs" / f"sha256-{sha256(content)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def layer(blob: Path, media_type: str) -> dict[str, object]:
    return {
        "mediaType": media_type,
        "digest": blob.name.replace("-", ":", 1),
        "size": blob.stat().st_size,
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
