"""A program for the tests of hostile templates: it tries them, and says what came of each.

Reads a JSON object of names, templates and the seconds that each may take from stdin; prints one of
what came of them. Each is tried in a process of its own, so that one that ends its process, or
never ends, is seen to.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import time

from rbee.backends.shared import template

from rbee.errors import RbeeError

SECONDS = 30
logging.disable()


def main() -> None:
    asked = json.load(sys.stdin)
    told = {name: apart(source, seconds) for name, (source, seconds) in asked.items()}
    sys.stdout.write(json.dumps(told))


def apart(source: str, seconds: float) -> dict[str, object]:
    """What came of one, or the signal that ended its process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS)
        template._TRIAL_SECONDS = seconds
        with os.fdopen(writing, "w") as out:
            json.dump(tried(source), out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        text = told.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if status == 0 else {"ended": status}


def tried(source: str) -> dict[str, object]:
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        text = template.ChatTemplate(source, bos="", eos="").render(
            [{"role": "user", "content": "go " * 50}]
        )
        result: dict[str, object] = {"text": text[:100]}
    except RbeeError as exc:
        result = {"code": exc.code, "message": exc.message}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1024 if sys.platform != "darwin" else 1
    return result | {"seconds": time.monotonic() - began, "mib": (peak - before) * unit / (1 << 20)}


if __name__ == "__main__":
    main()
