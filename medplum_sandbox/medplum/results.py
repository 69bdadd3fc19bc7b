"""The result of one run of a bot, in any runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.outcomes import bad_request


class Undefined:
    """JavaScript's ``undefined``: the bot returned nothing, which is not the same as ``null``."""

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = Undefined()


@dataclass(frozen=True)
class BotResult:
    """``outcome`` is set where the run failed; ``crashed`` where Medplum itself fails on the failure.

    A crash is HTTP 500 without a reason; so is a failed bot host, but only behind a custom operation.
    """

    returned: Any = UNDEFINED
    log: str = ""
    outcome: Json | None = None
    crashed: bool = False
    host_failed: bool = False

    @property
    def success(self) -> bool:
        """Whether the bot returned."""
        return self.outcome is None and not self.crashed


def failed(text: str, *, log: str = "", host_failed: bool = False) -> BotResult:
    """A run that ended with this text."""
    return BotResult(outcome=bad_request(text).outcome, log=log or text, host_failed=host_failed)


def is_outcome(value: Any) -> bool:
    """Whether the value is an OperationOutcome."""
    return isinstance(value, dict) and value.get("resourceType") == "OperationOutcome"


def is_error_outcome(value: Any) -> bool:
    """Whether the value is an OperationOutcome with an error."""
    return is_outcome(value) and any(issue.get("severity") in ("error", "fatal") for issue in value.get("issue", []))


def javascript_type(value: Any) -> str:
    """``typeof`` of a JSON value, as Medplum's messages spell it."""
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    return "number" if isinstance(value, int | float) else "object"
