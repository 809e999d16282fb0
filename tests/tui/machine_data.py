"""A colony of six machines that were added over SSH, what is near, and how one is installed."""

from __future__ import annotations

from typing import Any

import colony_data as data
import msgspec
from colony_data import GIB, NOW

from rbee.protocol.base import Wire
from rbee.protocol.colony import Narration, Snapshot, Totals
from rbee.protocol.hives import Absent, BackendStatus, HiveInfo
from rbee.protocol.jobs import (
    EndData,
    ErrorData,
    JobInfo,
    JobState,
    StatusData,
)
from rbee.protocol.machines import Around, HiveRecord, LinkInfo, Nearby

VERSION = "0.3.1"
KEY = "SHA256:q3dXsYVRsTBoxTLpbNK0QSWhNg1Bk1v1mcJHrNWeiZk"
LLAMA = BackendStatus(
    name="llamacpp", formats=["gguf"], capabilities=["chat"], devices=["cuda:0"], max_slots=64
)


def machine(name: str, target: str, state: str = "online", **more: Any) -> HiveInfo:
    """A machine that was added, with the devices of `colony_data` where it has some."""
    online = state == "online"
    link = more.pop("link", LinkInfo(up=online, latency_ms=0.42 if online else None))
    version = more.pop("version", VERSION)
    record = HiveRecord(
        name=name,
        target=target,
        labels={"region": "attic"} if name == "attic" else {},
        wanted=state != "stopped",
        added_at=NOW - 9 * 86400,
        connected_at=NOW - 7500 if state != "not installed" else NOW,
        version=version,
        fingerprint=KEY,
        mac=more.pop("mac", None),
    )
    return HiveInfo(
        name=name,
        kind="ssh",
        url=None,
        online=online,
        version=version,
        hostname=name,
        devices=data.DEVICES.get(name, []) if state != "not installed" else [],
        absent_devices=more.pop("absent_devices", []),
        backends=[LLAMA] if online else [],
        absent_backends=[],
        last_seen_at=NOW - 0.4 if online else NOW - 7500 if state != "not installed" else None,
        state=state,
        link=link,
        record=record,
        labels=record.labels,
        disk_free=439 * GIB if online else None,
        disk_total=480 * GIB if online else None,
        models_dir="/home/vince/.local/share/rbee/models" if online else "",
        os="Linux 6.1.0-18-amd64 x86_64" if online else "",
        **more,
    )


def here(**more: Any) -> HiveInfo:
    """The queen's own."""
    return msgspec.structs.replace(
        data.hive("laptop"),
        version=VERSION,
        os="Linux 6.1.0-18-amd64 x86_64",
        models_dir="/home/vince/.local/share/rbee/models",
        disk_free=81 * GIB,
        disk_total=256 * GIB,
        **more,
    )


BARN = LinkInfo(
    up=False,
    reason="barn.lan does not answer: no route to host",
    action="See whether it is switched on; w wakes it.",
    code="CONNECTION_FAILED",
    next_try_s=27.0,
    losses=2,
)


def machines() -> list[HiveInfo]:
    """In all states that matter."""
    return [
        here(),
        machine("mule", "vince@192.168.1.20", workers=3),
        machine("pi-hive", "vince@192.168.1.31", workers=1),
        machine(
            "attic",
            "vince@attic.local",
            version="0.3.0",
            workers=1,
            absent_devices=[Absent(name="vulkan", reason="no loader is installed")],
        ),
        machine("barn", "bee@barn.lan:2222", "offline", link=BARN, mac="00:11:22:33:44:55"),
        machine(
            "shed", "shed", "not installed", version=None, link=LinkInfo(up=True, latency_ms=3.1)
        ),
    ]


def full(*jobs: JobInfo) -> Snapshot:
    """Six machines."""
    hives = machines()
    online = sum(hive.online for hive in hives)
    return Snapshot(
        hives=hives,
        workers=[
            msgspec.structs.replace(one, hive="attic") if one.worker_id == "w-02" else one
            for one in data.WORKERS
        ],
        jobs=list(jobs),
        models=data.MODELS,
        narration=[Narration(at=NOW, source="barn", message="link lost: no route to host")],
        totals=Totals(
            hives_online=online,
            hives_total=len(hives),
            workers=5,
            jobs_running=len(jobs),
            jobs_queued=0,
            tokens_per_second=143.0,
            uptime_seconds=8040,
        ),
    )


