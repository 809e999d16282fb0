"""Which files of a hub repository are models, and which of them is meant.

Owns the choice: quantisations told by names, parts of split files counted as one, what belongs to a
safetensors model, and the order that is tried when nothing is named. Pure; the listing comes from
the hub and is believed only as far as it was checked. Pickled weights are never chosen.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NamedTuple

from rbee.errors import (
    BadGateway,
    InvalidRequest,
    ModelAmbiguous,
    ModelIncompatible,
    ModelNotFound,
    ValidationFailed,
)
from rbee.models import transfer_names
from rbee.models.refs import HubRef

PREFERRED = ("Q4_K_M", "Q5_K_M", "Q4_0", "Q5_0", "Q8_0", "F16")
"""Tried in this order where a reference names no quantisation."""
SAFETENSORS = "safetensors"
"""Stands where a quantisation would: all of the repository's safetensors."""
_QUANT = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q[1-9](?:_[A-Z0-9]+)*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4"
    r"|BF16|F(?:P)?(?:16|32)))$",
    re.IGNORECASE,
)
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_BESIDE = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_WITH_SAFETENSORS = frozenset(
    {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
        *("vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "modules.json"),
        *("chat_template.jinja", "chat_template.json", "sentence_bert_config.json"),
        *("config_sentence_transformers.json", "1_Pooling/config.json"),
    }
)
_SHOWN = 12


class HubFile(NamedTuple):
    """A file as the hub lists it; -1: its size was not told."""

    name: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True)
class Listing:
    """The files of one repository at one commit."""

    repo: str
    commit: str
    files: tuple[HubFile, ...]
    restricted: bool = False
    """Only somebody with a token may read them."""


class Group(NamedTuple):
    """What is fetched together. `quant` None: the name does not tell."""

    format: str
    quant: str | None
    files: tuple[HubFile, ...]
    split: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files, as far as they are told."""
        return sum(max(0, file.size) for file in self.files)


def quant_of(name: str) -> str | None:
    """The quantisation a file's name ends in, in capitals: `m-q4_k_m.gguf` → `Q4_K_M`."""
    stem = name[: -len(".gguf")] if name.lower().endswith(".gguf") else name
    part = _PART.fullmatch(stem)
    match = _QUANT.search(part["stem"] if part else stem)
    return _plain(match[1]) if match else None


def groups(listing: Listing) -> list[Group]:
    """Everything of the repository that can be fetched, the smallest GGUF first.

    Raises BadGateway for a listing with a weights file whose name leads out of its folder.
    """
    ggufs, parts = list[Group](), dict[str, list[HubFile]]()
    for file in listing.files:
        if not file.name.lower().endswith(".gguf") or _BESIDE.search(file.name):
            continue
        _check(listing, file)
        part = _PART.fullmatch(file.name[: -len(".gguf")])
        if part is None:
            ggufs.append(Group("gguf", quant_of(file.name), (file,)))
        else:
            parts.setdefault(f"{part['stem']} {part['count']}", []).append(file)
    for files in parts.values():
        quant = quant_of(files[0].name)
        ggufs.append(
            Group("gguf", quant, tuple(sorted(files, key=lambda file: file.name)), split=True)
        )
    ggufs.sort(key=lambda group: (group.size, group.files[0].name))
    return ggufs + _safetensors(listing)


def pick(listing: Listing, ref: HubRef) -> Group:
    """The one a reference means.

    Raises ModelNotFound, ModelAmbiguous (`details.files`), ModelIncompatible, InvalidRequest.
    """
    found = groups(listing)
    if ref.file is not None:
        return _loadable(listing, _by_file(listing, found, ref.file))
    if ref.quant is not None:
        return _by_quant(listing, found, ref.quant)
    single = [group for group in found if group.format == "gguf" and not group.split]
    for quant in PREFERRED:
        if same := [group for group in single if group.quant == quant]:
            return _only(listing, same)
    if single:
        return _only(listing, single)
    if not found:
        raise ModelIncompatible(
            f"{listing.repo} has neither GGUF nor safetensors files; other weights can hold"
            " programs and are never fetched",
            action=f"Look for a GGUF version: rbee model search {listing.repo.partition('/')[2]}",
        )
    return _loadable(listing, next((g for g in found if g.format != "gguf"), found[0]))


def ref_of(listing: Listing, group: Group, among: list[Group]) -> str:
    """How to ask for one of the groups so that no other is meant."""
    repo = listing.repo
    if group.format != "gguf":
        return f"hf:{repo}:{SAFETENSORS}" if len(among) > 1 else f"hf:{repo}"
    alike = [g for g in among if g.quant == group.quant and g.split <= group.split]
    if group.quant is not None and len(alike) == 1:
        return f"hf:{repo}:{group.quant}"
    return f"hf:{repo}@{listing.commit}::{group.files[0].name}"


