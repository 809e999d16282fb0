"""A program for the tests of hostile templates: it tries one, and says what came of it.

Reads the template from stdin; prints one JSON object. It runs apart from the tests so that a
template that ends the process, or never ends, is seen to.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time

from rbee.backends.shared.template import ChatTemplate

from rbee.errors import RbeeError

logging.disable()


def main() -> None:
    source = sys.stdin.read()
    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        text = ChatTemplate(source, bos="", eos="").render(
            [{"role": "user", "content": "go " * 50}]
        )
        result = {"text": text[:100]}
    except RbeeError as exc:
        result = {"code": exc.code, "message": exc.message}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1024 if sys.platform != "darwin" else 1
    result |= {"seconds": time.monotonic() - began, "mib": (peak - before) * unit / (1 << 20)}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
