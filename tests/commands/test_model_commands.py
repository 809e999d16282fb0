"""`rbee model …` with a real queen, her hive, and a program that speaks the hub's HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbee.models import packages
from tests.support.home import Home, wait_for
from tests.support.hub_fixture import StandIn
from tests.support.tiny_gguf import write_llama

TINY, OTHER = "hf:org/tiny-GGUF", "hf:org/other-GGUF"
TINY_ID, OTHER_ID = "org/tiny-GGUF:Q4_K_M", "org/other-GGUF:Q4_K_M"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_llama(tmp_path / "tiny.gguf")


@pytest.fixture
def owner(tmp_path: Path, hub: StandIn, tiny: Path) -> Iterator[Home]:
    """Somebody whose hub is the stand-in, with two small models in it."""
    hub.add("org/tiny-GGUF", {"tiny.Q4_K_M.gguf": tiny, "tiny.Q8_0.gguf": tiny})
    hub.add("org/other-GGUF", {"other.Q4_K_M.gguf": write_llama(tmp_path / "o.gguf", seed=5)})
    user = Home(tmp_path / "owner", **hub.env)
    yield user
    user.close()


def body(home: Home, *words: str) -> Any:
    done = home.rbee(*words, "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def ids(home: Home) -> list[str]:
    return [held["model"]["id"] for held in body(home, "model", "list")["models"]]


def test_a_model_is_found_fetched_checked_and_deleted(owner: Home, tiny: Path) -> None:
    found = body(owner, "model", "search", "tiny")
    (repo,) = found["models"]
    assert [c["quant"] for c in repo["choices"]] == ["Q4_K_M", "Q8_0"]
    table = owner.rbee("model", "search", "tiny")
    assert "  rbee model download hf:org/tiny-GGUF:Q4_K_M\n" in table.stdout
    assert "home cpu" in table.stdout
    ahead = owner.rbee("model", "show", TINY)
    assert "no hive has it" in ahead.stderr
    assert body(owner, "model", "show", TINY)["choices"][0]["fits"] == ["home cpu"]

    done = owner.rbee("model", "download", TINY)
    assert (done.returncode, done.stdout.startswith(f"{TINY_ID} is on home: ")) == (0, True), done
    assert "downloading" in done.stderr
    assert "\x1b" not in done.stderr
    again = body(owner, "model", "download", TINY)
    (result,) = again["downloads"]
    assert (result["model"], result["hive"], result["already"]) == (TINY_ID, "home", True)
    assert again["failed"] == []

    (held,) = [h for h in body(owner, "model", "list")["models"] if h["model"]["id"] == TINY_ID]
    assert (held["hives"], held["workers"], held["entry"]["provider"]) == (["home"], 0, "hf")
    assert body(owner, "model", "list", "--hive", "home")["models"]
    shown = body(owner, "model", "show", TINY_ID)
    digest = hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert shown["model"]["digest"] == f"sha256:{digest}"
    assert {m["verdict"] for m in shown["memory"]} == {"fits"}
    text = owner.rbee("model", "show", TINY).stdout
    for told in ("what it is", "where it is", "files", digest, "fits", f"--model {TINY_ID}"):
        assert told in text

    verified = body(owner, "model", "verify", TINY_ID)
    assert (verified["hashed"], verified["problems"]) == (1, [])
    path = Path(held["entry"]["path"])
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    bad = owner.rbee("model", "verify", TINY_ID)
    assert bad.returncode == 1, bad
    assert "1 problem" in bad.stdout
    assert f"rbee model delete {TINY_ID} --hive home" in bad.stdout

    gone = owner.rbee("model", "delete", TINY_ID, "--yes")
    assert (gone.returncode, "freed" in gone.stdout) == (0, True), gone
    assert not path.exists()
    assert TINY_ID not in ids(owner)
    missing = owner.rbee("model", "delete", TINY_ID, "--yes")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "MODEL_NOT_FOUND" in missing.stderr


def test_two_at_once_and_one_that_is_not_there(owner: Home) -> None:
    done = owner.rbee("model", "download", TINY, OTHER, "hf:org/none", TINY, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert sorted(one["model"] for one in told["downloads"]) == [OTHER_ID, TINY_ID]
    (failed,) = told["failed"]
    assert (failed["model"], failed["error"]["code"]) == ("hf:org/none", "MODEL_NOT_FOUND")
    alone = owner.rbee("model", "download", "hf:org/none", "--json")
    assert (alone.returncode, json.loads(alone.stdout)["error"]["code"]) == (1, "MODEL_NOT_FOUND")
    plain = owner.rbee("model", "download", "hf:org/none", OTHER)
    assert plain.returncode == 1
    assert plain.stdout.startswith(f"{OTHER_ID} is on home already")
    assert "error MODEL_NOT_FOUND" in plain.stderr


def test_ctrl_c_keeps_what_has_come(owner: Home, hub: StandIn, tmp_path: Path) -> None:
    file = packages.packaged("smollm2-135m")
    assert file is not None
    hub.add("org/demo-GGUF", {"demo.Q4_1.gguf": file.path})
    hub.fault("demo.Q4_1.gguf", "slow", rate=4 << 20, times=0, method="GET", origin="cdn")
    process = owner.start("model", "download", "hf:org/demo-GGUF:Q4_1")

    def moving() -> dict[str, Any] | None:
        if owner.state is None:
            return None
        found = owner.get("/v1/catalog/transfers")["transfers"]
        return next((one for one in found if one["bytes_done"] > 4 << 20), None)

    wait_for(moving, limit=40, what="bytes")
    (told,) = body(owner, "model", "downloads")["downloads"]
    assert (told["state"], told["hive"]) == ("running", "home")
    assert "demo-GGUF" in owner.rbee("model", "downloads").stdout
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert "cancelled; what was fetched is kept" in owner.err(process)
    assert owner.out(process) == ""
    (job,) = owner.get("/v1/jobs")["jobs"]
    assert job["state"] == "cancelled"
    wait_for(lambda: not owner.get("/v1/catalog/transfers")["transfers"], what="it has stopped")
    dry = body(owner, "model", "gc", "--dry-run")["reports"]
    assert (dry[0]["hive"], len(dry[0]["partial"]), dry[0]["dry_run"]) == ("home", 1, True)
    hub.heal()
    hub.forget()
    assert owner.rbee("model", "download", "hf:org/demo-GGUF:Q4_1").returncode == 0
    ranges = [r["range"] for r in hub.log() if r["origin"] == "cdn" and r["method"] == "GET"]
    begun = [int(match[1]) for r in ranges if r and (match := re.match(r"bytes=(\d+)-", r))]
    assert max(begun) >= 4 << 20, ranges


def test_infer_fetches_first_and_keeps_its_stdout_clean(owner: Home) -> None:
    done = owner.rbee("infer", "--model", TINY, "--max-tokens", "3", "--seed", "1", "bee")
    assert done.returncode == 0, done
    assert "downloading" not in done.stdout
    assert "fetched to home" in done.stderr
    job = owner.get("/v1/jobs")["jobs"][0]
    told = owner.rbee("job", "logs", job["job_id"]).stdout
    assert "downloading: " in told


def test_a_model_is_loaded_and_unloaded(owner: Home) -> None:
    assert owner.rbee("model", "download", TINY).returncode == 0
    loaded = body(owner, "model", "load", TINY, "--device", "cpu")
    assert (loaded["model"], loaded["state"]) == (TINY_ID, "idle")
    again = owner.rbee("model", "load", TINY)
    assert again.stdout == f"{TINY_ID} is loaded: {loaded['worker_id']} on home cpu\n"
    assert "1 worker" in owner.rbee("model", "list").stdout
    used = owner.rbee("model", "delete", TINY, "--yes")
    assert (used.returncode, loaded["worker_id"] in used.stderr) == (1, True)
    assert owner.rbee("model", "unload", TINY).stdout == f"ended: {loaded['worker_id']}\n"
    assert owner.workers() == []
    assert body(owner, "model", "unload", TINY)["workers"] == []


def ollama(home: Home, file: Path, name: str = "bee", tag: str = "1b") -> Path:
    """As Ollama keeps a model."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    models = home.path / ".ollama" / "models"
    blob = models / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(file.read_bytes())
    manifest = models / "manifests" / "registry.ollama.ai" / "library" / name / tag
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}), "utf-8")
    return blob


