"""The repositories of the hub stand-in: folders read as the hub tells of them.

`ROOT/org/repo/` holds the files; `ROOT/org/repo/.hub.json` may say more: `gated` ("manual"),
`private`, `task`, `tags`, `downloads`, `likes`, `lastModified`, `gguf`, `safetensors`, `branches`,
`sha256` (name → hex: told as it is, nothing is hashed), `missing_size` (names told without size and
hash), `more_siblings` (told though they are not there).
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
_LFS_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".onnx")
_LFS_SIZE = 10 << 20
_hashes: dict[tuple[str, str, int, int], str] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class File:
    name: str
    path: Path
    size: int
    told_sha256: str | None = None

    @property
    def lfs(self) -> bool:
        return self.name.endswith(_LFS_SUFFIXES) or self.size > _LFS_SIZE

    @property
    def sha256(self) -> str:
        return self.told_sha256 or self._hash("sha256", b"")

    @property
    def git_sha1(self) -> str:
        return self._hash("sha1", b"blob %d\0" % self.size)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_sha1

    def _hash(self, kind: str, prefix: bytes) -> str:
        stat = self.path.stat()
        key = (kind, str(self.path), stat.st_size, stat.st_mtime_ns)
        with _lock:
            if key not in _hashes:
                digest = hashlib.new(kind, prefix)
                with self.path.open("rb") as source:
                    while chunk := source.read(CHUNK):
                        digest.update(chunk)
                _hashes[key] = digest.hexdigest()
            return _hashes[key]

    def sibling(self, *, blobs: bool, bare: bool) -> dict[str, Any]:
        out: dict[str, Any] = {"rfilename": self.name}
        if blobs and not bare:
            out |= {"size": self.size, "blobId": self.git_sha1 if not self.lfs else "0" * 40}
            if self.lfs:
                out["lfs"] = {"sha256": self.sha256, "size": self.size, "pointerSize": 134}
        return out


class Repo:
    """One folder, read anew for every request."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.folder = root / name
        settings = self.folder / ".hub.json"
        self.settings: dict[str, Any] = (
            json.loads(settings.read_text()) if settings.exists() else {}
        )

    @property
    def exists(self) -> bool:
        return self.name.count("/") == 1 and ".." not in self.name and self.folder.is_dir()

    @property
    def gated(self) -> Any:
        return self.settings.get("gated", False)

    @property
    def private(self) -> bool:
        return bool(self.settings.get("private", False))

    def files(self) -> list[File]:
        told = self.settings.get("sha256", {})
        out: list[File] = []
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_file() and not name.startswith("."):
                out.append(File(name, path, path.stat().st_size, told.get(name)))
        return out

    def file(self, name: str) -> File | None:
        return next((file for file in self.files() if file.name == name), None)

    @property
    def commit(self) -> str:
        told = [(f.name, f.size, f.path.stat().st_mtime_ns) for f in self.files()]
        return hashlib.sha1(f"{self.name} {told}".encode()).hexdigest()

    def knows(self, revision: str) -> bool:
        return revision in ("main", self.commit, *self.settings.get("branches", []))

    @property
    def tags(self) -> list[str]:
        names = [file.name for file in self.files()]
        kinds = [kind for kind in ("gguf", "safetensors") if any(kind in name for name in names)]
        return [*kinds, *self.settings.get("tags", [])]

    def told(self, *, blobs: bool = False, full: bool = True) -> dict[str, Any]:
        """The JSON of /api/models/{repo}; of an entry of /api/models when not `full`."""
        get = self.settings.get
        out: dict[str, Any] = {
            "_id": hashlib.sha1(self.name.encode()).hexdigest()[:24],
            "id": self.name,
            "modelId": self.name,
            "private": self.private,
            "downloads": get("downloads", 0),
            "likes": get("likes", 0),
            "tags": self.tags,
            "pipeline_tag": get("task", "text-generation"),
            "library_name": get("library_name"),
            "createdAt": "2024-01-01T00:00:00.000Z",
        }
        if full:
            out |= {
                "author": self.name.partition("/")[0],
                "gated": self.gated,
                "disabled": False,
                "lastModified": get("lastModified", "2024-06-01T12:00:00.000Z"),
                "sha": self.commit,
                "siblings": self.siblings(blobs=blobs),
            }
            out |= {key: get(key) for key in ("gguf", "safetensors") if get(key)}
        return out

    def siblings(self, *, blobs: bool) -> list[dict[str, Any]]:
        bare = self.settings.get("missing_size", [])
        listed = [file.sibling(blobs=blobs, bare=file.name in bare) for file in self.files()]
        return [*listed, *self.settings.get("more_siblings", [])]


def repos(root: Path) -> list[Repo]:
    """All there are, the most downloaded first."""
    found = [
        Repo(root, f"{org.name}/{folder.name}")
        for org in root.iterdir()
        if org.is_dir()
        for folder in org.iterdir()
        if folder.is_dir()
    ]
    return sorted(found, key=lambda repo: (-repo.settings.get("downloads", 0), repo.name))
