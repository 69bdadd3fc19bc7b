"""Bulk Data, answer by answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bot_layer.bulk_sync.rules import bulk_export, kickoff, time_stamps
from bot_layer.bulk_sync.rules.bulk_export import Complete, Failed, Wait
from bot_layer.bulk_sync.rules.kickoff import Refused, Started
from bot_layer.bulk_sync.rules.references import Key
from bot_layer.bulk_sync.rules.run_state import Job
from bot_layer.bulk_sync.rules.settings import SyncSettings

SETTINGS = SyncSettings("https://source.example/fhir/", "c")


def body(value: Any) -> bytes:
    """JSON."""
    return json.dumps(value).encode()


def outcome(code: str) -> bytes:
    """An OperationOutcome."""
    return body({"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]})


def test_the_kickoff_of_each_level() -> None:
    """GET with one list of types, the time stamp and the format; the headers that the guide requires."""
    asked = kickoff.kickoff_request(
        replace(SETTINGS, type_filters=("A?x=1,2",)), Job("group", ("A", "B"), "g", "2024-01-01T00:00:00Z")
    )
    assert asked.method == "GET"
    assert asked.headers == {"Accept": "application/fhir+json", "Prefer": "respond-async"}
    assert asked.url == (
        "https://source.example/fhir/Group/g/$export?_outputFormat=application/fhir%2Bndjson&_type=A,B"
        "&_since=2024-01-01T00:00:00Z&_typeFilter=A%3Fx%3D1%252C2"
    )
    assert kickoff.kickoff_request(SETTINGS, Job("system", ())).url.startswith("https://source.example/fhir/$export?")
    assert "/Patient/$export" in kickoff.kickoff_request(SETTINGS, Job("patient", ())).url


def test_a_time_stamp_with_an_offset_arrives_as_it_was_given() -> None:
    """A plus in a query is a space: HAPI's transactionTime ends in +00:00, and the next export was refused."""
    stamp = "2024-01-01T00:00:00.000+05:30"
    settings = replace(SETTINGS, type_filters=("A?x=1 2+3", "B?of=another-type"))
    asked = kickoff.kickoff_request(settings, Job("system", ("A",), since=stamp))
    assert parse_qs(urlsplit(asked.url).query) == {
        "_outputFormat": ["application/fhir+ndjson"],
        "_type": ["A"],
        "_since": [stamp],
        "_typeFilter": ["A?x=1 2+3"],
    }


def test_a_kickoff_by_post_carries_parameters() -> None:
    """If the server requires it."""
    job = Job("patient", ("A",), since="2024-01-01T00:00:00Z")
    asked = kickoff.kickoff_request(replace(SETTINGS, type_filters=("A?x=1",)), job, post=True)
    assert asked.method == "POST"
    assert asked.body is not None
    assert [each["name"] for each in asked.body["parameter"]] == [
        "_outputFormat",
        "_type",
        "_since",
        "_typeFilter",
    ]
    plain = kickoff.kickoff_request(SETTINGS, Job("system", ()), post=True)
    assert plain.body is not None
    assert len(plain.body["parameter"]) == 1


def kicked_off(status: int, headers: dict[str, str] | None = None, text: bytes = b"") -> Any:
    """What an answer means."""
    return kickoff.read_kickoff(status, headers or {}, text)


def test_what_the_answer_to_a_kickoff_means() -> None:
    """Started, busy, or refused: at this level, in this way, or at all."""
    assert kicked_off(202, {"Content-Location": "u"}) == Started("u")
    assert isinstance(kicked_off(429), Wait)
    assert isinstance(kicked_off(500, {}, outcome("transient")), Wait)
    refused = kicked_off(403, {}, outcome("forbidden"))
    assert isinstance(refused, Refused)
    assert refused.unsupported
    assert "forbidden" in refused.reason
    assert kicked_off(405).post_only
    assert kicked_off(400, {}, b"use POST").post_only
    assert not kicked_off(500).unsupported
    assert not kicked_off(202).unsupported


@pytest.mark.parametrize("code", [400, 403, 404, 409, 500, 501])
def test_a_transient_outcome_is_waited_out_with_every_status(code: int) -> None:
    """The guide has 4XX and 5XX for it (https://hl7.org/fhir/uv/bulkdata/export.html#bulk-data-status-request)."""
    assert isinstance(kicked_off(code, {}, outcome("transient")), Wait)
    assert isinstance(status(code, {}, outcome("transient")), Wait)


