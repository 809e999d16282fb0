"""How llama-server is built and found, and what llama_cpp.server needs."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest

from bench import build_llama_server as build
from bench.llama_cpp_venv import needed
from bench.servers import LlamaCppServer, LlamaServer, Setup

SETUP = Setup(Path("/m.gguf"), slots=8, ctx=4096, threads=2)


def options(command: list[str]) -> dict[str, str]:
    return {a: b for a, b in pairwise(command) if a.startswith("-")}


def test_the_sources_are_those_of_the_installed_version(tmp_path: Path):
    command = build.download_command("0.3.36", tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert options(command)["--no-binary"] == "llama-cpp-python"
    assert command[-1] == "llama-cpp-python==0.3.36"
    assert "--no-deps" in command


def test_configured_as_the_library_is():
    command = build.configure_command(
        "cmake", Path("/src"), Path("/out"), {"CMAKE_ARGS": "-DGGML_NATIVE=OFF -DX='a b'"}
    )
    assert options(command)["-S"] == "/src"
    assert options(command)["-B"] == "/out"
    assert "-DCMAKE_BUILD_TYPE=Release" in command
    assert command[-2:] == ["-DGGML_NATIVE=OFF", "-DX=a b"]
    own = [word for word in command[:-2] if word.startswith("-DGGML")]
    assert own == [], "what concerns computing is left to the same defaults"


def test_only_the_server_is_built():
    assert options(build.build_command("cmake", Path("/out")))["--target"] == "llama-server"


@pytest.mark.parametrize(
    "line, share",
    [("[ 42%] Building", 42), ("[42/84] Building", 50), ("[100%] Built", 100), ("-- x [3%]", None)],
)
def test_progress(line: str, share: int | None):
    assert build.progress(line) == share


def test_features_without_what_the_start_decides():
    said = "0.00 I system_info: n_threads = 2 / 2 | CPU : AVX2 = 1 | OPENMP = 1 | \nnext"
    assert build.parse_features(said) == "CPU : AVX2 = 1 | OPENMP = 1"
    assert build.parse_features("nothing") == ""


def test_the_library_says_what_it_is_compiled_for():
    assert "CPU" in build.library_features()


def test_a_given_binary_is_used(monkeypatch: pytest.MonkeyPatch):
    assert build.prepare(print, sys.executable) == Path(sys.executable).resolve()
    monkeypatch.setenv(build.VARIABLE, "/nowhere/llama-server")
    with pytest.raises(build.CannotBuild, match="is no program"):
        build.prepare(print)


def test_a_step_that_fails_leaves_its_output(tmp_path: Path):
    log = tmp_path / "log"
    said: list[str] = []
    script = "print('[ 55%] half'); raise SystemExit(3)"
    with pytest.raises(build.CannotBuild, match=r"failed \(3\)"):
        build._step([sys.executable, "-c", script], log, said.append)
    assert said == ["  50 %"]
    assert "half" in log.read_text("utf-8")


def test_requirements_of_the_base_and_the_server_only():
    listed = ["numpy>=1", 'uvicorn>=0.22; extra == "server"', "pytest>=7; extra == 'test'"]
    assert needed(listed) == ["numpy>=1", "uvicorn>=0.22"]


def test_servers_are_started_with_equal_settings():
    theirs = options(LlamaServer.command(Path("/x"), SETUP, 99))
    assert (theirs["-c"], theirs["-np"]) == (str(8 * 4096), "8")
    assert theirs["-t"] == theirs["-tb"] == "2"
    third = options(LlamaCppServer.command(Path("/py"), SETUP, 99))
    assert (third["--n_ctx"], third["--n_threads"]) == ("4096", "2")
    assert third["--interrupt_requests"] == "false"
