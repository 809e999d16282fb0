"""`rbee doctor`: without a queen, with one, with what is broken; the search for accelerators."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from rbee import registry
from rbee.commands import checks
from rbee.commands.checks import State
from rbee.daemons.process import python_module
from rbee.hardware.found import Found, accelerators
from tests.support.home import Home

needs_llamacpp = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)


def doctor(home: Home, *, code: int = 0) -> dict[str, dict[str, str]]:
    done = home.rbee("doctor", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    body = json.loads(done.stdout)
    assert body["ok"] is (code == 0)
    return {check["name"]: check for check in reversed(body["checks"])}


@needs_llamacpp
def test_it_looks_at_everything_and_starts_no_queen(home: Home) -> None:
    found = doctor(home)
    names = {"python", "machine", "folders", "settings", "queen", "access", "llamacpp", "echo"}
    assert names <= set(found)
    assert "none runs" in found["queen"]["message"]
    assert "built for cpu" in found["llamacpp"]["message"]
    assert not home.processes()
    assert not list(home.path.glob("*/*")), "it must not even make the folders"


@needs_llamacpp
def test_the_table_shows_each_finding_on_a_line(home: Home) -> None:
    done = home.rbee("doctor")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["CHECK", "STATE", "WHAT"]
    assert lines[1].startswith("python    ok")
    assert not done.stderr


def test_a_bad_setting_is_one_finding_among_the_others(home: Home) -> None:
    (home.path / "config").mkdir()
    (home.path / "config" / "config.toml").write_text("[queen]\nprot = 1\n", "utf-8")
    found = doctor(home, code=1)
    assert found["settings"]["state"] == "fail"
    assert "config.toml:2" in found["settings"]["message"]
    assert found["python"]["state"] == "ok"
    assert "queen" not in found
    done = home.rbee("doctor")
    assert done.returncode == 1
    assert "settings (fail):\n  → " in done.stdout
    assert "checks failed: settings" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(home: Home) -> None:
    home.path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        found = doctor(home, code=1)
    finally:
        home.path.chmod(0o700)
    assert found["folders"]["state"] == "fail"


def test_a_file_where_a_folder_should_be_is_named(home: Home) -> None:
    (home.path / "data").write_text("x", "utf-8")
    found = doctor(home, code=1)
    assert found["folders"]["state"] == "fail"
    assert str(home.path / "data") in found["folders"]["message"]


def test_a_taken_port_is_a_failure_that_names_it(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        home.env["RBEE_QUEEN_PORT"] = str(taken.getsockname()[1])
        found = doctor(home, code=1)
    assert found["queen"]["state"] == "fail"
    assert home.env["RBEE_QUEEN_PORT"] in found["queen"]["message"]


def test_an_open_address_is_refused_as_the_queen_would(home: Home) -> None:
    home.env["RBEE_QUEEN_HOST"] = "0.0.0.0"
    found = doctor(home, code=1)
    assert "there is no key to protect it" in found["queen"]["message"]
    assert "rbee key create" in found["queen"]["action"]


def test_a_running_queen_is_found_and_settings_that_are_left_out(home: Home) -> None:
    (home.path / "config").mkdir()
    (home.path / "config" / "ui.toml").write_text("[worker]\nheartbeat = 60\n", "utf-8")
    started = home.rbee("queen", "start")
    assert started.returncode == 0
    left_out = "ui.toml is left out: default: worker.stale_after"
    assert f"rbee: {left_out}" in started.stderr
    assert left_out in (home.path / "state" / "logs" / "queen.log").read_text("utf-8")
    found = doctor(home)
    assert found["settings"]["state"] == "warn"
    assert left_out in found["settings"]["message"]
    assert f"runs at {home.url}" in found["queen"]["message"]
    before = {process.pid for process in home.processes()}
    doctor(home)
    assert {process.pid for process in home.processes()} == before


def program(body: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(body)]


def test_a_report_that_dies_is_told_with_its_last_words() -> None:
    command = program(
        """
        import os, sys
        sys.stderr.write("starting\\nthe driver is broken\\n")
        sys.stderr.flush()
        os.abort()
        """
    )
    told = checks.run_report(command)
    assert told == "it ended with signal 6: starting / the driver is broken"


def test_a_report_that_hangs_or_lies_is_told() -> None:
    command = program("import threading; threading.Event().wait()")
    assert checks.run_report(command, limit=0.5) == "it did not answer within 0.5 s"
    command = program("print('no json')")
    assert checks.run_report(command) == "it ended with code 0"
    command = program("raise SystemExit('no library')")
    assert checks.run_report(command) == "it ended with code 1: no library"


@needs_llamacpp
def test_the_report_of_llamacpp() -> None:
    told = checks.run_report(python_module(registry.load("llamacpp").report))
    assert isinstance(told, dict), told
    assert told["kinds"][0] == "cpu"
    assert told["features"]
    for kind, how in told["missing"].items():
        assert kind not in told["kinds"]
        if kind == "cuda":
            assert f'CMAKE_ARGS="-DGGML_CUDA=on" {sys.executable} -m pip install' in how
            assert how.endswith(f"llama-cpp-python=={told['version']}")


@needs_llamacpp
def test_a_gpu_without_a_build_for_it_is_told_with_the_command() -> None:
    if "cuda" in registry.load("llamacpp").probe().devices:
        pytest.skip("this build has cuda")
    seen = [Found("cuda", "RTX 3090"), Found("cuda", "RTX 3060"), Found("hip", "gfx1100")]
    told = [check for check in checks.backends(seen) if "llama" in check.action]
    found = {check.name: check for check in told}
    assert found["cuda"].state is State.WARN
    assert "RTX 3090, RTX 3060 is here" in found["cuda"].message
    assert "-DGGML_CUDA=on" in found["cuda"].action
    assert found["hip"].state is State.OK
    assert "cpu and cuda devices only" in found["hip"].message
    assert "-DGGML_HIP=on" in found["hip"].action


def test_accelerators_are_found_by_the_kernels_files(tmp_path: Path) -> None:
    def put(path: str, text: str = "") -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")

    def seen(**what) -> list[Found]:
        return accelerators(tmp_path, **{"system": "Linux", "machine": "x86_64", **what})

    assert seen(vulkan=True) == []
    put("dev/dri/renderD128")
    assert seen(vulkan=True) == [Found("vulkan", "a Vulkan loader and renderD128")]
    assert seen(vulkan=False) == []
    put("dev/nvidia0")
    put("dev/nvidiactl")
    assert seen(vulkan=False) == [Found("cuda", "NVIDIA GPU")]
    put("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t RTX 3090\nIRQ: 1\n")
    put("proc/driver/nvidia/gpus/0000:02:00.0/information", "Model: \t RTX 3060\nIRQ: 2\n")
    assert [found.label for found in seen(vulkan=False)] == ["RTX 3090", "RTX 3060"]
    put("sys/class/kfd/kfd/topology/nodes/0/properties", "cpu_cores_count 8\nsimd_count 0\n")
    put("sys/class/kfd/kfd/topology/nodes/1/properties", "cpu_cores_count 0\nsimd_count 192\n")
    put("sys/class/kfd/kfd/topology/nodes/1/name", "gfx1100\n")
    assert Counter(found.kind for found in seen(vulkan=True)) == {"cuda": 2, "hip": 1, "vulkan": 1}
    assert seen(system="Darwin", machine="arm64") == [Found("metal", "Apple GPU")]
    assert seen(system="Darwin") == []
