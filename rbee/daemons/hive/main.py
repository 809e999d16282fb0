"""`rbee-hive`: a hive as a process of its own, or a word with the one that stands by itself.

Flags only. Owns what they mean and how it is told: data on stdout, an error as two lines on
stderr and an exit code. `--ensure`, `--status`, `--stop` and `--log` are what a queen runs on this
machine over SSH; without any of them it is a hive that announces itself to a queen here, with
her token from the environment (`RBEE_INTERNAL_TOKEN`, which is removed from it).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rbee.errors import RbeeError, SettingsError
from rbee.paths import Paths

if TYPE_CHECKING:
    from rbee.protocol.hives import HiveUp
    from rbee.settings import Loaded, Settings

STAY = 31_536_000.0
"""Seconds a hive may be told to stay at most."""


def main(argv: list[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Entry point `rbee-hive`; flags, some the same as environment (RBEE_HIVE_HOST, …)."""
    args = _parser().parse_args(argv)
    given = {
        "hive.host": "127.0.0.1" if args.standing else args.host,
        "hive.port": "0" if args.standing else args.port,
        "hive.name": args.name,
        "models.dir": args.models_dir,
    }
    try:
        paths = Paths.user(env)
        from rbee.settings import load

        flags = {name: value for name, value in given.items() if value is not None}
        loaded = load(paths=paths, env=env, flags=flags)
        if args.ensure or args.status or args.stop or args.log:
            return _speak_with(args, loaded.settings, paths)
        _serve(args, loaded, paths)
    except RbeeError as exc:
        sys.stderr.write("".join(f"  {line}\n" for line in exc.details.get("tail") or ()))
        sys.stderr.write(f"error {exc.code}: {exc.message}\n  → {exc.action}\n")
        return exc.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rbee-hive", description=__doc__)
    parser.add_argument("--name", help="of the hive; by default this machine's")
    parser.add_argument("--models-dir", metavar="DIR", help="where it keeps models")
    announced = parser.add_argument_group("a hive that announces itself")
    announced.add_argument("--host")
    announced.add_argument("--port")
    announced.add_argument("--queen-url", default="http://127.0.0.1:8500")
    group = parser.add_argument_group("a hive that stands by itself")
    what = group.add_mutually_exclusive_group()
    what.add_argument("--ensure", action="store_true", help="find or start it, and tell of it")
    what.add_argument("--status", action="store_true", help="tell of it; exit code 1: none")
    what.add_argument("--stop", action="store_true", help="end it and its workers, however stuck")
    what.add_argument("--log", action="store_true", help="what it has said")
    what.add_argument("--standing", metavar="MARK", help=argparse.SUPPRESS)
    group.add_argument(
        "--alone", type=_seconds, metavar="SECONDS", help="how long it stays without a queen"
    )
    group.add_argument("--replace", action="store_true", help="end what runs, start it anew")
    group.add_argument("--lines", type=int, default=200, help="of the log")
    group.add_argument("--follow", action="store_true", help="the log, as it grows")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= STAY:
        raise argparse.ArgumentTypeError(f"0 to {STAY:.0f} seconds")
    return value


def _speak_with(args: argparse.Namespace, settings: Settings, paths: Paths) -> int:
    from rbee.daemons.hive import ensure

    name = settings.hive.name
    if args.ensure:
        _tell(
            ensure.ensure(
                paths,
                name,
                models_dir=args.models_dir,
                alone=args.alone,
                replace=args.replace,
            )
        )
    elif args.status:
        _tell(ensure.status(paths, name))
    elif args.stop:
        sys.stdout.write("".join(f"{line}\n" for line in ensure.stop(paths, name)))
    else:
        _log(args, name, paths)
    return 0


def _tell(up: HiveUp) -> None:
    from rbee.protocol.base import encode

    sys.stdout.write(f"rbee-hive {encode(up).decode()}\n")


def _log(args: argparse.Namespace, name: str, paths: Paths) -> None:
    import contextlib

    from rbee.daemons.hive.logfile import copy_out, line_count
    from rbee.daemons.hive.standing import log_of

    lines = line_count(str(args.lines))
    with contextlib.suppress(BrokenPipeError):
        copy_out(log_of(paths, name), lines=lines, follow=args.follow, out=sys.stdout.fileno())


def _serve(args: argparse.Namespace, loaded: Loaded, paths: Paths) -> None:
    import anyio

    from rbee.daemons.base import first_error, listen
    from rbee.daemons.hive.serving import announced, stand  # heavy: starlette, uvicorn

    token = os.environ.pop("RBEE_INTERNAL_TOKEN", "")
    if not token and not args.standing:
        raise SettingsError(
            "RBEE_INTERNAL_TOKEN is not set",
            action="A hive of its own is started by its queen, with her token.",
        )
    settings, wrong = loaded.settings, loaded.problem
    _set_up_log(settings, dates=bool(args.standing))
    if wrong is not None:
        logging.getLogger("rbee.hive").warning(
            "ui.toml is left out: %s → %s", wrong.message, wrong.action
        )
    paths.ensure()
    with listen(settings.hive.host, settings.hive.port) as sock:

        async def live() -> None:
            if args.standing:
                await stand(settings, paths, sock, mark=args.standing, alone=args.alone)
            else:
                await announced(settings, paths, sock, queen_url=args.queen_url, token=token)

        try:
            anyio.run(live)
        except BaseExceptionGroup as group:
            raise first_error(group) from group


def _set_up_log(settings: Settings, *, dates: bool) -> None:
    from rbee.daemons.logs import handler_of

    text = "%(asctime)s %(levelname)-7s %(message)s" if dates else "%(levelname)s %(message)s"
    handler = handler_of(settings.log.format, text, dates="%Y-%m-%d %H:%M:%S")
    logging.basicConfig(level=settings.log.level.upper(), handlers=[handler])
    for chatty in ("httpx", "httpcore"):  # they write whole addresses, signatures included
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
