"""Every error rbee shows to a person or sends over a wire, as one tree.

    RbeeError
    ├── InvalidRequest 400 ─┬─ ValidationFailed (field, constraint)
    │                       ├─ ContextLengthExceeded
    │                       └─ MethodNotAllowed 405
    ├── MissingApiKey 401, InvalidApiKey 401
    ├── Forbidden 403 ─┬─ LoginRefused
    │                  ├─ HostKeyUnknown
    │                  ├─ HostKeyChanged
    │                  └─ HostKeyRevoked
    ├── NotFound 404 ─┬─ ModelNotFound
    │                 └─ HiveNotFound
    ├── DeadlineUnmet 408
    ├── Conflict 409 ─┬─ JobFinished
    │                 ├─ HiveExists
    │                 ├─ WorkerAlreadyRegistered
    │                 └─ VersionMismatch
    ├── PayloadTooLarge 413
    ├── ModelCorrupted 422, ModelIncompatible 422, ModelAmbiguous 422
    ├── QueueFull 429, RateLimited 429
    ├── Cancelled 499
    ├── InternalError 500 ─┬─ WorkerCrashed
    │                      ├─ WorkerLost
    │                      └─ ModelLoadFailed
    ├── BadGateway 502 ─┬─ ConnectionFailed
    │                   └─ RemoteCommandFailed ── InstallFailed
    ├── DownloadFailed 502
    ├── Unavailable 503 ─┬─ AllSlotsBusy
    │                    ├─ CircuitBreakerOpen
    │                    ├─ NoWorkers
    │                    ├─ HiveOffline
    │                    ├─ WorkerNotReady
    │                    ├─ BackendUnavailable
    │                    ├─ DeviceFailed
    │                    └─ ShuttingDown
    ├── TimedOut 504 ─┬─ InferenceTimeout
    │                 ├─ WorkerStuck
    │                 ├─ LoadingTimeout
    │                 └─ ConnectionTimeout
    ├── Insufficient 507 ─┬─ InsufficientRam
    │                     ├─ InsufficientVram
    │                     └─ InsufficientDisk
    └── Local (never on a wire) ─┬─ SettingsError
                                 ├─ BindRefused
                                 ├─ PortTaken
                                 ├─ QueenRunning
                                 └─ QueenUnreachable

Each class fixes a code, an HTTP status and the exit code of the command line. Each instance carries
a message that names what happened, with amounts, and a `suggested_action`: what to do next.
This module imports nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar


class RbeeError(Exception):
    """Base of all errors; `details["suggested_action"]` is always present on the wire."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = "Look at `rbee queen logs` and try again."

    def __init__(self, message: str, *, action: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = {"suggested_action": action or self.hint, **details}

    @property
    def action(self) -> str:
        """What the user can do next, one sentence."""
        return str(self.details["suggested_action"])

    def body(self) -> dict[str, Any]:
        """The wire form: `{"error": {code, message, details}}`."""
        return {"error": {"code": self.code, "message": self.message, "details": self.details}}

    @staticmethod
    def from_body(body: Any, status: int = 500) -> RbeeError:
        """Rebuild the error a daemon sent; an unknown code or shape becomes a plain RbeeError."""
        raw: Any = body.get("error") if isinstance(body, dict) else None
        if not isinstance(raw, dict):
            return BadGateway(f"unexpected reply with status {status}")
        cls = BY_CODE.get(str(raw.get("code")), RbeeError)
        told: Any = raw.get("details")
        details: dict[str, Any] = dict(told) if isinstance(told, dict) else {}
        error = cls(
            str(raw.get("message") or raw.get("code")), action=details.pop("suggested_action", None)
        )
        error.details.update(details)
        return error


class InvalidRequest(RbeeError):
    """The request cannot be understood."""

    code = "INVALID_REQUEST"
    status = 400
    exit_code = 2
    hint = "Correct the request and send it again."


class MethodNotAllowed(InvalidRequest):
    """There is such a path, but it cannot be asked this way (`details.allow`)."""

    code = "METHOD_NOT_ALLOWED"
    status = 405
    hint = "Use one of the methods it has: the header Allow names them."


class ValidationFailed(InvalidRequest):
    """One named field breaks a named constraint (`details.field`, `details.constraint`)."""

    code = "VALIDATION_ERROR"


class ContextLengthExceeded(InvalidRequest):
    """Prompt plus answer exceed the context (`details.required`, `details.available` tokens)."""

    code = "CONTEXT_LENGTH_EXCEEDED"
    exit_code = 1
    hint = "Shorten the prompt, ask for fewer tokens, or raise `worker.ctx` in the settings."


class MissingApiKey(RbeeError):
    """No key was sent where one is needed."""

    code = "MISSING_API_KEY"
    status = 401
    hint = "Send the key as `Authorization: Bearer …`."


class InvalidApiKey(MissingApiKey):
    """The key that was sent is not known."""

    code = "INVALID_API_KEY"


class Forbidden(RbeeError):
    """The caller may not do this (foreign Host or Origin, missing rights)."""

    code = "FORBIDDEN"
    status = 403
    hint = "Call from this machine, or allow the origin in `queen.allowed_origins`."


class LoginRefused(Forbidden):
    """The machine accepts none of our keys (`details.methods`: what it would accept instead)."""

    code = "LOGIN_REFUSED"
    exit_code = 255
    hint = "Put your public key there: ssh-copy-id USER@HOST."


class HostKeyUnknown(Forbidden):
    """The machine's host key was never seen (`details.fingerprint`, `details.key_type`)."""

    code = "HOST_KEY_UNKNOWN"
    exit_code = 255
    hint = "Compare the fingerprint with the machine's own, then accept it."


class HostKeyChanged(Forbidden):
    """Another host key than known (`details.fingerprint`, `known`, `file`, `line`)."""

    code = "HOST_KEY_CHANGED"
    exit_code = 255
    hint = "If the machine was installed anew, remove the old key's line; else somebody is between."


class HostKeyRevoked(Forbidden):
    """The machine shows a host key that a known_hosts file calls revoked."""

    code = "HOST_KEY_REVOKED"
    exit_code = 255
    hint = "Give the machine a new host key; a revoked one may be in a stranger's hands."


class NotFound(RbeeError):
    """No object with that id or at that path."""

    code = "NOT_FOUND"
    status = 404
    hint = "Check the id; `rbee job list` and `rbee worker list` show what there is."


class ModelNotFound(NotFound):
    """No machine of the colony has the model and it cannot be fetched."""

    code = "MODEL_NOT_FOUND"
    hint = "`rbee model list` shows the models this colony has."


class HiveNotFound(NotFound):
    """No hive of that name was added (`details.hive`, `details.known`)."""

    code = "HIVE_NOT_FOUND"
    hint = "Add it: rbee hive add NAME USER@HOST."

    @classmethod
    def of(cls, name: str, known: Iterable[str]) -> HiveNotFound:
        """The one for a name, with the command that adds it and the names there are."""
        names = list(known)
        told = ", ".join(names) or "none"
        if name in names:
            return cls(
                f"{name} was not added with `rbee hive add`: it is the queen's own machine, or one"
                " whose hive joined by itself",
                action="`rbee hive list` shows how each is reached; the queen's own comes and goes"
                " with her.",
                hive=name,
                known=names,
            )
        return cls(
            f"no hive named {name[:80]!r} was added (known: {told})",
            action=f"Add it: rbee hive add {name[:80]} USER@HOST."
            f" Or use one that is there: {told}.",
            hive=name[:80],
            known=names,
        )


class DeadlineUnmet(RbeeError):
    """The caller's deadline passed before work began."""

    code = "DEADLINE_UNMET"
    status = 408
    exit_code = 124
    hint = "Allow more time, or try again when the queue is shorter."


class Conflict(RbeeError):
    """The object's state does not allow the operation."""

    code = "CONFLICT"
    status = 409


class JobFinished(Conflict):
    """The job has already ended."""

    code = "JOB_FINISHED"
    hint = "Nothing to do: the job has ended; its stream can still be read."


class HiveExists(Conflict):
    """Another hive has that name."""

    code = "HIVE_EXISTS"
    hint = "Choose another name."


class WorkerAlreadyRegistered(Conflict):
    """A second worker reported with an id that is taken."""

    code = "WORKER_ALREADY_REGISTERED"


class VersionMismatch(Conflict):
    """Two parts of the colony run different versions."""

    code = "VERSION_MISMATCH"
    hint = "Stop the older one and start it again from the same installation."


class PayloadTooLarge(RbeeError):
    """The body is above the route's limit (`details.limit`, bytes)."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413
    exit_code = 2
    hint = "Send a smaller body."


class ModelCorrupted(RbeeError):
    """The model file is not what its header promises."""

    code = "MODEL_CORRUPTED"
    status = 422
    hint = "Get the file again; its content does not match its header."


class ModelIncompatible(RbeeError):
    """No installed backend runs this kind of model."""

    code = "MODEL_INCOMPATIBLE"
    status = 422
    hint = "Choose a model in a format that an installed backend runs (GGUF for llamacpp)."


class ModelAmbiguous(RbeeError):
    """The reference names several files (`details.files`)."""

    code = "MODEL_AMBIGUOUS"
    status = 422
    hint = "Name one of the listed files."


class QueueFull(RbeeError):
    """The queue is at its capacity."""

    code = "QUEUE_FULL"
    status = 429
    hint = "Wait and send the request again."


class RateLimited(RbeeError):
    """Somebody asked too often (`details.retry_after`, seconds)."""

    code = "RATE_LIMITED"
    status = 429
    hint = "Wait and try again."


class Cancelled(RbeeError):
    """The job was cancelled by somebody."""

    code = "CANCELLED"
    status = 499
    exit_code = 130
    hint = "Send the request again if it was not you who cancelled it."


class InternalError(RbeeError):
    """A defect of rbee's own."""

    code = "INTERNAL_ERROR"


class WorkerCrashed(InternalError):
    """The worker process died while it had the job."""

    code = "WORKER_CRASHED"
    hint = (
        "Send the request again: a fresh worker is started. `rbee worker list` shows its log file."
    )


class WorkerLost(InternalError):
    """The job was running when the queen went away, and could not be carried on."""

    code = "WORKER_LOST"
    hint = "Send the request again."


class ModelLoadFailed(InternalError):
    """The backend refused the model; the reason is in the message."""

    code = "MODEL_LOAD_FAILED"
    hint = "Read the worker's log; try another file, a smaller `worker.ctx` or another device."


class BadGateway(RbeeError):
    """Somebody answered, but not in rbee's language."""

    code = "BAD_GATEWAY"
    status = 502
    exit_code = 255
    hint = "Check that the address belongs to rbee and that versions match."


class ConnectionFailed(BadGateway):
    """No SSH connection came about, or it broke (`details.attempts`)."""

    code = "CONNECTION_FAILED"
    hint = "Check the address and that an SSH server runs there: ssh USER@HOST."


class RemoteCommandFailed(BadGateway):
    """A command on another machine failed (`details.command`, `details.status`, `details.tail`)."""

    code = "REMOTE_COMMAND_FAILED"
    exit_code = 1
    hint = "Run the command on that machine and read what it says."


class InstallFailed(RemoteCommandFailed):
    """rbee could not be put on a machine (`details.step`, `details.tail`); nothing changed."""

    code = "INSTALL_FAILED"
    hint = "Read the last lines; what was there before is as it was."


class DownloadFailed(RbeeError):
    """A model could not be fetched, after every try (`details.attempts`)."""

    code = "DOWNLOAD_FAILED"
    status = 502
    hint = "Ask for it again: what was fetched is kept, and it goes on from there."


class Unavailable(RbeeError):
    """Not now; `Retry-After` goes with it."""

    code = "UNAVAILABLE"
    status = 503


class AllSlotsBusy(Unavailable):
    """Every slot of every fitting worker is taken (`details.slots_total`, `details.slots_busy`)."""

    code = "ALL_SLOTS_BUSY"
    hint = "Wait for a slot, or leave out --no-wait to queue."


class CircuitBreakerOpen(Unavailable):
    """All that could serve it failed lately and is left alone (`details.retry_after`, seconds)."""

    code = "CIRCUIT_BREAKER_OPEN"
    hint = "Wait and send the request again; `rbee worker list` shows what failed."


class NoWorkers(Unavailable):
    """No worker can serve the request and none can be started."""

    code = "NO_WORKERS"
    hint = "`rbee worker list` shows what runs, `rbee queen logs` why nothing could be started."


class HiveOffline(Unavailable):
    """The hive does not answer."""

    code = "HIVE_OFFLINE"
    hint = "Check that the machine is on and reachable."


class WorkerNotReady(Unavailable):
    """The worker is still loading its model (`details.progress_url`)."""

    code = "WORKER_NOT_READY"
    hint = "Wait until the model is loaded."


class BackendUnavailable(Unavailable):
    """The backend or the device it needs is not installed here; never replaced by another."""

    code = "BACKEND_UNAVAILABLE"
    hint = "Install the backend: pip install 'rbee[llamacpp]'."


class DeviceFailed(Unavailable):
    """The device reported an error; never replaced by another."""

    code = "DEVICE_FAILED"
    hint = "Check the device with its vendor's tool and start the worker again."


class ShuttingDown(Unavailable):
    """The daemon is on its way out."""

    code = "SHUTTING_DOWN"
    hint = "Start the queen again: rbee queen start."


class TimedOut(RbeeError):
    """Something took longer than its limit."""

    code = "TIMEOUT"
    status = 504
    exit_code = 124


class InferenceTimeout(TimedOut):
    """A running job made no progress for its limit."""

    code = "INFERENCE_TIMEOUT"
    hint = "Look at the worker's log; send the request again."


class WorkerStuck(TimedOut):
    """A worker did not end, not even when it was killed."""

    code = "WORKER_STUCK"
    hint = "Look at the process; a hung driver may need the machine to be restarted."


class LoadingTimeout(TimedOut):
    """The model did not load in time (`details.stage`)."""

    code = "LOADING_TIMEOUT"
    hint = "Look at the worker's log; raise `worker.load_timeout` for large models on slow disks."


class ConnectionTimeout(TimedOut):
    """Nobody answered at the address in time."""

    code = "CONNECTION_TIMEOUT"
    exit_code = 255
    hint = "Check the address and that the machine is reachable."


class Insufficient(RbeeError):
    """Not enough of something (`details.required`, `details.available`, bytes)."""

    code = "INSUFFICIENT"
    status = 507


class InsufficientRam(Insufficient):
    """The estimate does not fit the machine's free memory."""

    code = "INSUFFICIENT_RAM"
    hint = "Use a smaller quantisation, a smaller `worker.ctx`, or another machine."


class InsufficientVram(Insufficient):
    """The estimate does not fit the device's free memory."""

    code = "INSUFFICIENT_VRAM"
    hint = "Use a smaller quantisation, a smaller `worker.ctx`, or another device."


class InsufficientDisk(Insufficient):
    """The file does not fit the disk."""

    code = "INSUFFICIENT_DISK"
    hint = "Free some space or move the models folder."


class Local(RbeeError):
    """Raised on the user's side of the wire only."""

    code = "LOCAL_ERROR"


class SettingsError(Local):
    """A settings file, variable or flag has an unknown key or a bad value."""

    code = "SETTINGS_ERROR"
    exit_code = 2
    hint = "`rbee config show` prints every setting and where it comes from."


class BindRefused(Local):
    """An address beyond loopback was asked for, with nothing to protect it."""

    code = "BIND_REFUSED"
    hint = "Listen on 127.0.0.1 and reach it from elsewhere with ssh -L, or make a key."


class PortTaken(Local):
    """The address a daemon was told to use belongs to another process."""

    code = "PORT_TAKEN"
    hint = "Stop that process or choose another port."


class QueenRunning(Local):
    """A queen already runs for this user."""

    code = "QUEEN_RUNNING"
    hint = "Use it as it is, or stop it first: rbee queen stop."


class QueenUnreachable(Local):
    """No queen answers, and none was to be started."""

    code = "QUEEN_UNREACHABLE"
    exit_code = 255
    hint = "Start one: rbee queen start."


def _tree(cls: type[RbeeError]) -> list[type[RbeeError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _tree(sub))]


BY_CODE: dict[str, type[RbeeError]] = {cls.code: cls for cls in _tree(RbeeError)}
