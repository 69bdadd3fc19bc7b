"""Whatever a source sends as a value, no rule fails: Medplum refuses that resource, and the run continues."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from bot_layer.bulk_sync.rules import (
    attachments,
    bulk_export,
    kickoff,
    provenance,
    references,
    upsert,
)
from bot_layer.bulk_sync.rules.export_errors import read_outcomes
from bot_layer.bulk_sync.rules.ndjson import BadLine, read_resources, resource_of, split_lines
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.upsert import Found, Incoming
from bot_layer.fhir.json import Json

BASE = "https://source.example/fhir"
KNOWN = {Key("Patient", "2"): "medplum-2"}
ODD: tuple[Any, ...] = (None, 5, -1.5, "x", "", True, [], {}, [5], ["a"], [None], {"a": 1}, [[]], [{"url": ["x"]}])
META = {"lastUpdated": "2026-01-01T00:00:00Z", "profile": ["http://x"], "tag": [{"system": "a", "code": "b"}]}
REFERENCE = {
    "reference": "Patient/2",
    "type": "Patient",
    "identifier": {"system": "a", "value": "b"},
    "extension": [{"url": "x", "valueString": "y"}],
}
PATIENT = {
    "resourceType": "Patient",
    "id": "p1",
    "meta": {**META, "security": META["tag"], "extension": [{"url": "a", "valueString": "x"}]},
    "identifier": [{"system": "a", "value": "b"}],
    "extension": [{"url": "u", "valueReference": {"reference": "Patient/2"}}],
    "link": [{"other": REFERENCE, "type": "seealso"}],
    "photo": [{"contentType": "image/png", "url": f"{BASE}/Binary/1", "size": 4, "hash": "abc"}],
    "generalPractitioner": [{"reference": "Practitioner?identifier=a|b"}],
    "managingOrganization": {
        "type": "Organization",
        "identifier": {"system": "https://practicefusion.com/fhir/organization-id", "value": "x", "extension": []},
    },
}
BINARY = {"resourceType": "Binary", "id": "b1", "meta": {}, "contentType": "application/pdf", "data": "QUJD"}
MANIFEST = {
    "transactionTime": "2026-01-01T00:00:00Z",
    "requiresAccessToken": True,
    "output": [{"type": "Patient", "url": "https://x/1", "count": 1}],
    "error": [{"type": "OperationOutcome", "url": "u"}],
    "link": [{"relation": "next", "url": "u"}],
}
DETAILS = {"coding": [{"code": "a", "display": "b"}], "text": "t"}
OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "x", "details": DETAILS, "diagnostics": "d", "expression": ["Patient"]}],
}
DEEP = b'{"output":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def variants(value: Any) -> Iterator[Any]:
    """The value with each part of it replaced by each odd one."""
    for path in _paths(value):
        for odd in ODD:
            changed = copy.deepcopy(value)
            place = changed
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = odd
            yield changed


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, each in items:
        yield (*before, step)
        yield from _paths(each, (*before, step))


@pytest.mark.parametrize("sample", [PATIENT, BINARY], ids=["Patient", "Binary"])
def test_a_resource_of_any_shape_is_planned_and_repaired(sample: Json) -> None:
    """As a new resource, and as a version of one that Medplum has."""
    there = Found("m1", "1", {**provenance.prepare(sample, BASE), "id": "m1"})
    for value in variants(sample):
        if not isinstance(value["resourceType"], str) or (key := resource_of(value).key) is None:
            continue
        asked = references.queries(value, BASE)
        references.with_targets(value, dict.fromkeys(asked, "Practitioner/1"), BASE)
        for each in attachments.attachments_in(value):
            attachments.refusal("a/b", b"x", 1, each)
        prepared = provenance.prepare(value, BASE)
        for known in ({}, KNOWN):
            rewritten = references.rewrite(prepared, known, BASE)
            incoming = Incoming(key, rewritten.resource, b"", rewritten.unresolved)
            upsert.plan({}, [incoming])
            upsert.plan({key: there}, [incoming])
            references.repair(rewritten.resource, KNOWN, BASE)


def test_a_manifest_and_an_outcome_of_any_shape_are_read() -> None:
    """Also if it is the answer to a status request or a kick-off."""
    for value in variants(MANIFEST):
        bulk_export.read_status(200, {}, json.dumps(value).encode())
    for value in variants(OUTCOME):
        read_outcomes([value], ["Patient"])
        for status in (202, 400, 500):
            kickoff.read_kickoff(status, {}, json.dumps(value).encode())


def test_json_that_is_nested_too_deep_is_not_json() -> None:
    """It is a manifest, an outcome or a line that cannot be read, not the end of the program."""
    assert bulk_export.read_manifest(DEEP) is None
    assert isinstance(kickoff.read_kickoff(400, {}, DEEP), kickoff.Refused)
    assert [type(each) for each in read_resources(split_lines([DEEP]))] == [BadLine]
