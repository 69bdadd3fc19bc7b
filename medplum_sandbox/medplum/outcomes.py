"""Every OperationOutcome that the recorded server answers with, and the error that carries one."""

from __future__ import annotations

from medplum_sandbox.json import Json
from medplum_sandbox.medplum.trace import current_trace


class FhirError(Exception):
    """An answer other than success: HTTP status, OperationOutcome, and headers beyond the usual ones."""

    def __init__(self, status: int, outcome: Json, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status}")
        self.status = status
        self.outcome = outcome
        self.headers = headers or {}


def issue(
    severity: str, code: str, text: str, *, expression: str | None = None, diagnostics: str | None = None
) -> Json:
    """One issue, with the keys that Medplum sets."""
    found: Json = {"severity": severity, "code": code, **({"details": {"text": text}} if text else {})}
    if diagnostics is not None:
        found["diagnostics"] = diagnostics
    if expression is not None:
        found["expression"] = [expression]
    return found


def outcome(issues: list[Json], *, id: str | None = None) -> Json:
    """An OperationOutcome; Medplum gives an ``id`` to the well-known ones only."""
    found: Json = {"resourceType": "OperationOutcome"}
    if id is not None:
        found["id"] = id
    found["issue"] = issues
    return found


_STATUSES = {
    "ok": 200,
    "created": 201,
    "accepted": 202,
    "found": 302,
    "not-modified": 304,
    "unauthorized": 401,
    "forbidden": 403,
    "not-found": 404,
    "conflict": 409,
    "gone": 410,
    "precondition-failed": 412,
    "multiple-matches": 412,
    "content-too-large": 413,
    "unsupported-media-type": 415,
    "business-rule": 422,
    "too-many-requests": 429,
    "server-timeout": 504,
}
OK = outcome([issue("information", "informational", "All OK")], id="ok")
CREATED = outcome([issue("information", "informational", "Created")], id="created")


def accepted(url: str) -> Json:
    """What an asynchronous request is answered with: where its status stands."""
    return outcome([issue("information", "informational", "Accepted", diagnostics=url)], id="accepted")


def bad_request(text: str, expression: str | None = None) -> FhirError:
    """400 with the text."""
    return FhirError(400, outcome([issue("error", "invalid", text, expression=expression)]))


class UnforeseenError(FhirError):
    """400 of an exception that the server did not foresee: in a batch it ends the whole request."""


def unforeseen(text: str) -> FhirError:
    """400 with the text of such an exception."""
    return UnforeseenError(400, outcome([issue("error", "invalid", text)]))


class DatabaseError(FhirError):
    """400 of the server's database: it comes after all that the server checks itself."""


def database_error(text: str) -> FhirError:
    """400 with the words of the database."""
    return DatabaseError(400, outcome([issue("error", "invalid", text)]))


def invalid(issues: list[Json]) -> FhirError:
    """400 with the issues that the validation found."""
    return FhirError(400, outcome(issues))


def unauthorized() -> FhirError:
    """401."""
    return FhirError(401, outcome([issue("error", "login", "Unauthorized")], id="unauthorized"))


def forbidden() -> FhirError:
    """403."""
    return FhirError(403, outcome([issue("error", "forbidden", "Forbidden")], id="forbidden"))


def not_found() -> FhirError:
    """404."""
    return FhirError(404, outcome([issue("error", "not-found", "Not found")], id="not-found"))


def gone(text: str = "Gone") -> FhirError:
    """410."""
    return FhirError(410, outcome([issue("error", "deleted", text)], id="gone"))


def conflict() -> FhirError:
    """409, as PostgreSQL's serialization failure reaches the caller."""
    text = "could not serialize access due to read/write dependencies among transactions"
    found = issue("error", "conflict", text)
    found["details"]["coding"] = [{"code": "40001"}]
    return FhirError(409, outcome([found], id="conflict"))


def precondition_failed() -> FhirError:
    """412 of an If-Match that is stale."""
    return FhirError(412, outcome([issue("error", "processing", "Precondition Failed")], id="precondition-failed"))


def multiple_matches() -> FhirError:
    """412 of a condition that several resources meet."""
    text = "Multiple resources found matching condition"
    return FhirError(412, outcome([issue("error", "multiple-matches", text)], id="multiple-matches"))


def content_too_large() -> FhirError:
    """413."""
    return FhirError(413, outcome([issue("error", "too-long", "Request body too large")], id="content-too-large"))


def status_of(body: Json) -> int:
    """The HTTP status of an OperationOutcome: by its id, else by the code of its first issue."""
    known = _STATUSES.get(str(body.get("id")))
    if known is not None:
        return known
    issues = body.get("issue") or [{}]
    return 500 if issues[0].get("code") == "exception" else 400


def too_many_requests(diagnostics: str | None = None) -> FhirError:
    """429."""
    found = issue("error", "throttled", "Too Many Requests", diagnostics=diagnostics)
    return FhirError(429, outcome([found], id="too-many-requests"))


def traced(body: Json) -> Json:
    """The outcome with the ids of this request, as every outcome has that is answered directly."""
    return {**body, "extension": [current_trace().extension(), *body.get("extension", ())]}