ASKED = Job("group", ("Patient", "Condition", "Observation", "Goal"), "g", "2024-01-01T00:00:00Z")


def refused(code: int, text: str = "") -> Refused:
    """A refusal in these words."""
    answer = kicked_off(code, {}, body({"issue": [{"code": "invalid", "diagnostics": text}]}))
    assert isinstance(answer, Refused)
    return answer


def accepted(job: Job, says: Callable[[Job], Refused | None]) -> tuple[list[Job], list[Job], int]:
    """The exports that a source finally accepts or refuses, and the number of requests until then."""
    done, lost, waiting, asked = list[Job](), list[Job](), [job], 0
    while waiting:
        one = waiting.pop(0)
        asked += 1
        answer = says(one)
        if answer is None:
            done.append(one)
            continue
        parts = kickoff.narrower(one, answer)
        if not parts:
            lost.append(one)
        waiting[:0] = parts
        assert asked < 100
    return done, lost, asked


@pytest.mark.parametrize(
    "text", ["Goal is not supported", "No Goal; there are Patient, Condition and Goal", "bad request"]
)
@pytest.mark.parametrize("code", [400, 422])
def test_a_type_that_the_source_refuses_is_found_and_the_others_are_exported(text: str, code: int) -> None:
    """Whether the answer names it, names others too, or says nothing."""
    done, lost, asked = accepted(ASKED, lambda one: refused(code, text) if "Goal" in one.types else None)
    assert sorted(kind for each in done for kind in each.types) == ["Condition", "Observation", "Patient"]
    assert all(each.since == ASKED.since for each in done)
    assert [each.types for each in lost] == [("Goal",)]
    assert asked < 15


def test_a_parameter_that_the_source_refuses_is_left_out() -> None:
    """_outputFormat first, because NDJSON is the default; then _since, and everything is exported."""
    done, lost, asked = accepted(ASKED, lambda one: refused(400) if one.output_format else None)
    assert ([each.types for each in done], lost, asked) == ([ASKED.types], [], 2)
    assert "_outputFormat" not in kickoff.kickoff_request(SETTINGS, done[0]).url
    done, lost, asked = accepted(ASKED, lambda one: refused(400) if one.since else None)
    assert ([(each.types, each.since, each.refused_since) for each in done], lost) == (
        [(ASKED.types, "", ASKED.since)],
        [],
    )


@pytest.mark.parametrize("code", [403, 404, 405, 501])
def test_a_level_that_is_not_offered_is_not_requested_in_parts(code: int) -> None:
    """Whatever the types, the level stays refused."""
    assert kickoff.narrower(ASKED, refused(code, "$export is not offered at the Patient level")) == ()
    assert kickoff.narrower(ASKED, refused(500)) == ()


def test_the_sources_words_are_shown_without_what_could_name_a_person() -> None:
    """An address is cut at its query; ids, numbers and mail addresses are removed."""
    said = refused(
        400, "Goal: see https://x/y?token=abc for 123456789, a@b.example,\n 3f2504e0-4f89-11d3-9a0c-0305e82c3301"
    )
    assert said.text.startswith("Goal: see https://x/y")
    for secret in ("abc", "123456789", "b.example", "3f2504e0", "\n"):
        assert secret not in said.text
    assert said.text in said.reason


def test_the_options_of_a_kickoff() -> None:
    """handling=lenient lets a source ignore unknown parameters."""
    asked = kickoff.kickoff_request(replace(SETTINGS, lenient=True), ASKED)
    assert asked.headers["Prefer"] == "respond-async, handling=lenient"


def status(code: int, headers: dict[str, str] | None = None, text: bytes = b"") -> Any:
    """What an answer means."""
    return bulk_export.read_status(code, headers or {}, text, retry_after=7.0 if headers else None)


def test_what_the_answer_to_a_status_request_means() -> None:
    """Wait, complete, or failed, with what a client needs to know of each."""
    waiting = status(202, {"X-Progress": "25%", "Retry-After": "7"})
    assert (waiting.seconds, waiting.progress) == (7.0, "25%")
    assert isinstance(status(200, {}, body({"output": []})), Complete)
    assert isinstance(status(200, {}, b"soon"), Failed)
    assert isinstance(status(500, {}, outcome("transient")), Wait)
    failed = status(500, {}, outcome("exception"))
    assert (failed.issues, failed.lost) == (("exception",), False)
    assert status(404).lost