def alone() -> Snapshot:
    """The queen's own machine."""
    return msgspec.structs.replace(data.quiet(), hives=[here()])


AROUND = Around(
    machines=[
        Nearby(name="mule", source="ssh config", target="mule", answers=True, added_as="mule"),
        Nearby(name="node-a", source="ssh config", target="node-a", answers=True),
        Nearby(
            name="node-b",
            source="ssh config",
            target="node-b",
            answers=False,
            detail="no answer on port 22 within 2 s",
        ),
        Nearby(
            name="vault",
            source="ssh config",
            target="vault",
            detail="through bastion.example.net",
        ),
    ]
)
NOWHERE = Around(
    machines=[],
    notes=["ssh config: there is no ~/.ssh/config; add a machine by its address: user@address."],
)


def job(operation: str, hive: str, state: JobState = JobState.RUNNING, **more: Any) -> JobInfo:
    """An operation on a machine."""
    more.setdefault("job_id", "j-300")
    return JobInfo(operation=operation, hive=hive, state=state, created_at=NOW, **more)


def status(stage: str, message: str, progress: float | None = None) -> tuple[str, Wire]:
    """One event of its stream."""
    return ("status", StatusData(stage=stage, message=message, progress=progress))


STEPS = (
    "prepare",
    "send rbee-0.3.1-py3-none-any.whl",
    "send the small wheels",
    "unpack",
    "make the environment",
    "install",
    "verify",
    "finish",
    "switch",
)


def installing(upto: int, part: float = 0.0) -> list[tuple[str, Wire]]:
    """The events of an installation up to its step `upto` (1…9), of which `part` is done."""
    out = [
        status("looking", "looking at what vince@attic.local:22 is and has"),
        status("planning", "with llamacpp: the wheel of this machine runs there"),
        status("planning", "without nvidia: no GPU of that kind"),
        status("preparing", "packing httpx", 0.6),
    ]
    for number in range(1, upto + 1):
        text = f"step {number} of {len(STEPS)}: {STEPS[number - 1]}"
        done = (number - 1) / len(STEPS)
        out.append(status("installing", text, done))
        if number == upto and part:
            done += part / len(STEPS)
            text += f" ({int(11 * part)} of 11 MiB)"
            out.append(status("installing", text, done))
    return out


def failing() -> list[tuple[str, Wire]]:
    """An installation that fails at the sixth step."""
    error = ErrorData(
        code="INSTALL_FAILED",
        message="vince@attic.local:22: step `install` failed: No space left on device",
        details={
            "suggested_action": "Make room there, then install again; what is in use stays in use.",
            "step": "install",
            "command": "/home/vince/.local/share/rbee/versions/0.3.1-1f2e/bin/python -m pip install"
            " --no-index --find-links /home/vince/.local/share/rbee/wheels rbee==0.3.1",
            "tail": [
                "Processing ./rbee-0.3.1-py3-none-any.whl",
                "Installing collected packages: numpy, rbee",
                "ERROR: Could not install packages due to an OSError:",
                "[Errno 28] No space left on device \x1b[31m<<\x1b[0m",
            ],
        },
    )
    return [*installing(6), ("error", error)]


def unknown_key() -> list[tuple[str, Wire]]:
    """An addition that meets a key nobody has seen."""
    error = ErrorData(
        code="HOST_KEY_UNKNOWN",
        message="the host key of node-a was never seen",
        details={
            "suggested_action": "Compare the fingerprint with the machine's own, then accept it.",
            "host": "node-a.lan",
            "key_type": "ssh-ed25519",
            "fingerprint": KEY,
        },
    )
    return [
        status("connecting", "connecting to vince@node-a.lan:22 (try 1 of 3)"),
        ("error", error),
    ]


def done(result: dict[str, Any]) -> list[tuple[str, Any]]:
    """The end of an operation that succeeded; the result is no struct of the protocol."""
    return [
        ("result", result),
        ("end", EndData(finish_reason="done", tokens_out=0, duration_ms=4200)),
    ]
