"""Machines that only exist on paper: what one says of itself, and what CPUs can do."""

from __future__ import annotations

from rbee.ssh.probe import Facts, Python

HASWELL = frozenset(
    {"pni", "ssse3", "sse4_1", "sse4_2", "avx", "avx2", "f16c", "fma", "bmi1", "bmi2", "abm"}
)
ZEN4 = HASWELL | {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw", "avx512_vbmi2", "sha"}
FACTS = Facts(
    os="Linux", arch="x86_64", kernel="6", name="Debian", libc="glibc", libc_version="2.36",
    user="u", home="/h", shell="/bin/sh", root="/h/.local/share/rbee", cores=4, memory=1 << 33,
    memory_free=1 << 32, disk_free=1 << 40, installed=[], current="", previous="", uv="",
    compiler="", gpus=[], cpu=sorted(HASWELL),
    pythons=[Python(path="/usr/bin/python3", version="3.12.1", venv=True, bare=True)],
)  # fmt: skip
