"""The screens of one tab of `rbee web`: started by it, `python -m rbee.commands.web_tab FD`.

The descriptor is the stream to the browser, and becomes stdin and stdout, as Textual's web driver
wants it; words go to stderr, which is a file. Visits the queen, never starts or ends her.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Until the tab is closed or the screens are left."""
    fd = int(argv[0])
    for number in (0, 1):
        os.dup2(fd, number)
    os.close(fd)
    sys.stdout = sys.stderr  # a stray word there would be taken for a packet

    from rbee.commands.common import settings_and_paths
    from rbee.commands.up import screens
    from rbee.daemons.launch import Keeper
    from rbee.errors import RbeeError
    from rbee.output import print_error

    try:
        settings, paths = settings_and_paths()
        app = screens(paths, Keeper(settings, paths, starts=False), flags={})
    except RbeeError as exc:
        print_error(exc)
        return exc.exit_code
    app.run()
    return app.return_code or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