def pinned(listing: Listing, group: Group) -> str:
    """The reference to exactly these bytes."""
    ref = f"hf:{listing.repo}@{listing.commit}"
    return f"{ref}::{group.files[0].name}" if group.format == "gguf" else ref


def id_of(listing: Listing, group: Group) -> str:
    """What the model is called: `org/repo:QUANT`, `org/repo` for safetensors."""
    if group.format != "gguf":
        return listing.repo
    stem = group.files[0].name.rpartition("/")[2][: -len(".gguf")]
    return f"{listing.repo}:{group.quant or stem}"


def amount(size: int) -> str:
    """Bytes for people."""
    if size >= 1 << 30:
        return f"{size / (1 << 30):.1f} GiB"
    return f"{size / (1 << 20):.0f} MiB" if size >= 1 << 20 else f"{size} bytes"


def _plain(quant: str) -> str:
    return re.sub(r"^FP(?=\d)", "F", quant.upper())


def _safetensors(listing: Listing) -> list[Group]:
    names = {file.name: file for file in listing.files}
    shards = [file for file in listing.files if _SHARD.fullmatch(file.name)]
    if INDEX in names and shards:
        weights = [names[INDEX], *shards]
    elif SINGLE in names:
        weights = [names[SINGLE]]
    else:
        return []
    beside = [file for file in listing.files if file.name in _WITH_SAFETENSORS]
    return [Group("safetensors", None, (*weights, *beside))]


def _by_file(listing: Listing, found: list[Group], name: str) -> Group:
    for group in found:
        if group.format == "gguf" and any(file.name == name for file in group.files):
            return group
    names = [file.name for group in found if group.format == "gguf" for file in group.files]
    if any(file.name == name for file in listing.files):
        raise InvalidRequest(
            f"{name} is no GGUF model; of single files only those can be fetched",
            action=f"Name one of {', '.join(names[:_SHOWN])}."
            if names
            else f"Leave the file out: hf:{listing.repo}",
        )
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:_SHOWN]
    raise ModelNotFound(
        f"{listing.repo} has no file {name} at {listing.commit[:12]}",
        action=f"Did you mean {' or '.join(near)}?" if near else "Look at the repository's files.",
        model=f"hf:{listing.repo}",
    )


def _by_quant(listing: Listing, found: list[Group], named: str) -> Group:
    wanted = _plain(named)
    if wanted == SAFETENSORS.upper():
        same = [group for group in found if group.format != "gguf"]
    else:
        same = [g for g in found if g.format == "gguf" and g.quant == wanted]
    if same:
        single = [group for group in same if not group.split]
        return _only(listing, single) if single else _loadable(listing, same[0])
    have = list(
        dict.fromkeys(g.quant or SAFETENSORS for g in found if g.quant or g.format != "gguf")
    )
    raise ModelNotFound(
        f"{listing.repo} has no {named}",
        action=f"It has {', '.join(have)}: write hf:{listing.repo}:{have[0]}"
        if have
        else f"Leave it out: hf:{listing.repo}",
        model=f"hf:{listing.repo}",
    )


def _only(listing: Listing, same: list[Group]) -> Group:
    if len(same) == 1:
        return same[0]
    told = [f"{g.files[0].name} ({amount(g.size)})" for g in same]
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    first = f"hf:{listing.repo}@{listing.commit[:12]}::{same[0].files[0].name}"
    raise ModelAmbiguous(
        f"hf:{listing.repo} has several files that could be meant:"
        f" {', '.join(told[:_SHOWN])}{more}",
        action=f"Name one: hf:{listing.repo}:{same[0].quant}"
        if len({g.quant for g in same}) == len(same) and same[0].quant
        else f"Name one: {first}",
        files=[
            {"name": g.files[0].name, "size": g.size, "ref": ref_of(listing, g, same)}
            for g in same[:100]
        ],
    )


def _loadable(listing: Listing, group: Group) -> Group:
    if group.split:
        raise ModelIncompatible(
            f"{listing.repo} keeps {group.quant or group.files[0].name} in {len(group.files)} parts"
            f" ({amount(group.size)}), and this version loads single GGUF files",
            action="Choose a quantisation in one file; `rbee model search"
            f" {listing.repo.partition('/')[2]}` shows those of other repositories.",
        )
    return group


def _check(listing: Listing, file: HubFile) -> None:
    try:
        transfer_names.check_name(file.name)
    except ValidationFailed as exc:
        raise BadGateway(
            f"the hub lists a file of {listing.repo} that may not be fetched: {exc.message}",
            action="Choose another repository; this one is made to do harm, or it is damaged.",
        ) from exc
    hidden = any(part.startswith(".") for part in file.name.split("/"))
    if hidden or ":" in file.name or len(file.name) > 512:
        raise BadGateway(
            f"the hub lists a model of {listing.repo} under the name {file.name[:80]!r},"
            " which no model has",
            action="Choose another repository.",
        )
