"""Everything that can go wrong, by who must act.

    BotError
      InputError        the caller: the input is invalid or incomplete; never retried
      ConfigError       the operator: every missing secret or setting at once
      ReviewNeeded      a person: records that contradict each other or are ambiguous; nothing was written
      AuthError         the operator: a login was refused
      ServiceError      a service answered badly
        TransientError  nobody yet: the host tries again, after ``retry_after`` seconds
        PermanentError  the operator: trying again will not help

A message is one sentence that says what to do. It carries codes, counts and path templates (``Patient/{id}``), never a
person's name, an identifier, a token or a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Required, TypedDict, Unpack


class BotError(Exception):
    """A failure with a stated cause.

    ``code`` is machine-readable, kebab case, and listed in the README; ``issue_code`` is FHIR's
    (https://hl7.org/fhir/R4/valueset-issue-type.html).
    """

    issue_code = "exception"
    default_code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class InputError(BotError):
    """The caller must change the input. ``expression`` names the offending elements as FHIRPath."""

    issue_code = "invalid"
    default_code = "invalid-input"

    def __init__(self, message: str, *, code: str | None = None, expression: Sequence[str] = ()) -> None:
        super().__init__(message, code=code)
        self.expression = tuple(expression)


class ConfigError(BotError):
    """The operator must set something. ``missing`` names every setting that is missing."""

    issue_code = "required"
    default_code = "missing-settings"

    def __init__(self, message: str, *, code: str | None = None, missing: Sequence[str] = ()) -> None:
        super().__init__(message, code=code)
        self.missing = tuple(missing)

    @classmethod
    def for_missing(cls, names: Sequence[str]) -> ConfigError:
        """One error that names all that is missing."""
        listed = ", ".join(sorted(names))
        return cls(f"Set these project secrets (or environment variables): {listed}.", missing=sorted(names))


class ReviewNeeded(BotError):
    """A person must look: nothing was written."""

    issue_code = "conflict"
    default_code = "review-needed"


class AuthError(BotError):
    """A service refused the login or the rights of this client."""

    issue_code = "security"
    default_code = "login-refused"


class _Where(TypedDict, total=False):
    """What a ServiceError reports about the request; the service's name is required."""

    service: Required[str]
    status: int | None
    method: str
    path: str
    code: str | None


class ServiceError(BotError):
    """A service answered badly. ``path`` is a template such as ``Patient/{id}``, never a person's id."""

    issue_code = "exception"
    default_code = "service-error"

    def __init__(self, message: str, **where: Unpack[_Where]) -> None:
        super().__init__(message, code=where.get("code"))
        self.service = where["service"]
        self.status = where.get("status")
        self.method = where.get("method", "")
        self.path = where.get("path", "")


class TransientError(ServiceError):
    """It may work later. ``retry_after`` is in seconds, or None where the service did not say.

    ``maybe_done`` is True where the request may have been carried out although its answer was lost: look it up before
    it is sent again.
    """

    issue_code = "transient"
    default_code = "try-again-later"

    def __init__(
        self, message: str, *, retry_after: float | None = None, maybe_done: bool = False, **where: Unpack[_Where]
    ) -> None:
        super().__init__(message, **where)
        self.retry_after = retry_after
        self.maybe_done = maybe_done


class PermanentError(ServiceError):
    """Trying again will not help; ``issues`` holds the codes of the service's OperationOutcome, if it sent one."""

    issue_code = "processing"
    default_code = "refused-by-service"

    def __init__(self, message: str, *, issues: Sequence[str] = (), **where: Unpack[_Where]) -> None:
        super().__init__(message, **where)
        self.issues = tuple(issues)
