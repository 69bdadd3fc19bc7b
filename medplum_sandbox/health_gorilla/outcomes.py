"""The two envelopes of every FHIR answer: OperationOutcome and searchset Bundle."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from medplum_sandbox.health_gorilla.wire import Answer, Refused
from medplum_sandbox.json import Json

BUNDLE_PROFILE = "https://healthgorilla.com/fhir/StructureDefinition/hg-stateless-bundle"


def outcome(code: str, diagnostics: str, *, location: Sequence[str] = ()) -> Json:
    """An OperationOutcome with one error, as Health Gorilla shapes it."""
    issue: Json = {"severity": "error", "code": code, "diagnostics": diagnostics}
    if location:
        issue["location"] = list(location)
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def refused(status: int, code: str, diagnostics: str, *, location: Sequence[str] = ()) -> Refused:
    """A refusal to raise, with its OperationOutcome."""
    return Refused(Answer(status, outcome(code, diagnostics, location=location)))


def cannot_handle(method: str, kind: str, names: Iterable[str]) -> Refused:
    """The 400 that the real one gives for parameters that it does not know."""
    listed = ", ".join(sorted(set(names)))
    text = (
        "Invalid request: The FHIR endpoint on this server does not know how to handle "
        f"{method} operation[{kind}] with parameters [[{listed}]]"
    )
    return refused(400, "processing", text)


def searchset(url: str, entries: Sequence[Json], *, total: int, now: str, next_url: str | None = None) -> Json:
    """A Bundle of entries, shaped as the recorded one: own profile, total, link to itself."""
    links = [{"relation": "self", "url": url}]
    if next_url is not None:
        links.append({"relation": "next", "url": next_url})
    bundle: Json = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "meta": {"lastUpdated": now, "profile": [BUNDLE_PROFILE]},
        "type": "searchset",
        "total": total,
        "link": links,
    }
    if entries:
        bundle["entry"] = list(entries)
    return bundle


def entry(full_url: str, resource: Json, *, mode: str = "match") -> Json:
    """One entry of a searchset."""
    return {"fullUrl": full_url, "resource": resource, "search": {"mode": mode}}
