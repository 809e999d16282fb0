"""Devices of the machine the tests run on, and honest absences."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from rbee.hardware import apple, cpu
from rbee.hardware.nvidia import Nvidia
from rbee.hardware.probe import Probe, devices


def test_the_cpu_comes_first_with_sane_figures():
    found, _ = devices()
    device = found[0]
    assert (device.name, device.kind) == ("cpu", "cpu")
    assert device.memory_total > 0
    assert 0 < device.memory_free <= device.memory_total
    assert device.memory_used + device.memory_free == device.memory_total
    assert device.cores is not None
    assert 1 <= device.cores <= (os.cpu_count() or 1)
    assert device.label.startswith(f"{device.cores} core")


def test_utilisation_is_there_from_the_second_reading_on():
    with Probe() as probe:
        assert probe.read()[0][0].utilisation is None
        second = probe.read()[0][0].utilisation
    assert second is not None
    assert 0 <= second <= 100


def test_each_kind_is_either_found_or_absent_with_a_reason():
    found, absent = devices()
    kinds = {device.kind for device in found} | {gone.name for gone in absent}
    assert kinds == {"cpu", "cuda", "metal"}
    assert all(gone.reason for gone in absent)


def test_nvidia_without_its_package_says_how_to_get_it():
    found, absent = Nvidia(module="a_package_that_is_not_here").read()
    assert found == []
    assert "nvidia-ml-py" in absent[0].reason
    assert "pip install" in absent[0].action


def test_a_missing_driver_is_not_asked_for_at_every_reading():
    asked: list[float] = []

    def now() -> float:
        asked.append(0.0)
        return 5.0

    nvidia = Nvidia(module="a_package_that_is_not_here", now=now)
    first, second = nvidia.read(), nvidia.read()
    assert first == second
    nvidia.close()
    nvidia.close()


@pytest.mark.parametrize(
    ("system", "machine", "reason"),
    [("Linux", "x86_64", "Linux"), ("Darwin", "x86_64", "silicon")],
)
def test_metal_is_absent_for_a_reason(system, machine, reason):
    found, [gone] = apple.read(system, machine)
    assert found == []
    assert (gone.name, reason in gone.reason) == ("metal", True)


def test_a_mac_offers_its_gpu_with_a_share_of_the_memory():
    [device], absent = apple.read("Darwin", "arm64")
    assert absent == []
    assert (device.name, device.kind) == ("metal:0", "metal")
    memory = psutil.virtual_memory().total
    assert 0.6 * memory < device.memory_total < 0.75 * memory
    assert device.memory_used + device.memory_free == device.memory_total


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity_limits_the_cores():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from rbee.hardware.cpu import physical_cores; print(physical_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_a_group_limit_makes_the_machine_smaller(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 400000\n")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert cpu._memory_limit(tmp_path) == (1_000_000, 300_000)
    assert cpu._cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpu._cpu_quota(tmp_path) is None
    assert cpu._memory_limit(tmp_path / "none") == (None, 0)
