"""What may not be imported just to print help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "aiohttp", "anyio", "asyncssh", "httpx", "huggingface_hub", "llama_cpp", "msgspec", "numpy",
    "psutil", "sqlite3", "starlette", "textual", "textual_serve", "uvicorn",
}  # fmt: skip
PROGRAM = """
import json, sys
sys.argv = ["rbee", *sys.argv[1:]]
from rbee.cli import main
try:
    main()
except SystemExit as exc:
    assert not exc.code, exc.code
imported = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
sys.stderr.write(json.dumps(sorted(imported)))
"""


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["infer", "--help"],
        ["queen", "--help"],
        ["model", "--help"],
        ["model", "download", "--help"],
        ["hive", "add", "--help"],
        ["web", "--help"],
    ],
)
def test_help_imports_nothing_heavy(args: list[str], tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not HEAVY & set(json.loads(done.stderr.splitlines()[-1]))


def test_what_every_command_imports_leaves_out_what_only_some_print_with():
    program = "import sys, rbee.cli, rbee.client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert "httpx" in imported
    assert not {"pydantic", "pygments"} & imported
