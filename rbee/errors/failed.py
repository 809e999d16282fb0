"""Errors whose cause is with the colony: 5xx."""

from __future__ import annotations

from rbee.errors.base import RbeeError


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
