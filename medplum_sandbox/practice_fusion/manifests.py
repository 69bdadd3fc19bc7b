"""The manifest of a finished export, its pages, and links that can be signed and grow old."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from medplum_sandbox.json import Json
from medplum_sandbox.practice_fusion.jobs import DELETED, OUTCOMES, Job
from medplum_sandbox.practice_fusion.source import instant
from medplum_sandbox.practice_fusion.switches import Switches


@dataclass
class Links:
    """Creates file links and checks them when a client uses them."""

    switches: Switches
    clock: Callable[[], float]
    api: str
    files_host: Callable[[], str]
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def status(self, job: Job, page: int = 1) -> str:
        """Where to ask for the job, or for a later page of its manifest."""
        return f"{self.api}/Export/{job.id}" + (f"?page={page}" if page > 1 else "")

    def file(self, job: Job, kind: str, number: int) -> str:
        """Where to get one file."""
        if self.switches.signed_urls:
            return self.signed(job, kind, number)
        path = f"{self.api}/Binary/export/{job.id}/{kind}/{number}"
        return path if self.switches.link_seconds is None else f"{path}?{urlencode({'expires': self._expires()})}"

    def signed(self, job: Job, kind: str, number: int) -> str:
        """A link to the other host, which carries its own permission."""
        path = f"/signed/{job.id}/{kind}/{number}"
        expires = self._expires()
        return f"{self.files_host()}{path}?{urlencode({'expires': expires, 'signature': self._sign(path, expires)})}"

    def is_fresh(self, query: Mapping[str, str]) -> bool:
        """Whether a link to this server has not grown old."""
        return "expires" not in query or float(query["expires"]) > self.clock()

    def is_signed(self, path: str, query: Mapping[str, str]) -> bool:
        """Whether this server created the link to the other host, and the link is not too old."""
        signature = self._sign(path, query.get("expires", ""))
        return hmac.compare_digest(signature, query.get("signature", "")) and self.is_fresh(query)

    def _expires(self) -> str:
        return str(self.clock() + (3600.0 if self.switches.link_seconds is None else self.switches.link_seconds))

    def _sign(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{path}|{expires}".encode(), hashlib.sha256).hexdigest()


def manifest(job: Job, page: int, switches: Switches, links: Links, *, miscounted: bool = False) -> Json:
    """One page of the manifest. Everything except the file lists is the same on each page."""
    output = job.named()
    per_page = switches.manifest_files or max(1, len(output))
    body: Json = {
        "transactionTime": instant(job.transaction_time),
        "request": job.request.url,
        "requiresAccessToken": not switches.signed_urls,
        "output": _files(job, output[(page - 1) * per_page : page * per_page], switches, links),
        switches.outcome_key: [],
    }
    if page == 1:
        body[switches.outcome_key] = _files(job, job.named(special=OUTCOMES), switches, links, kind="OperationOutcome")
        if deleted := job.named(special=DELETED):
            body["deleted"] = _files(job, deleted, switches, links, kind="Bundle")
    if page * per_page < len(output) or switches.endless_manifest:
        body["link"] = [{"relation": "next", "url": links.status(job, page + 1)}]
    if switches.lists_extension:
        del body["request"]
        body["extension"] = [{"url": "https://numbers.example.org/export-note", "valueBoolean": True}]
    if miscounted and body["output"]:
        body["output"][0]["count"] = body["output"][0].get("count", 0) + 1
    return body


def _files(
    job: Job, keys: list[tuple[str, int]], switches: Switches, links: Links, *, kind: str | None = None
) -> list[Json]:
    files: list[Json] = []
    for key in keys:
        item: Json = {"type": kind or key[0], "url": links.file(job, *key)}
        if switches.counts:
            item["count"] = job.files[key].count
        files.append(item)
    return files
