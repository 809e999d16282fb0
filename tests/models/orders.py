"""Orders for what the hub stand-in keeps, as the queen would write them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from rbee.protocol.models import DownloadOrder, PlannedFile
from tests.support.hub_fixture import StandIn

REVISION = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/tiny"


def noise(size: int, seed: int = 1) -> bytes:
    """The same bytes for the same seed."""
    return random.Random(seed).randbytes(size)


def order_for(
    hub: StandIn | None, files: Mapping[str, bytes], *, name: str | None = None, **more: object
) -> DownloadOrder:
    """Puts the files into the hub and names their addresses there."""
    url = ""
    if hub is not None:
        hub.add(REPO, files)
        url = f"{hub.url}/{REPO}/resolve/main/"
    planned = [
        PlannedFile(
            name=file, size=len(data), url=url and url + file,
            sha256=hashlib.sha256(data).hexdigest(),
        )
        for file, data in files.items()
    ]  # fmt: skip
    first = name or next(iter(files))
    given: dict[str, object] = {
        "ref": f"hf:{REPO}@{REVISION}::{first}", "model_id": f"{REPO}:{first}",
        "asked": f"hf:{REPO}", "revision": REVISION, "format": "gguf", "files": planned,
    }  # fmt: skip
    return DownloadOrder(**(given | more))  # type: ignore[arg-type]


def ranges(hub: StandIn, origin: str = "cdn") -> list[str | None]:
    """Of the files' requests, in order; None: the whole file."""
    return [seen["range"] for seen in hub.log() if seen["origin"] == origin]
