"""How huggingface_hub speaks to the hub on rbee's behalf: with limits, and in rbee's errors.

Owns the HTTP client that huggingface_hub uses in this process, and what its answers and exceptions
mean here. The library sets no limit of time or size of its own on metadata; this client does, on
every request. Only the queen's process imports this (130 ms for the library); it runs in threads.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import huggingface_hub
from huggingface_hub import errors as hf

from rbee.errors import (
    BadGateway,
    ConnectionTimeout,
    Forbidden,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    RbeeError,
    Unavailable,
)

LIMITS = {"connect": 5.0, "read": 15.0, "write": 10.0, "pool": 10.0}
"""Seconds; `read` between two pieces of an answer."""
_TOTAL = 45.0
_MAX_BODY = 24 << 20
_RESET = re.compile(r"\bt=(\d{1,6})\b")
_installing = threading.Lock()
_installed: list[bool] = []


def install() -> None:
    """Have huggingface_hub use this client from now on in this process. Cheap when it does."""
    with _installing:
        if not _installed:
            logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs signed addresses
            huggingface_hub.set_client_factory(_Client)
            _installed.append(True)


def place(url: str) -> str:
    """Scheme, host and port of an address, without a name, password or query in it."""
    parts = urlsplit(url)
    host = parts.hostname or "?"
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://[{host}]{port}" if ":" in host else f"{parts.scheme}://{host}{port}"


def retry_after(headers: Any) -> int:
    """Seconds to wait, of a 429's headers: 1 to 3600.

    `RateLimit: …;t=SECONDS` is draft-ietf-httpapi-ratelimit-headers, as the hub sends it.
    """
    told = str(headers.get("retry-after", "")).strip()
    match = _RESET.search(str(headers.get("ratelimit", "")))
    seconds = int(told[:6]) if told.isdecimal() and told.isascii() else 0
    return min(3600, max(1, seconds or (int(match[1]) if match else 60)))


@contextmanager
def translated(endpoint: str, repo: str) -> Generator[None]:
    """huggingface_hub's exceptions as rbee's. `repo` is what is being asked about, or ""."""
    try:
        yield
    except RbeeError:
        raise
    except hf.OfflineModeIsEnabled as exc:
        raise offline() from exc
    except hf.GatedRepoError as exc:
        raise gated(endpoint, repo, known=exc.response.status_code == 403) from exc
    except hf.DisabledRepoError as exc:
        raise Forbidden(
            f"the hub has closed {repo}", action="Choose another repository.", repo=repo
        ) from exc
    except hf.RevisionNotFoundError as exc:
        raise ModelNotFound(
            f"{repo} has no such revision",
            action=f"Leave it out, or look at {place(endpoint)}/{repo}",
            model=f"hf:{repo}",
        ) from exc
    except hf.EntryNotFoundError as exc:
        raise ModelNotFound(
            f"a file of {repo} is not on the hub any more",
            action="Ask again: the repository has just been changed.",
            model=f"hf:{repo}",
        ) from exc
    except hf.RepositoryNotFoundError as exc:
        raise missing(endpoint, repo) from exc
    except hf.HFValidationError as exc:
        raise InvalidRequest(f"{repo!r} is not a repository's name") from exc
    except hf.HfHubHTTPError as exc:
        raise _by_status(endpoint, repo, exc) from exc
    except httpx2.InvalidURL as exc:
        raise InvalidRequest(
            "the hub's address is none", action="Set HF_ENDPOINT to https://HOST, or unset it."
        ) from exc
    except PermissionError as exc:
        raise Forbidden(
            "the hub's token file cannot be read", action="Make it yours, or set HF_TOKEN."
        ) from exc
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError) as exc:
        raise BadGateway(
            f"{place(endpoint)} answered in a way that is not the hub's ({type(exc).__name__})",
            action="Check HF_ENDPOINT: it must be a Hugging Face hub or a mirror of it.",
            endpoint=place(endpoint),
        ) from exc


def offline() -> Unavailable:
    """The error while the user has forbidden the network."""
    return Unavailable(
        "the hub may not be asked: HF_HUB_OFFLINE is set where the queen runs",
        action="Unset HF_HUB_OFFLINE and start the queen again, or use a model that is here:"
        " rbee model list",
    )


def gated(endpoint: str, repo: str, *, known: bool) -> Forbidden:
    """Of a repository whose terms must be accepted first. `known`: the hub knows who is asking."""
    page = f"{place(endpoint)}/{repo}"
    said = "the account of your token has not accepted them" if known else "it wants a token"
    return Forbidden(
        f"{repo} is given out under terms of its own, and {said}",
        action=f"Accept the terms at {page}, then set HF_TOKEN to a token of that account"
        " (or run `hf auth login`) where the queen runs, and start the queen again.",
        repo=repo,
        page=page,
    )


def missing(endpoint: str, repo: str) -> ModelNotFound:
    """Of a repository that is not there, or is hidden from whoever asks."""
    return ModelNotFound(
        f"there is no model {repo} on {place(endpoint)}, or it is private",
        action="Check the name; `rbee model search` looks for one. For a private one set HF_TOKEN"
        " where the queen runs.",
        model=f"hf:{repo}",
        repo=repo,
    )


def _by_status(endpoint: str, repo: str, exc: hf.HfHubHTTPError) -> RbeeError:
    status = exc.response.status_code
    said = str(exc.response.headers.get("x-error-message", ""))
    if status == 401 and said.startswith("Invalid credentials"):
        return Forbidden(
            f"{place(endpoint)} does not accept the token in HF_TOKEN or the token file",
            action=f"Make a new one at {place(endpoint)}/settings/tokens, or unset HF_TOKEN:"
            " public models need none.",
        )
    if status in (401, 404) and repo:
        return missing(endpoint, repo)
    if status == 403:
        return Forbidden(
            f"{place(endpoint)} does not let this token read {repo or 'that'}",
            action=f"Look at {place(endpoint)}/{repo} and give the token the right to read it.",
            repo=repo,
        )
    return BadGateway(
        f"{place(endpoint)} answered with status {status}",
        action=_AGAIN,
        endpoint=place(endpoint),
    )


class _Client(httpx2.Client):
    """Proxies and certificates as huggingface_hub's own; limits on every request."""

    def __init__(self) -> None:
        super().__init__(
            event_hooks={"request": [_prepare], "response": [_receive]},
            follow_redirects=True,
            timeout=httpx2.Timeout(**LIMITS),
        )

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """As its parent; whatever goes wrong with the connection is an RbeeError."""
        where = place(str(request.url))
        try:
            return super().send(request, **options)
        except httpx2.TimeoutException as exc:
            raise ConnectionTimeout(
                f"{where} did not answer in {LIMITS['read']:.0f} s",
                action=_REACH,
                endpoint=where,
            ) from exc
        except (httpx2.DecodingError, httpx2.TooManyRedirects, httpx2.ProtocolError) as exc:
            raise BadGateway(
                f"{where} broke off or answered what is no HTTP ({type(exc).__name__})",
                action=_AGAIN,
                endpoint=where,
            ) from exc
        except httpx2.TransportError as exc:
            raise ConnectionTimeout(
                f"{where} cannot be reached: {str(exc)[:200] or type(exc).__name__}",
                action=_REACH,
                endpoint=where,
            ) from exc


