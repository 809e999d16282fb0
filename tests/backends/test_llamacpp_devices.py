"""The devices of llama.cpp: names, refusals, and the commands that build what is missing."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rbee.backends.llamacpp import builds

from rbee import registry
from rbee.errors import BackendUnavailable, InsufficientVram, ModelLoadFailed, ValidationFailed

pytestmark = pytest.mark.skipif(
    not registry.load("llamacpp").probe().available, reason="llama-cpp-python is not installed"
)


@pytest.mark.parametrize(
    "native, ours",
    [
        ("CUDA0", "cuda:0"),
        ("CUDA12", "cuda:12"),
        ("MTL0", "metal:0"),
        ("Metal", "metal:0"),
        ("Vulkan1", "vulkan:1"),
        ("ROCm0", "hip:0"),
        ("SYCL3", "sycl:3"),
        ("MUSA0", "musa:0"),
        ("RPC[127.0.0.1:50052]", "rpc[127.0.0.1:50052]"),
    ],
)
def test_names_follow_ggmls(native, ours):
    from rbee.backends.llamacpp.devices import name_of

    assert name_of(native) == ours


def test_the_list_is_the_libraries_own_and_never_has_the_cpu():
    from rbee.backends.llamacpp.devices import devices

    kinds = set(builds.built()) - {"cpu"}
    for device in devices():
        assert device.name.partition(":")[0] in kinds
        assert device.handle
        assert 0 <= device.memory_free <= device.memory_total


@pytest.mark.parametrize("wanted", ["cuda:99", "vulkan:99", "sycl:99", "hip:99"])
def test_a_device_that_is_not_here_is_refused_with_what_to_do(wanted):
    from rbee.backends.llamacpp.devices import find_device

    kind = wanted.partition(":")[0]
    with pytest.raises(BackendUnavailable) as caught:
        find_device(wanted)
    assert wanted in caught.value.message
    assert "it has cpu" in caught.value.message
    if kind not in builds.built():
        assert builds.command(kind) in caught.value.action


@pytest.mark.parametrize("wanted", ["", ":", "cuda:", "cuda:-1", "CUDA 0", "cuda:1234", "a\0b"])
def test_what_is_no_name_is_refused_before_the_library_sees_it(wanted):
    from rbee.backends.llamacpp.devices import find_device

    with pytest.raises(ValidationFailed):
        find_device(wanted)


@pytest.mark.parametrize("kind", [build.kind for build in builds.BUILDS])
def test_the_command_is_one_for_this_very_installation(kind):
    words = shlex.split(builds.command(kind))
    assert words[0].startswith("CMAKE_ARGS=-DGGML_")
    assert words[0].endswith("=on")
    assert words[1:4] == [sys.executable, "-m", "pip"]
    assert words[-1] == f"llama-cpp-python=={builds.version()}"
    said = subprocess.run(
        [*words[1:5], "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    for option in (word for word in words if word.startswith("--")):
        assert option in said.stdout, "pip knows the option"


def test_a_model_larger_than_the_device_is_refused_with_both_amounts():
    from rbee.backends.llamacpp.devices import NativeDevice, check_room

    small = NativeDevice("cuda:0", "CUDA0", "a card", 3 << 30, 4 << 30, 1)
    check_room(small, Path("m.gguf"), 3 << 30)
    with pytest.raises(InsufficientVram) as caught:
        check_room(small, Path("m.gguf"), (3 << 30) + 1)
    details = caught.value.details
    assert (details["required"], details["available"]) == ((3 << 30) + 1, 3 << 30)
    check_room(NativeDevice("sycl:0", "SYCL0", "silent", 0, 0, 1), Path("m.gguf"), 1 << 40)


@pytest.mark.parametrize(
    "said, good",
    [
        (["offloaded 31/31 layers to GPU", "CUDA0 model buffer size = 90.00 MiB"], True),
        (["offloaded 30/31 layers to GPU", "CUDA0 model buffer size = 80.00 MiB"], False),
        (["offloaded 31/31 layers to GPU", "CPU_Mapped model buffer size = 90.00 MiB"], False),
        ([], False),
    ],
)
def test_a_part_on_the_device_is_a_failed_load(said, good):
    from rbee.backends.llamacpp.devices import NativeDevice, check_offload
    from rbee.backends.llamacpp.native import LOG

    LOG.clear()
    for line in said:
        LOG.add(2, f"load_tensors: {line}\n")
    device = NativeDevice("cuda:0", "CUDA0", "a card", 1, 1, 1)
    if good:
        check_offload(device)
        return
    with pytest.raises(ModelLoadFailed, match="one device or not at all"):
        check_offload(device)