def test_what_another_program_keeps_is_taken_in_and_left_alone(owner: Home, tiny: Path) -> None:
    blob = ollama(owner, tiny)
    listed = owner.rbee("model", "import")
    assert "bee:1b" in listed.stdout
    assert "rbee model import bee:1b takes one in" in listed.stderr
    (told,) = body(owner, "model", "import")["models"]
    assert (told["name"], told["provider"], told["known_as"]) == ("bee:1b", "ollama", None)
    taken = body(owner, "model", "import", "bee:1b", "--name", "bee")
    (entry,) = taken["imported"]
    assert (entry["id"], entry["provider"]) == ("bee", "ollama")
    assert blob.stat().st_nlink == 2 or entry["linked"]
    assert "here as bee" in owner.rbee("model", "import").stdout
    assert "nothing that is not known" in owner.rbee("model", "import", "--all").stderr
    assert owner.rbee("model", "delete", "bee", "--yes").returncode == 0
    assert blob.read_bytes() == tiny.read_bytes()
    (owner.path / "mine.gguf").write_bytes(tiny.read_bytes())
    done = owner.rbee("model", "import", "mine.gguf", "--copy")
    assert (done.returncode, ", copied" in done.stdout) == (0, True), done
    assert owner.rbee("model", "import", "nothing.gguf").returncode == 1


