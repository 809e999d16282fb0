"""Instruction sets: what code needs, what a CPU has, in the words of Linux, macOS and ggml."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rbee.ssh import flags
from tests.support.machines import HASWELL, ZEN4

PORTABLE = sorted(flags.PORTABLE)


def test_code_for_many_cpus_needs_what_ggml_names():
    wanted = flags.needs([*PORTABLE, "LLAMAFILE", "OPENMP"], "x86_64", ZEN4)
    assert wanted == {"pni", "ssse3", "avx", "avx2", "f16c", "fma", "bmi2"}
    assert flags.lacking(wanted, HASWELL) == []
    assert flags.lacking(wanted, HASWELL - {"avx2"}) == ["avx2"]
    assert flags.needs(["NEON", "ARM_FMA"], "aarch64", {"asimd", "atomics"}) == frozenset()


def test_code_for_one_cpu_needs_all_that_its_compiler_found():
    native = [*PORTABLE, "AVX512", "AVX512_VBMI"]
    assert flags.is_native(native, "x86_64")
    wanted = flags.needs(native, "x86_64", ZEN4)
    assert {"avx512_vbmi2", "avx512vbmi", "abm"} <= wanted
    assert "sha" not in wanted, "no compiler uses it by itself"
    assert "avx512f" in flags.lacking(wanted, HASWELL)
    arm = flags.needs(["NEON", "DOTPROD"], "aarch64", {"asimddp", "atomics", "cpuid"})
    assert arm == {"asimddp", "atomics"}


def test_spellings():
    assert [flags.name(word) for word in ("AVX1.0", "SSE4.1", "SSE3", "LZCNT", "AVX2")] == [
        "avx", "sse4_1", "pni", "abm", "avx2",
    ]  # fmt: skip
    assert flags.name("FEAT_BF16") == "FEAT_BF16"


@given(
    st.sets(st.sampled_from([*PORTABLE, "AVX512", "AMX_INT8", "OPENMP"])),
    st.sets(st.sampled_from(sorted(ZEN4))),
)
@settings(deadline=None, max_examples=100)
def test_code_runs_where_it_was_built(features: set[str], cpu: set[str]):
    wanted = flags.needs(features, "x86_64", cpu)
    told = flags.needs(features, "x86_64", ())
    assert wanted - told <= cpu
    assert flags.lacking(wanted, cpu | told) == []
