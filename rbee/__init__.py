"""rbee: every computer you own as one private AI service."""

import sys

__version__ = "0.1.0"

# httpx takes its own command line along, with all of rich and pygments, where it finds them: a
# fifth of the start of every command and every worker. It does without where the import fails,
# which None means: https://docs.python.org/3/reference/import.html#the-module-cache
sys.modules.setdefault("httpx._main", None)  # pyright: ignore[reportArgumentType]
