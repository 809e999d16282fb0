"""What a CPU can do, and what compiled code needs of it.

Owns the names of instruction sets and the comparison; pure, except that `own` reads this machine.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Collection, Iterable
from pathlib import Path

PORTABLE = frozenset({"SSE3", "SSSE3", "AVX", "AVX2", "F16C", "FMA", "BMI2"})
"""What ggml uses on x86 when it is built with GGML_NATIVE=OFF (ggml/CMakeLists.txt)."""
_FEATURES = {
    "SSE3": ("pni",),
    "SSSE3": ("ssse3",),
    "AVX": ("avx",),
    "AVX_VNNI": ("avx_vnni",),
    "AVX2": ("avx2",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "BMI2": ("bmi2",),
    "AVX512": ("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
    "AMX_INT8": ("amx_tile", "amx_int8"),
}
"""The words of llama_print_system_info, and of /proc/cpuinfo."""
_ARM_NATIVE = frozenset({"DOTPROD", "MATMUL_INT8", "FP16_VA", "SVE", "SME"})
_X86 = ("pni", "ssse3", "sse4_", "avx", "amx", "fma", "f16c", "bmi", "abm", "movbe", "popcnt",
        "gfni", "xop", "tbm")  # fmt: skip
"""Families that a compiler uses by itself for the CPU it runs on (gcc, -march=native)."""
_NOT_USED = frozenset({"evtstrm", "cpuid"})
_DARWIN = {"avx1.0": "avx", "sse3": "pni", "lzcnt": "abm"}


def name(word: str) -> str:
    """One spelling: `AVX1.0` and `SSE4.1` of macOS as Linux writes them; FEAT_… stays."""
    if word.startswith("FEAT_"):
        return word
    low = word.lower()
    return _DARWIN.get(low, low.replace(".", "_"))


def own() -> frozenset[str]:
    """This machine's, in the words of `Facts.cpu`; empty where they cannot be read. Blocking."""
    if platform.system() != "Darwin":
        return _of_linux(Path("/proc/cpuinfo"))
    leaves = ("features", "leaf7_features", "extfeatures")
    text = _sysctl("-n", *(f"machdep.cpu.{leaf}" for leaf in leaves))
    arm = (line.rpartition(".")[2].split(": ") for line in _sysctl("hw.optional.arm").splitlines())
    words = [*text.split(), *(pair[0] for pair in arm if pair[1:] == ["1"])]
    return frozenset(name(word) for word in words)


def is_native(features: Collection[str], arch: str) -> bool:
    """Whether code with these of ggml's features was built for one CPU and not for many."""
    if arch in ("x86_64", "i686"):
        return any(feature in _FEATURES for feature in set(features) - PORTABLE)
    return any(feature in _ARM_NATIVE for feature in features)


def needs(features: Collection[str], arch: str, built_on: Collection[str]) -> frozenset[str]:
    """What a CPU must have to run code with these of ggml's features.

    A native build uses more than ggml knows of: whatever its compiler found, so everything that a
    compiler uses by itself of the CPU it was `built_on` counts then.
    """
    wanted = {flag for feature in features for flag in _FEATURES.get(feature, ())}
    if not is_native(features, arch):
        return frozenset(wanted if arch in ("x86_64", "i686") else ())
    if arch in ("x86_64", "i686"):
        return frozenset(wanted) | {flag for flag in built_on if flag.startswith(_X86)}
    return frozenset(built_on) - _NOT_USED


def lacking(wanted: Iterable[str], has: Collection[str]) -> list[str]:
    """What is wanted and not there, sorted."""
    return sorted(set(wanted) - set(has))


def _of_linux(path: Path) -> frozenset[str]:
    try:
        text = path.read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() in ("flags", "Features"):
            return frozenset(name(word) for word in value.split())
    return frozenset()


def _sysctl(*words: str) -> str:
    done = subprocess.run(
        ["sysctl", *words], capture_output=True, text=True, timeout=10, check=False
    )
    return done.stdout
