"""A complete answer of a service, and its JSON, read within limits."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bot_layer.errors import AuthError, PermanentError, ServiceError, TransientError
from bot_layer.fhir.json import objects, read_json, read_object, text
from bot_layer.http.policy import BUSY, READS, read_retry_after

_ISSUE_CODE: Final = re.compile(r"[a-z][a-z-]{0,40}")


@dataclass(frozen=True)
class Answer:
    """A complete answer. ``path`` is the template of the request. Header names are found in any case."""

    service: str
    method: str
    path: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def is_page(self) -> bool:
        """True for an HTML page: a gateway's own answer, whatever its status."""
        return self.headers.get("Content-Type", "").lower().startswith("text/html")

    def retry_after(self, now: float | None = None) -> float | None:
        """The seconds to wait that the service asks for, from 0 to one day; None if it does not say."""
        return read_retry_after(self.headers.get("Retry-After"), now=time.time() if now is None else now)

    def json(self) -> Any:
        """The parsed body; an empty one is an empty object.

        Raises TransientError for anything that is not JSON: such pages come from gateways, and after a write nobody
        knows whether it was done.
        """
        if not self.body.strip():
            return {}
        try:
            return read_json(self.body)
        except ValueError as fault:
            raise self.unreadable("did not answer with JSON") from fault

    def outcome(self) -> dict[str, Any]:
        """The body as an object if it is one, whatever the status; else an empty object."""
        return read_object(self.body)

    def unreadable(self, what: str) -> TransientError:
        """The error for an answer that does not say what it should: ``what`` completes "the service ..."."""
        return TransientError(
            f"{self.service} {what}; try again later.",
            code="unreadable-answer",
            maybe_done=self.method not in READS,
            **self.where,
        )

    def error(self) -> ServiceError | AuthError:
        """The error that a refusal becomes."""
        if self.status in {401, 403}:
            what = "login" if self.status == 401 else "rights"
            return AuthError(
                f"{self.service} refused the {what} of this client for {self.method} {self.path}.",
                code="login-refused" if self.status == 401 else "rights-missing",
            )
        if self.status in BUSY:
            return TransientError(
                f"{self.service} was too busy or failed; try again later.",
                retry_after=self.retry_after(),
                maybe_done=self.status != 429 and self.method not in READS,
                **self.where,
            )
        codes = (text(each.get("code")) for each in objects(self.outcome().get("issue")))
        return PermanentError(
            f"{self.service} refused {self.method} {self.path} with status {self.status}.",
            issues=[code for code in codes if _ISSUE_CODE.fullmatch(code)],
            **self.where,
        )

    @property
    def where(self) -> dict[str, Any]:
        """What an error says of the request: service, status, method and path."""
        return {"service": self.service, "status": self.status, "method": self.method, "path": self.path}
