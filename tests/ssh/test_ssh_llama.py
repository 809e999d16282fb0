"""Who gives a machine its llama.cpp: the queen's own, one that was kept, or a compiler."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from dataclasses import replace as changed
from importlib.metadata import distribution
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace
from packaging.tags import parse_tag

from rbee.errors import InstallFailed
from rbee.ssh import flags, llamawheel
from rbee.ssh.llama import FLAVOURS, Installed, Kept, Queen, Source, choose, kept, place_of
from rbee.ssh.probe import Facts, Gpu
from rbee.ssh.repack import repack
from rbee.ssh.target import Target
from tests.support.machines import FACTS, ZEN4
from tests.support.wheels import wheel

TARGET = Target("Linux", "x86_64", "glibc", (2, 36), (3, 11, 4))
NATIVE = Installed(
    "0.3.36", frozenset(parse_tag("py3-none-linux_x86_64")), (*sorted(flags.PORTABLE), "AVX512"),
    ("cpu",),
)  # fmt: skip
PORTABLE = changed(NATIVE, features=tuple(sorted(flags.PORTABLE)))
QUEEN = Queen(target=TARGET, cpu=frozenset(ZEN4), compiler="/usr/bin/c++", installed=PORTABLE)
AVX2, SSE = FLAVOURS["x86_64"]
WHEEL = "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"


def way(
    facts: Facts = FACTS, target: Target = TARGET, online: bool = False, **queen: object
) -> str:
    return choose(facts, target, changed(QUEEN, **queen), online=online).way  # type: ignore[arg-type]


def test_the_queen_s_own_is_sent_where_it_runs():
    assert way() == "installed"
    assert way(online=True) == "installed", "no compilation where none is needed"
    assert way(replace(FACTS, cpu=sorted(ZEN4)), installed=NATIVE) == "installed"
    assert way(target=changed(TARGET, python=(3, 13))) == "installed", "it is for any Python"
    assert way(replace(FACTS, cpu=[]), installed=changed(NATIVE, variants=True)) == "installed"


@pytest.mark.parametrize(
    "facts, target, installed, why",
    [
        (FACTS, TARGET, NATIVE, "lacks avx512_vbmi2, avx512bw"),
        (replace(FACTS, cpu=[]), TARGET, NATIVE, "could not be read"),
        (FACTS, TARGET, changed(NATIVE, features=()), "does not tell"),
        (FACTS, changed(TARGET, version=(2, 31)), PORTABLE, "glibc 2.31"),
        (FACTS, changed(TARGET, arch="aarch64"), PORTABLE, "aarch64"),
        (FACTS, changed(TARGET, libc="musl", version=(1, 2)), PORTABLE, "musl"),
        (FACTS, TARGET, changed(PORTABLE, kinds=("cpu", "cuda")), "built for cuda"),
    ],
)
def test_why_the_queen_s_own_is_not_sent(
    facts: Facts, target: Target, installed: Installed, why: str
):
    source = choose(facts, target, changed(QUEEN, installed=installed), online=False)
    assert source.way != "installed"
    assert why in " ".join([*source.notes, source.why])


def test_who_compiles():
    assert way(installed=NATIVE) == "queen"
    assert way(installed=None) == "queen"
    able = replace(FACTS, compiler="/usr/bin/g++")
    assert way(able, installed=NATIVE, online=True) == "there"
    assert way(able, installed=NATIVE) == "queen", "sources take an index"
    assert way(installed=NATIVE, compiler="") == "none"
    assert way(able, installed=None, target=changed(TARGET, version=(2, 31))) == "none"


def test_nobody_compiles_and_that_is_told():
    other = changed(TARGET, arch="aarch64")
    able = replace(FACTS, compiler="/usr/bin/g++")
    assert "--online" in choose(able, other, QUEEN, online=False).why
    assert "cannot compile it for Linux aarch64" in choose(FACTS, other, QUEEN, online=True).why
    nobody = changed(QUEEN, installed=None, compiler="")
    assert (
        "has no C++ compiler; with a C++ compiler there"
        in choose(FACTS, TARGET, nobody, online=False).why
    )
    old = replace(FACTS, cpu=["pni"])
    assert "older" in choose(old, TARGET, QUEEN, online=False).why


def test_an_older_cpu_gets_code_for_it():
    source = choose(replace(FACTS, cpu=["pni", "sse4_2"]), TARGET, QUEEN, online=False)
    assert (source.way, source.flavour) == ("queen", SSE)


def test_what_was_compiled_before_is_kept_for_its_like(tmp_path: Path):
    for version, flavour in ((TARGET.version, AVX2), ((2, 28), SSE)):
        place = tmp_path / place_of(changed(TARGET, version=version), flavour)
        place.mkdir()
        (place / WHEEL).touch()
    (tmp_path / "nonsense").mkdir()
    found = kept(tmp_path)
    assert {(each.flavour, each.libc) for each in found} == {("avx2", (2, 36)), ("sse42", (2, 28))}
    assert way(installed=None, kept=found) == "kept"
    source = choose(FACTS, TARGET, changed(QUEEN, installed=None, kept=found), online=False)
    assert source.wheel == tmp_path / place_of(TARGET, AVX2) / WHEEL
    older = changed(TARGET, version=(2, 31))
    source = choose(FACTS, older, changed(QUEEN, installed=None, kept=found), online=False)
    assert (source.way, source.flavour) == ("kept", SSE), "made with an older C library"
    assert way(target=changed(TARGET, arch="aarch64"), installed=None, kept=found) == "none"


def test_a_gpu_that_stays_idle_is_told():
    gpu = replace(FACTS, gpus=[Gpu(kind="nvidia", label="RTX 3090")])
    assert "RTX 3090" in " ".join(choose(gpu, TARGET, QUEEN, online=False).notes)
    cuda = changed(QUEEN, installed=changed(PORTABLE, kinds=("cpu", "cuda")))
    source = choose(gpu, TARGET, cuda, online=False)
    assert (source.way, source.notes) == ("installed", ())


def test_the_command_that_compiles_for_many_cpus():
    words, env = llamawheel.build("0.3.36", SSE, Path("/new"))
    assert words[0] == "wheel"
    assert words[-1] == "llama-cpp-python==0.3.36"
    assert words[words.index("--no-binary") + 1] == "llama-cpp-python"
    assert words[words.index("--wheel-dir") + 1] == "/new"
    assert "-DGGML_NATIVE=OFF" in env["CMAKE_ARGS"]
    assert "-DGGML_AVX2=OFF" in env["CMAKE_ARGS"]
    assert "-DGGML_AVX2=OFF" not in llamawheel.build(None, AVX2, Path("/new"))[1]["CMAKE_ARGS"]


def test_what_only_compilers_need_is_left_out():
    names = [
        "include/llama.h", "lib/libllama.so", "llama_cpp/lib/libllama.so",
        "llama_cpp/lib/libllama.so.0", "llama_cpp/lib/libllama.so.0.5.0", "llama_cpp/llama.py",
        "llama_cpp/lib/libother.so.1.2.3",
    ]  # fmt: skip
    leave = llamawheel.lean(names)
    assert [name for name in names if not leave(name)] == [names[2], names[3], names[5], names[6]]


@pytest.mark.anyio
async def test_the_compiler_s_libraries_go_with_it_where_there_are_none(tmp_path: Path):
    made = wheel(tmp_path / "llama" / place_of(TARGET, AVX2), "llama_cpp_python", "0.3.36")
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr("llama_cpp/lib/libggml.so", b"\x7fELF libgcc_s.so.1 libm.so.6")
    source = choose(
        FACTS, TARGET, changed(QUEEN, installed=None, kept=(Kept(made, "avx2", (2, 36)),)),
        online=False,
    )  # fmt: skip
    has = replace(FACTS, libs=["libgcc_s.so.1"])
    told: list[str] = []

    async def supplied(facts: Facts) -> Path:
        found = await llamawheel.supply(
            source, TARGET, facts, None, tmp_path, lambda text, _: told.append(text)
        )
        assert found is not None
        return found

    assert await supplied(has) == made
    with_it = await supplied(FACTS)
    assert with_it.name == made.name
    with zipfile.ZipFile(with_it) as archive:
        assert "llama_cpp/lib/libgcc_s.so.1" in archive.namelist()
        assert archive.read("llama_cpp/lib/libgcc_s.so.1").startswith(b"\x7fELF")
    assert await supplied(FACTS) == with_it, "made once"


SETUP = """
import os, sys
from setuptools import setup
if "bdist_wheel" in sys.argv:
    print("[1/4] Building CXX object ggml.cpp.o", flush=True)
    print("[3/4] Building CXX object llama.cpp.o", flush=True)
