"""What is asked before something is done with models: where to, from where, whether at all.

Owns the questions and turns their answers into operations; carrying them out is the queen's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rbee.client import QueenClient
from rbee.errors import JobFinished, RbeeError
from rbee.output import size
from rbee.protocol.hives import HiveInfo, ModelInfo
from rbee.protocol.models import HeldModel, Spot
from rbee.protocol.operations import ModelCopy, ModelDelete, ModelDownload
from rbee.tui.carriage import Carriage
from rbee.tui.places import PlaceView
from rbee.tui.rows_models import fitting, without
from rbee.tui.screens.choosing import ANYWHERE, Chooser, Offer, ask_where
from rbee.tui.screens.dialogs import Choice, Confirm
from rbee.tui.screens.finding import Wanted

if TYPE_CHECKING:
    from rbee.tui.app import RbeeApp

NAMED = 8
"""Models that a question names."""


def start_somewhere(rbee: RbeeApp, model: ModelInfo) -> None:
    """Ask on which device, and start a worker there."""

    def placed(place: PlaceView | None) -> None:
        rbee.start_worker(
            model.id, hive=place.hive if place else None, device=place.device if place else None
        )

    ask_where(rbee, f"Start {model.id} where?", model, placed)


def ask_download(rbee: RbeeApp, wanted: Wanted) -> None:
    """Where to, if there is a choice; then fetch it."""
    hives = [hive for hive in rbee.store.hive_list() if hive.online]

    def chosen(name: str | None) -> None:
        if name is None:
            return
        where = f" to {name}" if name != ANYWHERE else ""
        operation = ModelDownload(model=wanted.ref, hive=name or None)
        rbee.submit(operation, f"fetching {wanted.ref}{where}")

    if len(hives) < 2:
        chosen(ANYWHERE)
        return
    best = "The queen chooses: where its first answer would come soonest."
    offers = [Offer(ANYWHERE, "where it runs best", best)]
    for hive in hives:
        good, words = _target(wanted, hive)
        sign = rbee.glyphs.done if good else rbee.glyphs.failed
        offers.append(Offer(hive.name, f"{sign} {hive.name}", words, good))
    rbee.push_screen(Chooser("Download to", offers), chosen)


def _target(wanted: Wanted, hive: HiveInfo) -> tuple[bool, str]:
    """Whether it would be of use there, and one sentence."""
    free = hive.disk_free
    disk = f"{size(free)} free on its disk" if free is not None else "its disk is not known"
    choice = wanted.choice
    if choice is None:
        return True, disk
    if hive.name in choice.here:
        return True, "it is there already"
    short = free is not None and free < choice.size
    fits = [name.partition(" ")[2] for name in choice.fits if name.split()[0] == hive.name]
    big = [name.partition(" ")[2] for name in choice.too_big if name.split()[0] == hive.name]
    if fits:
        words = f"would run on {', '.join(fits)}"
    else:
        words = f"too big for {', '.join(big)}" if big else "cannot run it"
    return bool(fits) and not short, f"{words}; {disk}{', too little' if short else ''}"


def ask_copy(rbee: RbeeApp, held: Sequence[HeldModel], done: Callable[[], None]) -> None:
    """Which machine, then copy them there. `done` is called when that was submitted."""
    everywhere = held[0].hives if len(held) == 1 else []
    targets = without(everywhere, rbee.store)
    targets = [name for name in targets if any(name not in one.hives for one in held)]
    if not targets:
        words = "No other machine is online. 2 Hives adds and wakes them."
        rbee.notify(words, severity="warning", timeout=8, markup=False)
        return

    async def ask() -> None:
        here = rbee.screen
        spots: list[Spot] | None = None
        if len(held) == 1:
            try:
                async with QueenClient(rbee.link.require().url) as client:
                    spots = await client.fits(held[0].model.id)
            except RbeeError as exc:
                rbee.toast(exc)
        there = [name for name in targets if name in rbee.store.hives]
        if rbee.screen is not here or not there:
            return  # somebody has gone on meanwhile, or the machines have
        offers = [_copy_offer(rbee, name, held, spots) for name in there]
        offers.sort(key=lambda offer: not offer.good)
        what = "it" if len(held) == 1 else f"{len(held)} models"
        choice = await rbee.push_screen_wait(Chooser(f"Copy {what} to", offers))
        if choice is None:
            return
        for one in held:
            if choice not in one.hives:
                operation = ModelCopy(model=one.model.id, to_hive=choice)
                rbee.submit(operation, f"copying {one.model.id} to {choice}")
        done()

    rbee.run_worker(ask(), exit_on_error=True)


def _copy_offer(
    rbee: RbeeApp, name: str, held: Sequence[HeldModel], spots: Sequence[Spot] | None
) -> Offer:
    hive = rbee.store.hives[name]
    missing = sum(one.model.size for one in held if name not in one.hives)
    free = hive.disk_free
    disk = f"{size(missing)} to copy, {size(free)} free on its disk" if free is not None else ""
    good, words = (free is None or free > missing), disk
    if spots is not None:
        good, told = fitting(spots, name)
        words = "; ".join(part for part in (told, disk) if part)
    return Offer(name, f"{rbee.glyphs.done if good else rbee.glyphs.failed} {name}", words, good)


def ask_delete(rbee: RbeeApp, held: Sequence[HeldModel], done: Callable[[], None]) -> None:
    """From which machines, with the sizes; the safe choice first. `done`: it was submitted."""
    online = {hive.name for hive in rbee.store.hives.values() if hive.online}
    places = [(one, hive) for one in held for hive in one.hives if hive in online]
    if not places:
        words = "No machine that has it is online."
        rbee.notify(words, severity="warning", timeout=8, markup=False)
        return
    hives = list(dict.fromkeys(hive for _, hive in places))
    one = len(held) == 1
    choices = [Choice("k", "keep it" if one else "keep them", "keep")]
    if len(hives) == 1:
        choices.append(Choice("d", f"delete from {hives[0]}: {_freed(places)}", "all"))
    else:
        for number, hive in enumerate(hives[:9], 1):
            there = [place for place in places if place[1] == hive]
            choices.append(Choice(str(number), f"from {hive}: {_freed(there)}", hive))
        choices.append(Choice("a", f"from all {len(hives)} machines: {_freed(places)}", "all"))

    def answered(choice: str | None) -> None:
        if choice in (None, "keep"):
            return
        for model, hive in places:
            if choice in ("all", hive):
                operation = ModelDelete(model=model.model.id, hive=hive)
                rbee.submit(operation, f"deleting {model.model.id} from {hive}")
        done()

    title = "Delete the model?" if one else f"Delete {len(held)} models?"
    rbee.push_screen(Confirm(title, _about(rbee, held), choices), answered)


def _freed(places: Sequence[tuple[HeldModel, str]]) -> str:
    """What deleting would give back."""
    own = [one for one, _ in places if one.entry is None or not one.entry.linked]
    if not own:
        return "nothing is freed"
    return f"{size(sum(one.model.size for one in own))} freed"


def _about(rbee: RbeeApp, held: Sequence[HeldModel]) -> str:
    names = ", ".join(one.model.id for one in held[:NAMED])
    more = f" and {len(held) - NAMED} more" if len(held) > NAMED else ""
    out = [f"{names}{more}."]
    ids = {one.model.id for one in held}
    loaded = [worker.worker_id for worker in rbee.store.worker_list() if worker.model in ids]
    if loaded:
        out.append(f"Loaded now by {', '.join(loaded[:NAMED])}.")
    linked = [one for one in held if one.entry is not None and one.entry.linked]
    if linked:
        whose = "Its files belong" if len(held) == 1 else "Some files belong"
        out.append(f"{whose} to another program or to you, and stay.")
    return " ".join(out)


def ask_cancel(rbee: RbeeApp, one: Carriage) -> None:
    """Ask, then cancel what is done with a model; whatever has come is kept."""
    jobs = ", ".join(one.jobs)
    if one.verb in ("verify", "delete"):
        question = f"{one.verb} {one.model} ({jobs})."
    else:
        question = f"{one.verb} of {one.model} to {one.hive or 'a machine'} ({jobs})."
        if one.own:
            question += " What has come is kept and is not fetched again."
        else:
            question += f" It serves {jobs}, and ends when that is cancelled."
    choices = [Choice("k", "let it go on", "keep"), Choice("c", "cancel it", "cancel")]

    async def cancel() -> None:
        for job in one.jobs:
            try:
                await rbee.link.require().cancel(job)
            except JobFinished:
                rbee.notify(f"{job} has ended already", timeout=3, markup=False)
            except RbeeError as exc:
                rbee.toast(exc)

    def answered(choice: str | None) -> None:
        if choice == "cancel":
            rbee.run_worker(cancel(), exit_on_error=True)

    rbee.push_screen(Confirm("Cancel?", question, choices), answered)
