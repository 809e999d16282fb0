"""The Hugging Face hub, as the queen asks it: what there is, what to fetch, what it will need.

Owns turning a `hf:` reference into a DownloadOrder that holds no secret, and searches. Fetches no
weights. The token stays in this process: an order names public files by their plain addresses,
which need none. Of a gated or private repository the hub itself is asked, with the token, where
each file is: large files are answered with a redirect to a signed address (no token in it, good for
an hour or so), which goes into the order; small files come without a redirect, and go into the
order with all their content. An expired address makes the transfer fail, and a new order helps.

All methods block, for worker threads; every request has limits of time and size. huggingface_hub is
imported in them (130 ms).
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from rbee.errors import (
    BadGateway,
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    RbeeError,
)
from rbee.models import hub_files, refs, remote
from rbee.models.hub_files import Group, HubFile, Listing
from rbee.models.refs import HubRef
from rbee.protocol.hives import ModelInfo
from rbee.protocol.models import Choice, DownloadOrder, FoundModel, PlannedFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger("rbee.models")
MAX_RESULTS = 50
_PUBLIC = "https://huggingface.co"
_SECONDS = 20.0
_INLINE = 16 << 20
_MAX_FILES = 20_000
_MAX_SIZE = 1 << 44
_MAX_TEXT = 200
_TALK = "text-generation"
_EMBED = ("feature-extraction", "sentence-similarity")
T = TypeVar("T")
R = TypeVar("R")


def hub_cache_dir() -> Path:
    """Where huggingface_hub keeps what it has downloaded: HF_HUB_CACHE, HF_HOME or the default."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


