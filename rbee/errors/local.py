"""Errors that never go over a wire: they arise where they are shown."""

from __future__ import annotations

from rbee.errors.base import RbeeError


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
