"""llama-server out of the llama.cpp sources inside the sdist of the installed llama-cpp-python.

So both sides of the comparison compute with the same code. Built once, about 8 minutes on 2 cores,
and kept under bench/.build. The flags that concern computing are those of the installed library:
its build is a plain CMake Release build with ggml's defaults (native instruction set, OpenMP,
llamafile kernels, repacking) plus whatever CMAKE_ARGS says, which is passed on here too. What both
say of themselves is compared before anything is measured (`features`).
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.places import BUILD

Say = Callable[[str], None]
VARIABLE = "RBEE_BENCH_LLAMA_SERVER"
"""A binary to use instead of building one."""
DISTRIBUTION = "llama-cpp-python"
TARGET = "llama-server"
OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
"""None of them changes how tokens are computed: pages, TLS, tests and examples are left out."""
_PROGRESS = re.compile(r"\[\s*(\d+)(?:%|/(\d+))\]")


class CannotBuild(Exception):
    """Says which step failed and where its output lies."""


def installed_version() -> str:
    """Of llama-cpp-python. Raises CannotBuild."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as exc:
        raise CannotBuild(f"{DISTRIBUTION} is not installed: make setup") from exc


def download_command(version: str, folder: Path) -> list[str]:
    """Fetch the sdist, and nothing it depends on."""
    return [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"),
        *("--no-binary", DISTRIBUTION, "--dest", str(folder), f"{DISTRIBUTION}=={version}"),
    ]


def configure_command(
    cmake: str, source: Path, build: Path, env: Mapping[str, str] = os.environ
) -> list[str]:
    """CMAKE_ARGS come last, as scikit-build gives them to the library's own build."""
    extra = shlex.split(env.get("CMAKE_ARGS", ""))
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    return [cmake, "-S", str(source), "-B", str(build), *generator, *OPTIONS, *extra]


def build_command(cmake: str, build: Path) -> list[str]:
    """With all cores."""
    jobs = str(os.cpu_count() or 1)
    return [cmake, "--build", str(build), "--target", TARGET, "--parallel", jobs]


def binary_of(version: str, folder: Path = BUILD) -> Path:
    """Where the built server lies."""
    return folder / f"llama-server-{version}" / "bin" / TARGET


def prepare(say: Say, given: str | None = None) -> Path:
    """The binary: a given one, that of the environment, the one built before, or a new one.

    Raises CannotBuild.
    """
    if named := given or os.environ.get(VARIABLE):
        path = Path(named).resolve()
        if not os.access(path, os.X_OK):
            raise CannotBuild(f"{path} is no program")
        return path
    version = installed_version()
    binary = binary_of(version)
    if not binary.exists():
        _build(version, binary, say)
    return binary


def _build(version: str, binary: Path, say: Say) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        raise CannotBuild("cmake was not found; on Debian or Ubuntu: apt install cmake")
    BUILD.mkdir(parents=True, exist_ok=True)
    source = BUILD / f"llama_cpp_python-{version}"
    log = BUILD / "llama-server-build.log"
    log.unlink(missing_ok=True)
    if not (source / "vendor" / "llama.cpp" / "CMakeLists.txt").exists():
        say(f"fetching the sources of {DISTRIBUTION} {version}")
        _step(download_command(version, BUILD), log, say)
        _unpack(version, BUILD)
    build = binary.parents[1]
    say("building llama-server, once: about 8 minutes on 2 cores")
    _step(configure_command(cmake, source / "vendor" / "llama.cpp", build), log, say)
    _step(build_command(cmake, build), log, say)
    if not binary.exists():
        raise CannotBuild(f"the build made no {binary}; its output is in {log}")


def _unpack(version: str, folder: Path) -> None:
    archives = sorted(folder.glob(f"llama[_-]cpp[_-]python-{version}.tar.gz"))
    if not archives:
        raise CannotBuild(f"pip brought no source archive of {DISTRIBUTION} {version}")
    with tarfile.open(archives[0]) as archive:
        # Pythons before 3.11.4 know no filters and ignore the attribute
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    archives[0].unlink()


def _step(command: list[str], log: Path, say: Say) -> None:
    """Run it, all output into the log, the progress of a build told at each tenth."""
    told = 0
    with (
        log.open("a", encoding="utf-8") as out,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        out.write(f"$ {shlex.join(command)}\n")
        assert process.stdout is not None
        for line in process.stdout:
            out.write(line)
            share = progress(line)
            if share is not None and share >= told + 10:
                told = share // 10 * 10
                say(f"  {told} %")
    if process.returncode != 0:
        raise CannotBuild(f"{Path(command[0]).name} failed ({process.returncode}): see {log}")


def progress(line: str) -> int | None:
    """Per cent out of make's `[ 42%]` or ninja's `[42/100]`; None for other lines."""
    match = _PROGRESS.match(line.strip())
    if match is None:
        return None
    done, total = int(match[1]), match[2]
    return done * 100 // max(1, int(total)) if total else done


def features(binary: Path) -> str:
    """What the server says its code was compiled for, e.g. `AVX2 = 1 | … | OPENMP = 1`."""
    done = subprocess.run(
        [str(binary), "-lv", "4", "--offline", "-m", os.devnull],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
    )
    return parse_features(done.stdout + done.stderr)


def library_features() -> str:
    """The same of the installed library, asked in a process of its own."""
    code = (
        "import llama_cpp.llama_cpp as library, sys;"
        "sys.stdout.write(library.llama_print_system_info().decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return parse_features(f"system_info: | {done.stdout}")


def parse_features(text: str) -> str:
    """The switches after `system_info:`, without what depends on the options of the start."""
    match = re.search(r"system_info:[^|]*\|(.*)", text)
    parts = match[1].split("|") if match else []
    return " | ".join(part.strip() for part in parts if part.strip())
