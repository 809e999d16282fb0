"""What every error has: a code, a status, an exit code, a message, and what to do next."""

from __future__ import annotations

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
        # The tree is whole only when all its branches are imported.
        from rbee.errors import BY_CODE, BadGateway

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
