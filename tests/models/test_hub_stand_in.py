"""The stand-in itself: the parts of the hub's HTTP that the other tests lean on."""

from __future__ import annotations

import os
import signal

import httpx
import pytest
from huggingface_hub import HfApi

from tests.support.hub_fixture import StandIn

BODY = bytes(range(256)) * 40


@pytest.fixture
def url(hub):
    hub.add("org/m", {"m.gguf": BODY, "notes.txt": b"0123456789"})
    return f"{hub.url}/org/m/resolve/main/m.gguf"


def get(url: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(url, headers=named, follow_redirects=True)


def test_ranges(url):
    whole = get(url)
    tag = whole.headers["etag"]
    assert (whole.status_code, whole.content) == (200, BODY)
    part = get(url, Range="bytes=100-199")
    assert (part.status_code, part.content) == (206, BODY[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(BODY)}"
    assert get(url, Range="bytes=10000-").content == BODY[10000:]
    assert get(url, Range="bytes=-5").content == BODY[-5:]
    beyond = get(url, Range=f"bytes={len(BODY)}-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(BODY)}")
    assert get(url, Range="bytes=1-2", If_Range=tag).status_code == 206
    assert get(url, Range="bytes=1-2", If_Range='"other"').content == BODY


def test_large_files_are_on_another_origin_and_small_ones_are_not(hub, url):
    first = httpx.head(url)
    assert first.status_code == 302
    assert first.headers["location"].startswith(f"{hub.cdn}/cdn/org/m/m.gguf?")
    assert (first.headers["x-linked-size"], first.is_redirect) == (str(len(BODY)), True)
    small = httpx.head(url.replace("m.gguf", "notes.txt"))
    assert (small.status_code, small.headers["content-length"]) == (200, "10")
    assert first.headers["x-repo-commit"] == small.headers["x-repo-commit"]


def test_faults_are_used_up(hub, url):
    hub.fault("m.gguf", "cut", at=1000, times=2)
    for _ in range(2):
        with pytest.raises(httpx.RemoteProtocolError, match="received 1000 bytes"):
            get(url)
    assert get(url).content == BODY
    hub.fault("m.gguf", "wrong_bytes", at=9000)
    wrong = get(url).content
    assert [n for n in range(len(BODY)) if wrong[n] != BODY[n]] == list(range(9000, 9016))
    hub.fault("m.gguf", "slow", rate=1 << 20)
    assert get(url).content == BODY
    signed = httpx.head(url).headers["location"]
    hub.fault("", "expire")
    assert (httpx.get(signed).status_code, get(url).status_code) == (403, 200)


def test_a_silent_answer_ends_with_its_reader(hub, url):
    hub.fault("m.gguf", "stall", at=1000)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(url, follow_redirects=True, timeout=0.3)
    assert [entry["sent"] for entry in hub.log() if entry["origin"] == "cdn"] == [1000]


def test_pages_are_followed(hub):
    for number in range(7):
        hub.add(f"org/m{number}", {"m.gguf": b"x"}, downloads=number)
    page = httpx.get(f"{hub.url}/api/models", params={"limit": 3})
    assert [told["id"] for told in page.json()] == ["org/m6", "org/m5", "org/m4"]
    names: list[str] = []
    while True:
        names += [told["id"] for told in page.json()]
        if "next" not in page.links:
            break
        page = httpx.get(page.links["next"]["url"])
    assert names == [f"org/m{number}" for number in reversed(range(7))]
    api = HfApi(endpoint=hub.url, token=False)
    assert len(list(api.list_models(search="m", filter="gguf"))) == 7


def test_it_ends_with_whoever_started_it(tmp_path):
    stand_in = StandIn(tmp_path / "hub").start()
    process = stand_in._process
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()
    again = StandIn(tmp_path / "hub").start()
    os.kill(again._process.pid, signal.SIGTERM)
    assert again._process.wait(20) == 0
    again.stop()
