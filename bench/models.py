"""The two model files of the comparison, made offline from the packaged SmolLM2.

`python -m bench.models SOURCE OUT FTYPE` quantises one file with the installed library; the harness
runs that in a process of its own, since whatever goes wrong in the library ends the process.
Q4_0 is what llama.cpp repacks for the CPU, Q4_1 what it does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.places import MODELS
from rbee.models.packages import INSTALL, packaged

NAME = "smollm2-135m"
FTYPES = {"q4_0": 2, "q4_1": 3}
"""Of `enum llama_ftype` in llama.h."""
LIMIT = 300.0


class NoModel(Exception):
    """A model file cannot be had; the message says why."""


def path_of(kind: str, folder: Path = MODELS) -> Path:
    """Where the file of a kind lies, made or not."""
    return folder / f"{NAME}-{kind}.gguf"


def prepare(kind: str, say: Callable[[str], None], folder: Path = MODELS) -> Path:
    """The file, made if it is not there. Raises NoModel."""
    out = path_of(kind, folder)
    if out.exists():
        return out
    source = packaged(NAME)
    if source is None:
        raise NoModel(f"{NAME} is not installed: {INSTALL[NAME]}")
    say(f"making {out.name} from {source.path.name}")
    folder.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    command = [sys.executable, "-m", "bench.models"]
    command += [str(source.path), str(part), str(FTYPES[kind])]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise NoModel(f"making {out.name} took more than {LIMIT:.0f} s") from exc
    if done.returncode != 0 or not part.exists():
        part.unlink(missing_ok=True)
        raise NoModel(f"{out.name} cannot be made ({done.returncode}): {done.stderr[-300:]}")
    part.replace(out)
    return out


def quantize(source: Path, out: Path, ftype: int) -> int:
    """Write `source` as `ftype` to `out`; 0 when it went well. May abort the process."""
    import ctypes

    import llama_cpp.llama_cpp as library

    params = library.llama_model_quantize_default_params()
    params.nthread = os.cpu_count() or 1
    params.ftype = ftype
    params.allow_requantize = True
    return int(
        library.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.pointer(params))
    )


if __name__ == "__main__":
    sys.exit(quantize(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