_AGAIN = "Try again in a minute; check HF_ENDPOINT if it is set."
_REACH = "Check the network, HTTPS_PROXY and HF_ENDPOINT where the queen runs, and try again."


class _Limited(httpx2.SyncByteStream):
    """An answer's bytes, up to a size and a time."""

    def __init__(self, stream: Any, where: str) -> None:
        self._stream, self._where = stream, where
        self._end = time.monotonic() + _TOTAL

    def __iter__(self) -> Iterator[bytes]:
        got = 0
        for piece in self._stream:
            got += len(piece)
            if got > _MAX_BODY:
                raise BadGateway(
                    f"{self._where} sent more than {_MAX_BODY >> 20} MiB for one answer",
                    action=_AGAIN,
                    endpoint=self._where,
                )
            if time.monotonic() > self._end:
                raise ConnectionTimeout(
                    f"{self._where} was not done with its answer after {_TOTAL:.0f} s",
                    action=_REACH,
                    endpoint=self._where,
                )
            yield piece

    def close(self) -> None:
        self._stream.close()


def _prepare(request: httpx2.Request) -> None:
    if huggingface_hub.is_offline_mode():
        raise offline()
    request.headers["Accept-Encoding"] = "identity"  # else a small answer could unpack to any size
    told: Any = request.extensions.get("timeout") or {}
    asked = {key: told[key] for key in LIMITS if told.get(key)}
    request.extensions["timeout"] = {**LIMITS, **asked}


def _receive(response: httpx2.Response) -> None:
    where = place(str(response.request.url))
    if response.status_code == 429:
        seconds = retry_after(response.headers)
        raise RateLimited(
            f"{where} wants no more requests for {seconds} s",
            action=f"Wait {seconds} s and try again; with HF_TOKEN set the hub allows more.",
            retry_after=seconds,
        )
    if response.status_code >= 500:
        raise BadGateway(
            f"{where} is in trouble: status {response.status_code}",
            action="Try again in a minute.",
            endpoint=where,
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadGateway(
            f"{where} sent a packed answer where a plain one was asked for",
            action=_AGAIN,
            endpoint=where,
        )
    response.stream = _Limited(response.stream, where)
