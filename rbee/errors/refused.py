"""Errors whose cause is with the one who asks: 4xx."""

from __future__ import annotations

from collections.abc import Iterable

from rbee.errors.base import RbeeError


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
