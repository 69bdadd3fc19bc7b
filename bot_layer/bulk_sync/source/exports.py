"""Exports of a source of bulk data: kick-off, status, cancel. https://hl7.org/fhir/uv/bulkdata/export.html"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import count

from bot_layer.bulk_sync.rules import bulk_export, kickoff
from bot_layer.bulk_sync.rules.bulk_export import Complete, Failed, Wait
from bot_layer.bulk_sync.rules.kickoff import Refused, Started
from bot_layer.bulk_sync.rules.run_state import Job
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.bulk_sync.rules.smart import SERVICE
from bot_layer.bulk_sync.source.hosts import absolute, shown
from bot_layer.bulk_sync.source.keeper import Keeper
from bot_layer.bulk_sync.source.requests import AuthorizedRequests, Log
from bot_layer.errors import AuthError, TransientError
from bot_layer.http.answer import Answer
from bot_layer.http.retry import repeat

_STATUS = "export status"


@dataclass(frozen=True)
class Exports:
    """The export jobs on one practice's server."""

    settings: SyncSettings
    requests: AuthorizedRequests
    log: Log = field(repr=False)
    keeper: Keeper | None = None

    def kickoff(self, job: Job, elements: tuple[str, ...] = ()) -> Started | Refused:
        """Start an export. Switches to POST if the server requires it, and waits if it is busy with another export."""
        post, attempts = False, count(1)

        def ask() -> Started | Refused:
            nonlocal post
            answer = self._kicked_off(job, elements, post=post, attempt=next(attempts))
            if isinstance(answer, Refused) and answer.post_only and not post:
                post = True
                return ask()
            if isinstance(answer, Wait):
                raise TransientError(
                    "The source is busy with another export; try again later.",
                    service=SERVICE,
                    method="GET",
                    path=_path(job),
                    code="export-busy",
                    retry_after=answer.seconds,
                )
            return answer

        tools = self.requests.open
        return repeat(ask, tools.policy, when=lambda fault: fault.code == "export-busy", wait=tools.wait)

    def _kicked_off(self, job: Job, elements: tuple[str, ...], *, post: bool, attempt: int) -> Started | Refused | Wait:
        request = kickoff.kickoff_request(self.settings, job, elements=elements, post=post)
        self.log("PFBulkExport", f"Initiating bulk export: {shown(request.url)}")
        body = json.dumps(request.body).encode() if request.body is not None else None
        reply, place = self.requests.once(
            request.method, request.url, path=_path(job), headers=request.headers, body=body
        )
        after = reply.retry_after(self.requests.open.clock())
        answer = kickoff.read_kickoff(reply.status, reply.headers, reply.body, retry_after=after, attempt=attempt)
        if self.keeper is not None and not isinstance(answer, Wait):
            refused = answer.reason if isinstance(answer, Refused) else ""
            self.keeper.kickoff(request.url, job, refused=refused, status=reply.status)
        if isinstance(answer, Started):
            url = absolute(place, answer.status_url)
            self.requests.open.guard.check(url)
            self.log("PFBulkExport", f"Export initiated, status URL: {shown(url)}")
            return Started(url, answer.date)
        return answer

    def status(self, url: str, *, attempt: int = 1, is_page: bool = False) -> Wait | Complete | Failed:
        """The current status of the export. A plain 500 or a gateway's page counts only after three such answers.

        ``is_page``: a further page of the manifest, which may be on another host.
        """
        tools = self.requests.open

        def ask() -> tuple[Answer, str]:
            headers = {"Accept": "application/json"}
            return self.requests.once("GET", url, path=_STATUS, headers=headers, anywhere=is_page)

        try:
            few = replace(tools.policy, retries=2)
            reply, place = repeat(ask, few, when=lambda _: False, again=_is_odd, wait=tools.wait)
        except TransientError as fault:
            return Wait(bulk_export.wait_seconds(fault.retry_after, attempt=1))
        after = reply.retry_after(tools.clock())
        answer = bulk_export.read_status(reply.status, reply.headers, reply.body, retry_after=after, attempt=attempt)
        if isinstance(answer, Complete):
            answer = Complete(answer.manifest.located(lambda each: absolute(place, each)))
        if self.keeper is not None:
            self.keeper.status(answer, reply.body)
        return answer

    def cancel(self, url: str) -> None:
        """DELETE the job, so that the source can remove it and accept the next. A job that no longer exists is
        ignored."""
        try:
            self.requests.once("DELETE", url, path=_STATUS)
        except (TransientError, AuthError):
            self.log("PFBulkExport", "The export job could not be deleted; the source will expire it")


def _path(job: Job) -> str:
    return kickoff.export_path(job.level, "{id}")


def _is_odd(found: tuple[Answer, str]) -> bool:
    """True for an answer that may come from a gateway instead of the source."""
    reply, _ = found
    is_page = reply.status == 200 and reply.body.strip() and bulk_export.read_manifest(reply.body) is None
    return bool(is_page) or reply.status == 500
