"""`rbee doctor`: what works here, what does not, and what to do about it.

Owns the order and the look of the findings. Starts no queen and changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping

from rbee.commands import checks
from rbee.commands.checks import Check, State
from rbee.errors import RbeeError
from rbee.narration import printable
from rbee.output import print_json, print_table
from rbee.paths import Paths
from rbee.settings import load


def run(*, as_json: bool) -> int:
    """Look at everything; 1 when something that is needed does not work."""
    return report(list(findings()), as_json=as_json)


def report(found: list[Check], *, as_json: bool, told: Mapping[str, str] | None = None) -> int:
    """Print the findings; 1 when one of them is a failure. `told`: more that JSON tells."""
    bad = [check for check in found if check.state is State.FAIL]
    if as_json:
        print_json({**(told or {}), "ok": not bad, "rbee": checks.__version__, "checks": found})
        return 1 if bad else 0
    rows = [[check.name, str(check.state), check.message] for check in found]
    print_table(["check", "state", "what"], rows, empty="")
    for check in found:
        if check.action:
            sys.stdout.write(f"\n{check.name} ({check.state}):\n  → {printable(check.action)}\n")
    if bad:
        names = ", ".join(dict.fromkeys(check.name for check in bad))
        sys.stderr.write(f"rbee: {len(bad)} of {len(found)} checks failed: {names}\n")
    return 1 if bad else 0


def findings() -> Iterator[Check]:
    """All of them, in the order they are shown. A check that breaks is a failed one."""
    try:
        paths = Paths.user()
    except RbeeError as exc:
        yield Check(name="folders", state=State.FAIL, message=exc.message, action=exc.action)
        return
    yield from _safely("python", checks.python)
    yield from _safely("machine", checks.machine)
    yield from _safely("folders", lambda: checks.folders(paths))
    try:
        loaded = load(paths=paths)
    except RbeeError as exc:
        yield from checks.settings(exc, paths)
    else:
        yield from checks.settings(loaded, paths)
        yield from _safely("queen", lambda: checks.queen(loaded.settings, paths))
    yield from _safely("backends", checks.backends)
    yield from _safely("model", checks.demo)


def _safely(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except OSError as exc:
        yield Check(name=name, state=State.FAIL, message=f"cannot be looked at: {exc}")