class Hub:
    """`endpoint`, `token` and `cache` in place of HF_ENDPOINT, HF_TOKEN (or the token file) and
    HF_HUB_CACHE. May be used by several threads."""

    def __init__(
        self, endpoint: str | None = None, token: str | None = None, cache: Path | None = None
    ) -> None:
        told = endpoint or os.environ.get("HF_ENDPOINT") or _PUBLIC
        self.endpoint = told.rstrip("/")
        self._token = token
        self._cache = cache

    @property
    def cache(self) -> Path:
        """The hub cache of this user."""
        return self._cache or hub_cache_dir()

    def choices(self, ref: HubRef) -> list[Choice]:
        """What the repository has to fetch: GGUF files by size, then its safetensors.

        A model split over several files is listed (`files` > 1, `quant` set), but `order` refuses
        it. Raises as `order`.
        """
        listing, _ = self._listing(ref.repo, ref.revision)
        return _choices(listing)

    def order(self, ref: HubRef, asked: str) -> DownloadOrder:
        """What a hive is to fetch for a reference, pinned to the commit it has now.

        Raises ModelNotFound, ModelAmbiguous (`details.files`), ModelIncompatible, Forbidden,
        RateLimited (`details.retry_after`), ConnectionTimeout, Unavailable (offline), BadGateway.
        """
        listing, _ = self._listing(ref.repo, ref.revision)
        group = hub_files.pick(listing, ref)
        files = _each(group.files, lambda file: self._planned(listing, file))
        return DownloadOrder(
            ref=hub_files.pinned(listing, group),
            model_id=hub_files.id_of(listing, group),
            asked=asked,
            revision=listing.commit,
            format=group.format,
            files=files,
        )

    def look(self, order: DownloadOrder) -> ModelInfo:
        """The header of an ordered model, read before anything is fetched; see `remote.look`."""
        self._client()
        return remote.look(order)

    def repo(self, repo: str) -> FoundModel:
        """One repository with all it has to fetch. Raises as `order`, and InvalidRequest."""
        if not refs.is_repo(repo):
            raise InvalidRequest(
                f"{repo[:120]!r} is not a repository's name", action="Write it as ORG/NAME."
            )
        listing, told = self._listing(repo, None)
        return _found(listing, told)

    def search(self, text: str, limit: int = 10) -> list[FoundModel]:
        """Models to talk or to embed with whose name has `text`, the most downloaded first.

        GGUF and safetensors, `limit` 1 to 50. One that vanishes meanwhile is left out.
        """
        text = text.strip()
        if not 0 < len(text) <= _MAX_TEXT or not text.isprintable() or not 0 < limit <= MAX_RESULTS:
            raise InvalidRequest(
                f"a search has 1 to {_MAX_TEXT} printable characters and 1 to {MAX_RESULTS} results"
            )
        names = self._names(text, limit)
        found = _each(names, self._detailed)
        return [model for model in found if model is not None and model.choices]

    def _names(self, text: str, limit: int) -> list[str]:
        """Repositories that a search finds, the most downloaded first."""
        api = self._client()
        kinds: list[tuple[str, str | None]] = [
            ("gguf", None),
            *(("safetensors", task) for task in (_TALK, *_EMBED)),
        ]

        def ask(kind: tuple[str, str | None]) -> list[Any]:
            with self._translated(""):
                return list(
                    api.list_models(
                        search=text,
                        filter=kind[0],
                        pipeline_tag=kind[1],
                        sort="downloads",
                        limit=limit,
                    )
                )

        best: dict[str, int] = {}
        for told in [told for page in _each(kinds, ask) for told in page]:
            name, task = told.id, told.pipeline_tag
            if isinstance(name, str) and refs.is_repo(name) and task in (None, _TALK, *_EMBED):
                best[name] = _whole(told.downloads)
        return sorted(best, key=lambda name: (-best[name], name))[:limit]

    def _detailed(self, repo: str) -> FoundModel | None:
        try:
            return self.repo(repo)
        except (ModelNotFound, Forbidden, BadGateway) as exc:
            log.info("%s is left out of a search: %s", repo, exc.message)
            return None

    def _listing(self, repo: str, revision: str | None) -> tuple[Listing, Any]:
        """The repository's files, checked, and what the hub says of it."""
        api = self._client()
        try:
            with self._translated(repo):
                told = api.model_info(
                    repo, revision=revision, files_metadata=True, timeout=_SECONDS
                )
                return _listed(repo, told), told
        except ModelNotFound as exc:
            if exc.details.get("repo") and (near := self._near(repo)):
                raise ModelNotFound(
                    exc.message, action=f"Did you mean {' or '.join(near)}?", model=f"hf:{repo}"
                ) from exc
            raise

    def _near(self, repo: str) -> list[str]:
        """Names like one that is not there; none when the hub does not help."""
        org, _, name = repo.partition("/")
        known: list[str] = []
        start = "-".join(name.split("-")[:2])
        for author, words in ((org, None), (None, start)):
            try:
                with self._translated(""):
                    found = self._client().list_models(
                        author=author, search=words, sort="downloads", limit=100
                    )
                    known += [told.id for told in found if refs.is_repo(str(told.id))]
            except RbeeError:
                break
        return difflib.get_close_matches(repo, known, n=3, cutoff=0.6)

    def _planned(self, listing: Listing, file: HubFile) -> PlannedFile:
        """One file of an order; see the module's docstring for where its address comes from."""
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(listing.repo, file.name, revision=listing.commit, endpoint=self.endpoint)
        content: bytes | None = None
        if listing.restricted or file.size < 0 or _unsure(file):
            file, location = self._located(listing.repo, file, url)
            if listing.restricted:
                url, content = self._opened(file, url, location)
        return PlannedFile(
            name=file.name,
            size=file.size,
            sha256=file.sha256,
            git_sha1=file.git_sha1,
            url=url,
            content=content,
        )

    def _located(self, repo: str, file: HubFile, url: str) -> tuple[HubFile, str]:
        """The file with its size, and where the hub sends one who may read it."""
        from huggingface_hub import get_hf_file_metadata

        with self._translated(repo):
            told = get_hf_file_metadata(
                url, token=self._secret(), timeout=_SECONDS, endpoint=self.endpoint
            )
        size = file.size if file.size >= 0 else told.size
        if not isinstance(size, int) or not 0 <= size <= _MAX_SIZE:
            raise BadGateway(f"the hub does not tell the size of {file.name} of {repo}")
        sha256 = file.sha256 or _hex(told.etag, 64)
        git_sha1 = None if sha256 else file.git_sha1 or _hex(told.etag, 40)
        return file._replace(size=size, sha256=sha256, git_sha1=git_sha1), told.location

    def _opened(self, file: HubFile, url: str, location: str) -> tuple[str, bytes | None]:
        """The signed address of a restricted file, or all of it where there is no such address."""
        target = urlsplit(location)
        if (target.scheme, target.netloc) != urlsplit(url)[:2]:
            if target.scheme not in ("https", urlsplit(self.endpoint).scheme):
                raise BadGateway(f"the hub sends to {target.scheme!r} for {file.name}")
            return location, None
        if file.size > _INLINE:
            raise BadGateway(
                f"the hub gives {file.name} ({hub_files.amount(file.size)}) only to a token,"
                " and tokens are not handed on to other machines",
                action="Ask the hub's operator for signed downloads, or copy the file and"
                " name it as file:/absolute/path.",
            )
        return "", self._content(file, location)

    def _content(self, file: HubFile, url: str) -> bytes:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        with self._translated(""):
            reply = get_session().get(url, headers=build_hf_headers(token=self._secret()))
            hf_raise_for_status(reply)
            data = reply.content
        if len(data) != file.size:
            raise BadGateway(f"the hub sent {len(data)} of {file.size} bytes of {file.name}")
        return data

    def _client(self) -> HfApi:
        """The library's client with rbee's limits. Raises Unavailable when offline."""
        from huggingface_hub import HfApi, is_offline_mode

        from rbee.models import hub_http

        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(
                "the hub's address is none", action="Set HF_ENDPOINT to https://HOST, or unset it."
            )
        hub_http.install()
        if is_offline_mode():
            raise hub_http.offline()
        return HfApi(endpoint=self.endpoint, token=self._token, library_name="rbee")

    def _secret(self) -> str | bool:
        from huggingface_hub import get_token

        return self._token or get_token() or False

    def _translated(self, repo: str) -> Any:
        from rbee.models import hub_http

        return hub_http.translated(self.endpoint, repo)


