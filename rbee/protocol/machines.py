"""Machines that were added: what is remembered of each, its link, and what was found nearby."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from rbee.protocol.base import Request, Wire

Target = Annotated[
    str,
    msgspec.Meta(
        min_length=1, max_length=400, pattern=r"^[^\s\x00-\x1f\x7f-][^\s\x00-\x1f\x7f]*\Z"
    ),
]
"""`user@host`, `user@host:port`, or a Host of ~/.ssh/config."""
RemotePath = Annotated[
    str, msgspec.Meta(min_length=2, max_length=512, pattern=r"^/[^\x00-\x1f\x7f]*\Z")
]
"""Absolute, on that machine."""
NewPath = Annotated[str, msgspec.Meta(max_length=512, pattern=r"^(/[^\x00-\x1f\x7f]+)?\Z")]
"""The same, or empty."""
LabelName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z")]
LabelText = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Labels: TypeAlias = Annotated[dict[LabelName, LabelText], msgspec.Meta(max_length=32)]
"""`region`, `tier`, `cost_per_hour`, `watts` and any other, as text."""
Forward: TypeAlias = Literal["auto", "ssh", "system-ssh"]
"""What carries token streams: the system's ssh where it is installed, else our own connection."""


HOPELESS = frozenset({"not installed", "other version", "refused"})
"""States of a machine's hive in which trying again changes nothing."""
SETTLED = ("offline", "stopped", *sorted(HOPELESS))
"""States in which an attempt to have it online has ended."""


class HiveRecord(Wire, frozen=True, kw_only=True):
    """A machine that was added: what the queen remembers of it, over restarts. Times: Unix."""

    name: str
    target: str
    path: str | None = None
    """Where rbee is installed there; None: the usual place of that machine's user."""
    python: str | None = None
    """The Python there that rbee is installed with; None: the newest one."""
    models_dir: str | None = None
    """Where models are kept there; None: as that machine's settings say."""
    labels: dict[str, str] = {}
    forward: Forward = "auto"
    wanted: bool = True
    """Whether its hive is to be up."""
    added_at: float
    connected_at: float | None = None
    """When the link was last up."""
    version: str | None = None
    """The rbee that is installed there, as far as is known; None: none."""
    fingerprint: str | None = None
    """Of its host key, when it was last connected."""
    mac: str | None = None
    """Of the network card it was reached by, for waking it."""
    wake_seconds: float | None = None
    """How long it took to come, when it was last woken."""


class HiveChange(Request, frozen=True, kw_only=True):
    """PATCH /v1/hives/{name}: what is given is changed; empty text: back to the default."""

    target: Target | None = None
    path: NewPath | None = None
    python: NewPath | None = None
    models_dir: NewPath | None = None
    labels: Labels | None = None
    """Those named are set; empty text takes one away."""
    forward: Forward | None = None


class LinkInfo(Wire, frozen=True, kw_only=True):
    """How a machine is reached, and how that goes."""

    up: bool
    via: str = "ssh"
    """`ssh`, or `ssh -L` where the system's ssh carries the streams."""
    latency_ms: float | None = None
    reason: str = ""
    """Why it is down, or what is awaited."""
    action: str = ""
    """What to do about it."""
    code: str = ""
    """Of the error that keeps it down."""
    next_try_s: float | None = None
    losses: int = 0
    """How often it was lost since the queen started."""


class Nearby(Wire, frozen=True, kw_only=True):
    """A machine that could be added: GET /v1/hives/nearby."""

    name: str
    source: str
    """`ssh config`, `lan` or `tailscale`."""
    target: str
    """For `rbee hive add`."""
    answers: bool | None = None
    """Whether its SSH port answers; None: not tried."""
    added_as: str | None = None
    """The hive that it is already."""
    version: str | None = None
    """Of the rbee that announces itself there."""
    fingerprint: str | None = None
    detail: str = ""


class Around(Wire, frozen=True, kw_only=True):
    """The body of GET /v1/hives/nearby. `notes`: why a source gave nothing, and what to do."""

    machines: list[Nearby]
    notes: list[str] = []


class LogLine(Wire, frozen=True, kw_only=True):
    """One event of a stream of a log."""

    line: str


class CheckStep(Wire, frozen=True, kw_only=True):
    """One step of the way to a hive and back, and how long it took."""

    step: str
    ms: float | None = None


class HiveChecked(Wire, frozen=True, kw_only=True):
    """The result of `hive_check`, its steps in order; one that fails is the job's error."""

    hive: str
    steps: list[CheckStep]
    version: str | None = None
    """The rbee there."""
    queen_version: str = ""
