"""`python -m rbee.backend_contract NAME --model PATH --format FORMAT [--device DEVICE]`.

One JSON object a line as each clause ends: `{name, state, words}`. Exit code 1 when one failed, 2
when the backend cannot be imported. Runs in a process of its own so that whoever asked survives it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rbee import registry
from rbee.backend_api import ModelFile
from rbee.backend_contract.checks import Found, run
from rbee.errors import RbeeError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the contract; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rbee.backend_contract")
    parser.add_argument("name")
    parser.add_argument("--model", required=True)
    parser.add_argument("--id", default="checked")
    parser.add_argument("--format", required=True)
    parser.add_argument("--device", default="cpu")
    wanted = parser.parse_args(argv)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no finding

    def tell(found: Found) -> None:
        out.write(json.dumps(asdict(found)) + "\n")
        out.flush()

    try:
        info = registry.load(wanted.name)
    except RbeeError as exc:
        tell(Found("is installed", "failed", exc.message))
        return 2
    file = ModelFile(wanted.id, Path(wanted.model), wanted.format)
    with tempfile.TemporaryDirectory(prefix="rbee-check-") as scratch:
        found = run(info, file, scratch=Path(scratch), device=wanted.device, tell=tell)
    return int(any(one.state == "failed" for one in found))


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # threads of a backend that hangs must not hold the end up