with open("llama_cpp.py", "w") as file:
    file.write(f"ARGUMENTS = {os.environ['CMAKE_ARGS']!r}")
setup(name="llama-cpp-python", version="0.3.36", py_modules=["llama_cpp"])
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with the sources of a package of that name, which are compiled in no time."""
    index = tmp_path / "index"
    repack(distribution("setuptools"), index)
    for made in index.rglob("*.whl"):
        made.rename(index / made.name)
    archive = index / "llama_cpp_python-0.3.36.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name, text in (
            ("setup.py", SETUP),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.36\n"),
        ):
            entry = tarfile.TarInfo(f"llama_cpp_python-0.3.36/{name}")
            entry.size = len(text)
            file.addfile(entry, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return archive


@pytest.mark.anyio
async def test_it_is_compiled_once_and_kept(sources: Path, tmp_path: Path):
    source = Source("queen", "", None, SSE)
    told: list[tuple[str, float | None]] = []
    found: list[Path | None] = []

    async def supplied() -> None:
        found.append(
            await llamawheel.supply(
                source, TARGET, FACTS, "0.3.36", tmp_path, lambda *said: told.append(said)
            )
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(supplied)
        tasks.start_soon(supplied)
    first, second = found
    assert first is not None
    assert first == second
    assert [done for _, done in told if done is not None] == [0.25, 0.75], "compiled once"
    assert any("waiting for it" in text for text, _ in told)
    with zipfile.ZipFile(first) as archive:
        assert b"-DGGML_AVX2=OFF" in archive.read("llama_cpp.py")
    (kept_now,) = kept(tmp_path / "llama")
    assert (kept_now.wheel, kept_now.flavour, kept_now.libc) == (first, "sse42", (2, 36))
    os.remove(sources)
    await supplied()
    assert found[-1] == first


@pytest.mark.anyio
async def test_what_cannot_be_compiled_is_told(sources: Path, tmp_path: Path):
    os.remove(sources)
    with pytest.raises(InstallFailed, match="could not be compiled") as caught:
        await llamawheel.supply(
            Source("queen", "", None, SSE), TARGET, FACTS, "0.3.36", tmp_path, lambda *_: None
        )
    assert caught.value.details["step"] == "compile llama.cpp"
    assert caught.value.details["tail"]
    assert kept(tmp_path / "llama") == ()
