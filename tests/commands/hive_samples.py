"""Machines in every state, as a queen tells them."""

from __future__ import annotations

from rbee.errors import HostKeyUnknown
from rbee.protocol.hives import BackendStatus, Device, HiveInfo
from rbee.protocol.machines import HiveRecord, LinkInfo

WIDTHS = (60, 80, 160)
GB = 10**9
OURS = "1.2.0"
NOW = 1_700_000_000.0
KEY = "SHA256:" + "k" * 43


def device(name: str, label: str, **more: object) -> Device:
    told = {
        "name": name, "kind": name.partition(":")[0], "label": label, "memory_total": 24 * GB,
        "memory_used": 4 * GB, "memory_free": 20 * GB, **more,
    }  # fmt: skip
    return Device(**told)  # pyright: ignore[reportArgumentType]


def record(name: str, **more: object) -> HiveRecord:
    told = {
        "name": name, "target": "vince@10.0.0.7", "added_at": NOW - 9e5, "version": OURS,
        "connected_at": NOW - 7200, "fingerprint": KEY, **more,
    }  # fmt: skip
    return HiveRecord(**told)  # pyright: ignore[reportArgumentType]


def up(**more: object) -> LinkInfo:
    return LinkInfo(**({"up": True, "via": "ssh -L", "latency_ms": 0.42} | more))  # pyright: ignore


def down(reason: str, action: str = "", **more: object) -> LinkInfo:
    return LinkInfo(up=False, reason=reason, action=action, **more)  # pyright: ignore


def machine(name: str = "gaming-pc", **more: object) -> HiveInfo:
    told = {
        "name": name, "kind": "ssh", "url": None, "online": True, "version": OURS,
        "hostname": "tower", "devices": [device("cpu", "16 cores"), device("cuda:0", "RTX 3090")],
        "absent_devices": [], "absent_backends": [], "last_seen_at": NOW - 1, "workers": 2,
        "backends": [BackendStatus(name="llamacpp", formats=["gguf"], capabilities=["text-gen"],
                                   devices=["cpu", "cuda:0"], max_slots=64)],
        "labels": {"region": "attic", "watts": "350"}, "state": "online", "link": up(),
        "record": record(name), "disk_free": 120 * GB, "disk_total": 500 * GB,
        "models_dir": "/home/vince/.local/share/rbee/models", **more,
    }  # fmt: skip
    return HiveInfo(**told)  # pyright: ignore[reportArgumentType]


def local() -> HiveInfo:
    return machine(
        "home", kind="local", link=None, record=None, state="", labels={}, hostname="desk"
    )


def away(name: str = "laptop", state: str = "offline", **more: object) -> HiveInfo:
    link = down("no SSH connection to vince@10.0.0.9:22 after 3 tries", "Check that it is on.")
    told = {"online": False, "state": state, "link": link, "devices": [], "backends": [],
            "workers": 0, "last_seen_at": NOW - 7500, **more}  # fmt: skip
    return machine(name, **told)


def fits(lines: list[str], width: int) -> bool:
    return all(len(line) <= width for line in lines)


def unknown_key(**more: str) -> HostKeyUnknown:
    details = {"host": "[10.0.0.7]:2222", "key_type": "ssh-ed25519", "fingerprint": KEY, **more}
    return HostKeyUnknown("the host key of vince@10.0.0.7:2222 is not known", **details)
