"""`rbee model delete|verify|gc|import`: what lies in the models folders.

Owns the question before something is deleted; what is deleted, checked or taken in is the hive's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import msgspec

from rbee.client import QueenClient
from rbee.commands.bars import Bars
from rbee.commands.common import ask
from rbee.commands.fetching import result_of
from rbee.commands.following import Manner
from rbee.commands.following import run as run_job
from rbee.commands.models import check_model
from rbee.commands.places import check_hive, hive_of
from rbee.commands.tables import room, table
from rbee.errors import HiveNotFound, InvalidRequest, RbeeError
from rbee.model_words import PROVIDERS
from rbee.narration import Narrator, printable
from rbee.output import print_error, print_json, size
from rbee.protocol.base import convert
from rbee.protocol.hives import HiveInfo
from rbee.protocol.models import (
    CatalogueEntry,
    ForeignModel,
    GarbageReport,
    HeldModel,
    ImportBody,
    Verified,
)
from rbee.protocol.operations import ModelDelete, ModelVerify

_NAME_LIMIT = 128


def delete(model: str, *, hive: str | None, yes: bool, manner: Manner) -> int:
    """`rbee model delete MODEL`: asks first, on a terminal."""
    check_model(model)
    check_hive(hive)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise InvalidRequest(
                f"deleting {printable(model)} needs a yes, and there is no terminal to ask on",
                action="Add --yes.",
            )
        if not _confirmed(ask(lambda queen: queen.model(model)), hive):
            sys.stderr.write("rbee: nothing was deleted\n")
            return 1
    operation = ModelDelete(model=model, hive=hive)

    async def work(queen: QueenClient, narrator: Bars) -> None:
        result = await result_of(operation, queen, narrator)
        narrator.clear()
        if manner.as_json:
            print_json(result)
            return
        freed = int(result["freed"])
        _write(f"{result['model']} is off {result['hive']}: {size(freed)} freed")
        if not freed and result.get("message"):
            narrator.say(str(result["message"]))

    return run_job(manner, work)


def verify(model: str, *, hive: str | None, manner: Manner) -> int:
    """`rbee model verify MODEL`: 1 when something is wrong with its files."""
    check_model(model)
    check_hive(hive)
    operation = ModelVerify(model=model, hive=hive)
    bad: list[str] = []

    async def work(queen: QueenClient, narrator: Bars) -> None:
        found = convert(await result_of(operation, queen, narrator), Verified)
        narrator.clear()
        bad.extend(found.problems)
        if manner.as_json:
            print_json(found)
        else:
            sys.stdout.write("\n".join(verified(found)) + "\n")

    return run_job(manner, work) or (1 if bad else 0)


def verified(found: Verified) -> list[str]:
    """What a check found, and what to do about it."""
    files = f"{found.files} file{'s'[: found.files != 1]}, {size(found.bytes)}"
    where = f"{printable(found.model)} on {found.hive}: {files}"
    if found.problems:
        wrong = f"{len(found.problems)} problem{'s'[: len(found.problems) > 1]}"
        again = f"rbee model delete {found.model} --hive {found.hive}, then download it again"
        told = [f"  {printable(problem)}" for problem in found.problems]
        return [f"{where}, {wrong}", *told, f"  → {printable(again)}"]
    unknown = found.files - found.hashed
    how = "all as they should be"
    if unknown:
        how = f"{found.hashed} with a known hash, {unknown} with none to compare; all well"
    return [f"{where}; {how}"]


def gc(*, hive: str | None, dry_run: bool, as_json: bool) -> int:
    """`rbee model gc`: on one hive, or on all that are online."""
    check_hive(hive)

    left: list[HiveInfo] = []

    async def clear(queen: QueenClient) -> list[tuple[HiveInfo, GarbageReport]]:
        if hive is not None:
            hives = [await hive_of(queen, hive)]
        else:
            known = await queen.hives()
            hives = [one for one in known if one.online]
            left.extend(one for one in known if not one.online)
        return [(one, await queen.gc(one.name, dry_run=dry_run)) for one in hives]

    found = ask(clear)
    if as_json:
        told = [{"hive": one.name} | msgspec.to_builtins(report) for one, report in found]
        print_json({"reports": told})
    elif not found:
        raise HiveNotFound("no hive is online", action="`rbee hive list` shows the hives.")
    else:
        for one, report in found:
            sys.stdout.write("\n".join(garbage(one.name, report)) + "\n")
        for one in left:
            Narrator().say(f"{one.name} was left out: it is {one.state or 'offline'}")
    return 0


def garbage(hive: str, found: GarbageReport) -> list[str]:
    """What was or would be cleared away on a hive."""
    verb = "would be freed" if found.dry_run else "freed"
    quota = f"; the folder may hold {size(found.quota)}" if found.quota else ""
    nothing = not (found.freed or found.partial or found.models)
    amount = "nothing to clear away" if nothing else f"{size(found.freed)} {verb}"
    out = [f"{hive}: {amount}{quota}"]
    out += [f"  begun download  {printable(name)}" for name in found.partial]
    out += [f"  over the quota  {printable(name)}" for name in found.models]
    out += [f"  not rbee's      {printable(name)}  (left alone)" for name in found.orphans]
    return out


def take_in(
    given: Sequence[str], *, everything: bool, copy: bool, name: str | None,
    hive: str | None, as_json: bool,
) -> int:  # fmt: skip
    """`rbee model import`: list what others keep, or take some of it in."""
    check_hive(hive)
    for one in given:
        _check_path(one)
    if name is not None:
        check_model(name)
        if len(name) > _NAME_LIMIT or len(given) != 1 or everything:
            raise InvalidRequest(
                f"--name: one name of at most {_NAME_LIMIT} characters, for one model",
                action="rbee model import /path/to/model.gguf --name NAME",
            )
    if everything and given:
        raise InvalidRequest("give either --all or models", action="rbee model import --all")
    if copy and not (everything or given):
        raise InvalidRequest("--copy: copy what?", action="rbee model import NAME --copy")
    if not given and not everything:
        return _list_foreign(hive, as_json=as_json)
    done: list[CatalogueEntry] = []
    failed: list[tuple[str, RbeeError]] = []

    async def work(queen: QueenClient) -> None:
        where = await hive_of(queen, hive)
        known = await queen.foreign(where.name)
        paths = [f.path for f in known if not f.problem and f.known_as is None]
        if not everything:
            paths = [resolve(one, known, local=where.kind == "local") for one in given]
        for path in paths:
            try:
                body = ImportBody(path=path, name=name, copy=copy)
                done.append(await queen.import_model(where.name, body))
            except RbeeError as exc:
                if len(paths) == 1:
                    raise
                failed.append((path, exc))

    ask(work)
    if as_json:
        errors = [{"path": path, **error.body()} for path, error in failed]
        print_json({"imported": done, "failed": errors})
    else:
        _tell_imported(done, failed, copy=copy)
    return failed[0][1].exit_code if failed else 0


def resolve(given: str, known: Sequence[ForeignModel], *, local: bool) -> str:
    """The path of a model that is named as the list names it, or by a path."""
    named = [f for f in known if f.name == given]
    if len(named) > 1:
        paths = ", ".join(f.path for f in named)
        raise InvalidRequest(f"{given!r} is the name of {len(named)}", action=f"One of: {paths}")
    if named:
        if named[0].problem:
            raise InvalidRequest(
                f"{given!r} cannot be used: {named[0].problem}",
                action="`rbee model import` shows what can be.",
            )
        return named[0].path
    path = os.path.expanduser(given)
    if os.path.isabs(path):
        return path
    if local:
        return os.path.abspath(path)
    raise InvalidRequest(
        f"{given!r} is neither a name from the list nor an absolute path",
        action="`rbee model import --hive HIVE` shows what is there.",
    )


def foreign(found: Sequence[ForeignModel], *, width: int | None) -> list[str]:
    """The table of what other programs keep."""
    rows = [
        [
            one.name,
            PROVIDERS.get(one.provider, one.provider),
            one.format,
            one.quant or "·",
            size(one.size),
            one.problem or (f"here as {one.known_as}" if one.known_as else "can be taken in"),
        ]
        for one in found
    ]
    return table(["model", "kept by", "format", "quant", "size", ""], rows, width=width)


def _list_foreign(hive: str | None, *, as_json: bool) -> int:
    async def read(queen: QueenClient) -> list[ForeignModel]:
        return await queen.foreign((await hive_of(queen, hive)).name)

    found = ask(read)
    if as_json:
        print_json({"models": found})
        return 0
    if not found:
        sys.stderr.write(
            "Nothing of Ollama's, LM Studio's or the hub cache's is there."
            " A file is taken in by its path: rbee model import /path/to/model.gguf\n"
        )
        return 0
    sys.stdout.write("\n".join(foreign(found, width=room())) + "\n")
    free = [one for one in found if not one.problem and one.known_as is None]
    if free:
        where = f" --hive {hive}" if hive else ""
        same = sum(one.name == free[0].name for one in found) > 1
        first = printable(free[0].path if same else free[0].name)
        sys.stderr.write(
            f"rbee model import {first}{where} takes one in, --all all of them;"
            " nothing is copied unless you add --copy\n"
        )
    return 0


def _tell_imported(
    done: Sequence[CatalogueEntry], failed: Sequence[tuple[str, RbeeError]], *, copy: bool
) -> None:
    for entry in done:
        how = "copied" if copy else "used where it lies" if entry.linked else "linked, not copied"
        _write(f"{entry.id}: {size(entry.size)}, {how}")
    for path, error in failed:
        sys.stderr.write(f"rbee: {printable(path)} was not taken in\n")
        print_error(error)
    if not done and not failed:
        sys.stderr.write("There is nothing that is not known already.\n")


def _confirmed(held: HeldModel, hive: str | None) -> bool:
    """Ask on the terminal."""
    where = hive or ", ".join(held.hives)
    linked = held.entry is not None and held.entry.linked
    what = "its files belong to others and stay" if linked else f"{size(held.model.size)}"
    sys.stderr.write(f"Delete {printable(held.model.id)} from {where} ({what})? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _check_path(path: str) -> None:
    try:
        path.encode()
    except UnicodeError:
        path = ""
    if not path.strip() or len(path) > 4096 or printable(path) != path:
        raise InvalidRequest(
            f"{printable(path)[:80]!r} is neither a path nor a name from the list",
            action="`rbee model import` shows what is there.",
        )


def _write(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()