def test_what_is_not_there_says_what_to_do(owner: Home) -> None:
    for words, code, exit_code in (
        (("show", "nosuch"), "MODEL_NOT_FOUND", 1),
        (("show", "hf:org/none"), "MODEL_NOT_FOUND", 1),
        (("list", "--hive", "nobody"), "HIVE_NOT_FOUND", 1),
        (("gc", "--hive", "nobody"), "HIVE_NOT_FOUND", 1),
        (("import", "--hive", "nobody"), "HIVE_NOT_FOUND", 1),
        (("download", TINY, "--hive", "nobody"), "HIVE_NOT_FOUND", 1),
        (("copy", TINY, "--to", "nobody"), "HIVE_NOT_FOUND", 1),
        (("verify", "nosuch"), "MODEL_NOT_FOUND", 1),
        (("download", "hf:no"), "INVALID_REQUEST", 2),
        (("load", "/some/path"), "INVALID_REQUEST", 2),
    ):
        done = owner.rbee("model", *words, "--json")
        error = json.loads(done.stdout)["error"]
        assert (error["code"], done.returncode) == (code, exit_code), (words, error)
        assert error["details"]["suggested_action"]
    nothing = owner.rbee("model", "search", "zebra")
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "Try fewer or other words" in nothing.stderr
    assert "Nothing is on its way" in owner.rbee("model", "downloads").stderr


def at_a_terminal(home: Home, *words: str, answer: str = "") -> tuple[int, str]:
    """Run a command at a terminal of 80 columns; its exit code and all that was shown."""
    main, other = pty.openpty()
    env = {**home.env, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        home.command(*words), env=env, stdin=other, stdout=other, stderr=other, cwd=home.path,
        start_new_session=True,
    )  # fmt: skip
    os.close(other)
    seen, answered = b"", not answer
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        ready, _, _ = select.select([main], [], [], 1.0)
        if not ready:
            continue
        try:
            piece = os.read(main, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
        if not answered and b"[y/N]" in seen:
            os.write(main, answer.encode() + b"\n")
            answered = True
    os.close(main)
    return process.wait(20), seen.decode()


def test_a_terminal_shows_bars_and_is_asked(owner: Home, hub: StandIn) -> None:
    file = packages.packaged("smollm2-135m")
    assert file is not None
    hub.add("org/demo-GGUF", {"demo.Q4_1.gguf": file.path})
    hub.fault("demo.Q4_1.gguf", "slow", rate=50 << 20, times=0, method="GET", origin="cdn")
    code, seen = at_a_terminal(owner, "model", "download", "hf:org/demo-GGUF:Q4_1", TINY)
    assert code == 0, seen
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "downloading org/demo-GGUF:Q4_1 to home" in plain
    assert re.search(r"━+.*\d+% \d+ of 98 MB", plain), plain
    assert seen.count("\x1b[?25l") == seen.count("\x1b[?25h") > 0
    assert "org/demo-GGUF:Q4_1 is on home: 98 MB" in plain

    code, seen = at_a_terminal(owner, "model", "delete", "hf:org/demo-GGUF:Q4_1", answer="n")
    assert (code, "nothing was deleted" in seen) == (1, True)
    assert "Delete org/demo-GGUF:Q4_1 from home (98 MB)? [y/N]" in seen
    assert "org/demo-GGUF:Q4_1" in ids(owner)
    code, seen = at_a_terminal(owner, "model", "delete", "hf:org/demo-GGUF:Q4_1", answer="y")
    assert (code, "98 MB freed" in seen) == (0, True), seen
    code, seen = at_a_terminal(owner, "model", "list")
    assert max(map(len, seen.splitlines())) <= 80