@pytest.mark.parametrize(
    ("asked", "seconds"), [(7.0, 7.0), (0.0, 1.0), (18000.0, 300.0), (86400.0, 300.0), (None, 1.0)]
)
def test_the_requested_wait_stays_between_limits(asked: float | None, seconds: float) -> None:
    """Hours, nothing at all, or no word on it."""
    assert bulk_export.wait_seconds(asked, attempt=1) == seconds


def test_pauses_grow_where_the_server_names_none() -> None:
    """From one second up to a minute; most exports are ready soon."""
    pauses = [bulk_export.wait_seconds(None, attempt=number) for number in (1, 2, 50)]
    assert pauses == [1.0, 1.5, 60.0]


def test_a_manifest_of_any_version_is_read() -> None:
    """output, deleted, error or outcome, next page, token; an invalid entry is left out."""
    manifest = bulk_export.read_manifest(
        body(
            {
                "transactionTime": "2024-01-01T00:00:00Z",
                "requiresAccessToken": False,
                "output": [{"type": "A", "url": "u", "count": 3}, {"type": "B"}, 7, {"url": "v", "count": True}],
                "deleted": [{"type": "Bundle", "url": "d", "count": -1}],
                "outcome": [{"url": "e"}],
                "link": [{"relation": "self", "url": "s"}, 4, {"relation": "next", "url": "n"}],
            }
        )
    )
    assert manifest is not None
    assert [(each.kind, each.url, each.count) for each in manifest.files] == [
        ("output", "u", 3),
        ("output", "v", None),
        ("deleted", "d", None),
        ("error", "e", None),
    ]
    assert (manifest.next_url, manifest.requires_access_token) == ("n", False)
    assert bulk_export.read_manifest(b"[]") is None
    assert bulk_export.read_manifest(b"no") is None
    assert bulk_export.read_manifest(b"{}") is None
    assert bulk_export.read_manifest(body({"resourceType": "OperationOutcome", "output": []})) is None
    empties: list[Any] = [{"transactionTime": "2024-01-01T00:00:00Z"}, {"output": None}, {"error": []}]
    for empty in empties:
        found = bulk_export.read_manifest(body(empty))
        assert found is not None
        assert found.files == ()
    bare = bulk_export.read_manifest(body({"output": [], "error": [{"url": "e"}]}))
    assert bare is not None
    assert bare.requires_access_token is None
    assert bare.next_url == ""


BASE = "https://source.example/fhir"


def removals(*entries: Any) -> tuple[Key | None, ...]:
    """What a Bundle deletes."""
    return bulk_export.deletions({"resourceType": "Bundle", "entry": list(entries)}, BASE)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("Patient/1", ("Patient", "1")),
        ("/Patient/1/", ("Patient", "1")),
        (f"{BASE}/Patient/1", ("Patient", "1")),
        ("Patient/1/_history/2", ("Patient", "1")),
        ("https://elsewhere.example/fhir/Patient/1", None),
        ("Patient?identifier=a|b/c", None),
        ("Patient/a b", None),
        ("4", None),
        (7, None),
        (None, None),
    ],
)
def test_a_deletion_names_a_resource_of_the_source(url: Any, key: tuple[str, str] | None) -> None:
    """By type and id, relative or under the source's base; anything else is a bad line, and no deletion."""
    assert removals({"request": {"method": "DELETE", "url": url}}) == (key,)


def test_deletions_are_read_out_of_lines() -> None:
    """Only DELETE requests count; a resource means its own deletion; any other line is bad."""
    good = {"request": {"method": "DELETE", "url": "Patient/1"}}
    odd = [{"request": {"method": "PUT", "url": "Patient/3"}}, {}, "x", {"request": "x"}]
    assert removals(good, *odd) == (Key("Patient", "1"),)
    assert bulk_export.deletions({"resourceType": "Bundle", "entry": "x"}, BASE) == ()
    assert bulk_export.deletions({"resourceType": "Patient", "id": "1"}, BASE) == removals(good)
    assert bulk_export.deletions(None, BASE) == (None,)


