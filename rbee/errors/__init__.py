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
This package imports nothing but the standard library.
"""

from __future__ import annotations

from rbee.errors.base import (
    RbeeError,
)
from rbee.errors.failed import (
    AllSlotsBusy,
    BackendUnavailable,
    BadGateway,
    CircuitBreakerOpen,
    ConnectionFailed,
    ConnectionTimeout,
    DeviceFailed,
    DownloadFailed,
    HiveOffline,
    InferenceTimeout,
    InstallFailed,
    Insufficient,
    InsufficientDisk,
    InsufficientRam,
    InsufficientVram,
    InternalError,
    LoadingTimeout,
    ModelLoadFailed,
    NoWorkers,
    RemoteCommandFailed,
    ShuttingDown,
    TimedOut,
    Unavailable,
    WorkerCrashed,
    WorkerLost,
    WorkerNotReady,
    WorkerStuck,
)
from rbee.errors.local import (
    BindRefused,
    Local,
    PortTaken,
    QueenRunning,
    QueenUnreachable,
    SettingsError,
)
from rbee.errors.refused import (
    Cancelled,
    Conflict,
    ContextLengthExceeded,
    DeadlineUnmet,
    Forbidden,
    HiveExists,
    HiveNotFound,
    HostKeyChanged,
    HostKeyRevoked,
    HostKeyUnknown,
    InvalidApiKey,
    InvalidRequest,
    JobFinished,
    LoginRefused,
    MethodNotAllowed,
    MissingApiKey,
    ModelAmbiguous,
    ModelCorrupted,
    ModelIncompatible,
    ModelNotFound,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    RateLimited,
    ValidationFailed,
    VersionMismatch,
    WorkerAlreadyRegistered,
)

__all__ = [
    "BY_CODE",
    "AllSlotsBusy",
    "BackendUnavailable",
    "BadGateway",
    "BindRefused",
    "Cancelled",
    "CircuitBreakerOpen",
    "Conflict",
    "ConnectionFailed",
    "ConnectionTimeout",
    "ContextLengthExceeded",
    "DeadlineUnmet",
    "DeviceFailed",
    "DownloadFailed",
    "Forbidden",
    "HiveExists",
    "HiveNotFound",
    "HiveOffline",
    "HostKeyChanged",
    "HostKeyRevoked",
    "HostKeyUnknown",
    "InferenceTimeout",
    "InstallFailed",
    "Insufficient",
    "InsufficientDisk",
    "InsufficientRam",
    "InsufficientVram",
    "InternalError",
    "InvalidApiKey",
    "InvalidRequest",
    "JobFinished",
    "LoadingTimeout",
    "Local",
    "LoginRefused",
    "MethodNotAllowed",
    "MissingApiKey",
    "ModelAmbiguous",
    "ModelCorrupted",
    "ModelIncompatible",
    "ModelLoadFailed",
    "ModelNotFound",
    "NoWorkers",
    "NotFound",
    "PayloadTooLarge",
    "PortTaken",
    "QueenRunning",
    "QueenUnreachable",
    "QueueFull",
    "RateLimited",
    "RbeeError",
    "RemoteCommandFailed",
    "SettingsError",
    "ShuttingDown",
    "TimedOut",
    "Unavailable",
    "ValidationFailed",
    "VersionMismatch",
    "WorkerAlreadyRegistered",
    "WorkerCrashed",
    "WorkerLost",
    "WorkerNotReady",
    "WorkerStuck",
]


def _tree(cls: type[RbeeError]) -> list[type[RbeeError]]:
    return [cls, *(leaf for sub in cls.__subclasses__() for leaf in _tree(sub))]


BY_CODE: dict[str, type[RbeeError]] = {cls.code: cls for cls in _tree(RbeeError)}
