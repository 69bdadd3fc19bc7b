"""How long a 429 of Medplum asks to wait, in each of the forms that were seen."""

from __future__ import annotations

import json

import pytest

from bot_layer.medplum.quota import seconds_until_filled


def outcome(**more: object) -> bytes:
    issue = {"severity": "error", "code": "throttled", "diagnostics": json.dumps(more)}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "7"}, b"", 7.0),
        ({"Retry-After": "7", "RateLimit": '"fhirInteractions";r=0;t=50'}, b"", 7.0),
        ({"Retry-After": "3600"}, b"", 60.0),
        ({"Retry-After": "soon", "RateLimit": '"fhirInteractions";r=0;t=50'}, b"", 50.0),
        ({"RateLimit": '"requests";r=59000;t=3, "fhirInteractions";r=0;t=50'}, b"", 50.0),
        ({"RateLimit": '"fhirInteractions";r=30;t=12'}, b"", 12.0),
        ({"RateLimit": '"fhirInteractions";r=0;t=soon'}, outcome(_msBeforeNext=2500), 2.5),
        ({}, outcome(_msBeforeNext=2500), 2.5),
        ({}, outcome(_msBeforeNext=10**9), 60.0),
        ({}, outcome(_msBeforeNext="soon"), None),
        ({}, outcome(), None),
        ({}, b'{"issue": [null, {"diagnostics": 5}, {"diagnostics": "no JSON"}]}', None),
        ({}, b"<html>", None),
        ({}, b"[" * 100_000, None),
    ],
)
def test_the_wait_is_read_and_bounded(headers: dict[str, str], body: bytes, seconds: float | None) -> None:
    """Retry-After, else the window of the quota, else the outcome; a minute at most."""
    assert seconds_until_filled(headers, body, now=0.0) == seconds