def _listed(repo: str, told: Any) -> Listing:
    """A repository's listing with everything checked that the library takes as it comes."""
    siblings: list[Any] = told.siblings or []
    if _hex(told.sha, 40) is None or len(siblings) > _MAX_FILES:
        raise BadGateway(
            f"the hub lists {repo} in a way that is not the hub's",
            action="Check HF_ENDPOINT: it must be a Hugging Face hub or a mirror of it.",
        )
    files: dict[str, HubFile] = {}
    for sibling in siblings:
        lfs = sibling.lfs
        if not isinstance(sibling.rfilename, str):
            raise BadGateway(f"the hub lists a file of {repo} that has no name")
        files[sibling.rfilename] = HubFile(
            sibling.rfilename,
            _size(lfs.size if lfs else sibling.size),
            _hex(lfs.sha256, 64) if lfs else None,
            None if lfs else _hex(sibling.blob_id, 40),
        )
    restricted = bool(told.gated) or bool(told.private)
    return Listing(repo, told.sha, tuple(files.values()), restricted)


def _unsure(file: HubFile) -> bool:
    """Whether the listing does not say what the file hashes to: that of a mirror may leave it out,
    and the git hash of weights is then that of what stands in git for them."""
    if file.sha256 is not None:
        return False
    return file.git_sha1 is None or file.name.lower().endswith((".gguf", ".safetensors"))


def _choices(listing: Listing) -> list[Choice]:
    found = hub_files.groups(listing)
    return [
        Choice(
            ref=hub_files.ref_of(listing, group, found),
            quant=group.quant,
            size=group.size,
            files=len(group.files),
        )
        for group in found
    ]


def _found(listing: Listing, told: Any) -> FoundModel:
    groups: list[Group] = hub_files.groups(listing)
    task = told.pipeline_tag
    return FoundModel(
        repo=listing.repo,
        task=task[:80] if isinstance(task, str) else None,
        downloads=_whole(told.downloads),
        likes=_whole(told.likes),
        gated=bool(told.gated),
        updated_at=told.last_modified.timestamp()
        if isinstance(told.last_modified, datetime)
        else None,
        format="gguf" if any(group.format == "gguf" for group in groups) else "safetensors",
        parameters=_parameters(told),
        choices=_choices(listing),
    )


def _parameters(told: Any) -> int | None:
    for source in (told.safetensors, told.gguf):
        total = source.get("total") if isinstance(source, dict) else getattr(source, "total", None)
        if _whole(total):
            return _whole(total)
    return None


def _size(value: Any) -> int:
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SIZE
    return value if usable else -1


def _whole(value: Any) -> int:
    """A number that counts something; 0 for all else."""
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if usable else 0


def _hex(value: Any, length: int) -> str | None:
    told = value.lower() if isinstance(value, str) and len(value) == length else ""
    return told if told and not set(told) - set("0123456789abcdef") else None


def _each(items: Iterable[T], ask: Callable[[T], R]) -> list[R]:
    """Of all items, eight at a time; the first error ends it."""
    todo = list(items)
    if len(todo) == 1:
        return [ask(todo[0])]
    with ThreadPoolExecutor(8, thread_name_prefix="hub") as pool:
        waiting = [pool.submit(ask, item) for item in todo]
        try:
            return [future.result() for future in waiting]
        except RbeeError:
            pool.shutdown(cancel_futures=True)
            raise