def test_time_stamps_only_move_forward() -> None:
    """Type by type; no stamp, no move; times are compared as moments, not as text."""
    before = {"A": "2024-01-01T12:00:00Z", "B": "2024-06-01T00:00:00Z"}
    moved = time_stamps.next_since(before, ["A", "B", "C"], "2024-01-01T14:00:00+01:00")
    assert moved == {"A": "2024-01-01T14:00:00+01:00", "B": "2024-06-01T00:00:00Z", "C": "2024-01-01T14:00:00+01:00"}
    assert time_stamps.next_since(before, ["A"], "") == before
    later = "2024-07-01T00:00:00Z"
    assert time_stamps.next_since(before, ["A", "B", "C"], later, since=before["B"]) == before | {"B": later}
    assert time_stamps.instant("2024-01-01") < time_stamps.instant("2024-01-02T00:00:00Z")
    assert time_stamps.instant("never") < time_stamps.instant("1970-01-01")


@pytest.mark.parametrize(
    ("stated", "stamp"),
    [
        ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00Z"),
        ("2024-01-01T13:00:00+01:00", "2024-01-01T13:00:00+01:00"),
        ("2024-01-01T14:00:00Z", "2024-01-01T12:00:00Z"),
        ("2999-01-01T00:00:00Z", "2024-01-01T12:00:00Z"),
        ("2024-01-01 10:00:00+00:00", "2024-01-01T10:00:00+00:00"),
        ("2024-01-01", ""),
        ("2024-01-01T10:00:00", ""),
        ("0000-00-00T00:00:00Z", ""),
        ("soon", ""),
        ("", ""),
    ],
)
def test_a_time_stamp_is_never_later_than_the_kickoff(stated: str, stamp: str) -> None:
    """Sources state the end of the job, a future time, or none: changes during the export must come next time."""
    assert time_stamps.export_stamp(stated, "2024-01-01T12:00:00Z") == stamp


def test_the_moment_of_the_kickoff_is_the_earlier_of_both_clocks() -> None:
    """The Date header, or this machine's time, which is more precise when they agree."""
    noon = time_stamps.instant("2024-01-01T12:00:00Z").timestamp()
    assert time_stamps.kickoff_moment("Mon, 01 Jan 2024 11:59:50 GMT", now=noon) == "2024-01-01T11:59:50Z"
    assert time_stamps.kickoff_moment("Mon, 01 Jan 2024 12:00:00 GMT", now=noon + 0.25) == "2024-01-01T12:00:00.250000Z"
    assert time_stamps.kickoff_moment("Mon, 01 Jan 2024 11:59:57 GMT", now=noon + 0.25) == "2024-01-01T11:59:57Z"
    assert time_stamps.kickoff_moment("Mon, 01 Jan 2024 13:00:00 GMT", now=noon) == "2024-01-01T12:00:00Z"
    assert time_stamps.kickoff_moment("soon", now=noon) == "2024-01-01T12:00:00Z"


def test_a_stored_stamp_that_no_export_can_use_is_dropped() -> None:
    """Earlier versions stored the source's values, including invalid ones and times in the future."""
    noon = time_stamps.instant("2024-01-01T12:00:00Z").timestamp()
    stamps = {"A": "2024-01-01T11:00:00Z", "B": "2999-01-01T00:00:00Z", "C": "soon", "D": ""}
    assert time_stamps.usable_stamps(stamps, now=noon) == {"A": "2024-01-01T11:00:00Z"}


def test_since_is_a_moment_with_a_time_zone() -> None:
    """An instant, as the guide has it; nothing shorter."""
    for good in ("2026-01-31T00:00:00Z", "2026-01-31T00:00:00.123+02:00"):
        assert time_stamps.is_instant(good)
    for bad in ("", "soon", "2026-01-31", "2026-01-31T00:00:00", "2026-01-31T00:00Z", "20260131T000000Z"):
        assert not time_stamps.is_instant(bad)


def test_issue_codes_are_read_from_anything() -> None:
    """The codes, and nothing of what an outcome says in words."""
    assert bulk_export.issue_codes(body({"issue": [{"code": "a"}, {"code": 1}, 2]})) == ("a",)
    assert bulk_export.issue_codes(body({"issue": "x"})) == ()
