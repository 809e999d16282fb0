"""Finding backends: the bundled ones, absent ones, broken ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rbee import registry
from rbee.errors import BackendUnavailable


def test_the_bundled_backends_come_through_the_public_door():
    assert {"echo", "llamacpp", "mlx"} <= set(registry.names())
    info = registry.load("echo")
    assert (info.name, info.formats, info.max_slots) == ("echo", ("echo",), 8)


def test_an_absent_backend_is_named_with_how_to_get_it():
    with pytest.raises(BackendUnavailable, match="abacus") as caught:
        registry.load("abacus")
    assert caught.value.action.startswith("Install the package that brings it")


def test_surveying_imports_no_heavy_library():
    code = (
        "import sys; from rbee import registry; found = registry.survey();"
        "print(sorted(i.name for i, s in found if s.available),"
        " [m for m in ('llama_cpp', 'mlx', 'transformers', 'numpy', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "echo" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_broken_third_party_backends_are_reported_not_raised(tmp_path, monkeypatch):
    package = tmp_path / "bad_backend"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from rbee.backend_api import BackendInfo\n"
        "def fail(): raise OSError('no such board')\n"
        "WRONG = 5\n"
        "NAMED = BackendInfo('other', (), (), fail, fail)\n"
        "PROBE = BackendInfo('badprobe', (), (), fail, fail)\n"
    )
    (package / "raises.py").write_text("raise RuntimeError('boom')\n")
    info = tmp_path / "bad_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[rbee.backends]\nbadimport = bad_backend.raises:INFO\nbadmodule = not_there_at_all:INFO\n"
        "badtype = bad_backend:WRONG\nbadname = bad_backend:NAMED\nbadprobe = bad_backend:PROBE\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {info.name: (info, support) for info, support in registry.survey()}
    for name, reason in {
        "badimport": "boom",
        "badmodule": "not_there_at_all",
        "badtype": "int",
        "badname": "other",
        "badprobe": "no such board",
    }.items():
        info, support = found[name]
        assert not support.available
        assert reason in support.reason
        assert "bad-backend" in support.action
        assert name == "badprobe" or not info.probe().available
    assert found["echo"][1].available
    with pytest.raises(BackendUnavailable, match="boom"):
        registry.load("badimport")
    with pytest.raises(BackendUnavailable, match="boom"):
        found["badimport"][0].create()


def test_a_backend_that_hangs_does_not_hang_its_finder(tmp_path, monkeypatch):
    (tmp_path / "hung_backend.py").write_text(
        "import threading\n"
        "from rbee.backend_api import BackendInfo, Support\n"
        "GO = threading.Event()\n"
        "def probe():\n"
        "    GO.wait()\n"
        "    return Support(True, ('cpu',))\n"
        "INFO = BackendInfo('hung', (), (), probe, probe)\n"
    )
    info = tmp_path / "hung_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hung-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rbee.backends]\nhung = hung_backend:INFO\n")
    registry.survey()  # the others are imported, however long that takes
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "PATIENCE", 2.0)
    left = set()
    for _ in range(2):
        found = {info.name: support for info, support in registry.survey()}
        assert not found["hung"].available
        assert "hung-backend is broken: it does not say what it can" in found["hung"].reason
        assert found["echo"].available
        left.add(registry._hanging["hung"])
    (thread,) = left
    sys.modules["hung_backend"].GO.set()
    thread.join(30)
    assert {info.name: support for info, support in registry.survey()}["hung"].available
