"""A download in Ollama's words: lines with what is there and what there is to be.

Format: https://github.com/ollama/ollama/blob/main/docs/api.md#pull-a-model. The download is a job
like any other; who leaves cancels it, and what was fetched is gone on with when it is asked for
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rbee.daemons.queen.ollama_replies import error_body, line
from rbee.daemons.queen.openai_replies import Run, failure_of
from rbee.errors import InternalError, ShuttingDown
from rbee.protocol.jobs import EventType, StatusData

if TYPE_CHECKING:
    from rbee.daemons.queen.queen import Queen

SUCCESS = {"status": "success"}


class PullLines:
    """See `answer_stream.Telling`."""

    def __init__(self, queen: Queen, run: Run) -> None:
        self.runs: Sequence[Run] = [run]
        self._queen = queen
        self._run = run
        self._verified = False

    def opening(self) -> bytes:
        """See Telling."""
        return line({"status": "pulling manifest"})

    def told(self, index: int, events: Sequence[tuple[str, bytes]]) -> bytes:
        """See Telling."""
        return b"".join([self._status(data) for kind, data in events if kind == EventType.STATUS])

    def failure(self, index: int) -> bytes:
        """See Telling."""
        error = failure_of(self._run.stream) or InternalError("the stream ended")
        return line(error_body(error))

    def closing(self) -> bytes:
        """See Telling."""
        if not self._run.stream.ended:
            return line(error_body(ShuttingDown("the queen is shutting down")))
        return line({"status": "writing manifest"}) + line(SUCCESS)

    def silence(self) -> bytes:
        """How it stands."""
        return line(self._progress() or {"status": "waiting"})

    def _status(self, data: bytes) -> bytes:
        status = msgspec.json.decode(data, type=StatusData)
        if status.stage == "verifying":
            before, self._verified = self._verified, True
            return b"" if before else line({"status": "verifying sha256 digest"})
        return line(self._progress() or {"status": status.message})

    def _progress(self) -> dict[str, Any] | None:
        """Of the transfer that the job waits for: bytes. Its id stands for the digest of the one
        layer that a model is here."""
        job_id = self._run.job.job_id
        for info in self._queen.catalog.transfers.infos():
            if job_id in info.jobs:
                return {
                    "status": f"pulling {info.model_id}",
                    "digest": info.download_id,
                    "total": info.bytes_total,
                    "completed": info.bytes_done,
                }
        return None
