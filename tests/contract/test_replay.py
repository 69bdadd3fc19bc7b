"""The replayer notices what differs: a comparison that passes everything would prove nothing."""

from __future__ import annotations

import pytest

from bot_layer.fhir.json import Json
from tests.contract.bot_host import Call, RecordingBotHost
from tests.contract.placeholders import Bindings
from tests.contract.replay import compare_last_modified, is_cron_event, with_changed_signature

ONE = "11111111-0000-4000-8000-000000000001"
TWO = "22222222-0000-4000-8000-000000000002"


def test_a_placeholder_keeps_the_value_it_met_first() -> None:
    """Bound at the first occurrence, compared afterwards, and filled into requests."""
    bindings = Bindings({"base": "http://h:1"})
    assert bindings.compare({"id": "<id:1>"}, {"id": ONE}, "body") == []
    assert bindings.compare("<base>/fhir/R4/Patient/<id:1>", f"http://h:1/fhir/R4/Patient/{ONE}", "url") == []
    assert bindings.compare("<id:1>", TWO, "id") != []
    assert bindings.fill("/fhir/R4/Patient/<id:1>") == f"/fhir/R4/Patient/{ONE}"


def test_two_placeholders_are_two_values() -> None:
    """If the recorded write made a new version, this one must too."""
    bindings = Bindings({"project": TWO})
    assert bindings.compare(["<version:1>"], [ONE], "v") == []
    assert "different" in bindings.compare("<version:2>", ONE, "v")[0]
    assert "different" in bindings.compare("<id:1>", TWO, "v")[0]


def test_two_writes_may_share_an_instant() -> None:
    """Instants are not distinguished; in a URL one is percent-encoded."""
    bindings = Bindings({})
    moment = "2026-01-05T03:00:00.123Z"
    assert bindings.compare(["<instant:1>", "<instant:2>"], [moment, moment], "t") == []
    assert bindings.compare("a?x=gt<instant:1>", "a?x=gt2026-01-05T03%3A00%3A00.123Z", "t") == []
    assert bindings.fill("?x=<instant:1>", in_url=True) == "?x=2026-01-05T03%3A00%3A00.123Z"


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ([1, 2], [1]),
        ([1, 2], [2, 1]),
        (True, 1),
        (0, False),
        ("a", None),
        ({"a": {"b": ["x"]}}, {"a": {"b": ["y"]}}),
        ("r=<n>", "r=many"),
        ("<id:1>", "pf-1"),
        ("<EMPTY>", "anything"),
    ],
)
def test_differences_are_named(expected: object, actual: object) -> None:
    """Missing and superfluous keys, order, types, text, and the form of a placeholder."""
    assert Bindings({}).compare(expected, actual, "body")


def test_a_value_that_was_not_recorded_is_compared_by_its_form() -> None:
    """A rest of seconds, a length, a signature."""
    assert Bindings({}).compare('"requests";r=<n>;t=<seconds>', '"requests";r=5;t=60', "RateLimit") == []


def test_a_storage_url_is_requested_as_it_was_last_seen() -> None:
    """Expiry and signature change with every answer; those of the same path are sent."""
    bindings = Bindings({"base": "http://h:1"})
    recorded = "<base>/storage/<id:1>/<version:1>?Expires=<expires>&Signature=<signature>"
    bindings.compare(recorded, f"http://h:1/storage/{ONE}/{TWO}?Expires=10&Signature=ab~c", "url")
    filled = bindings.fill("/storage/<id:1>/<version:1>?Expires=<expires>&Signature=<signature>")
    assert filled == f"/storage/{ONE}/{TWO}?Expires=10&Signature=ab~c"
    assert bindings.fill("/storage/x/y?Expires=1&Signature=<signature>") == "/storage/x/y?Expires=1&Signature=ab~c"


def test_a_pad_is_as_long_as_it_says() -> None:
    """In requests and in answers."""
    assert Bindings({}).fill_json({"a": ["<pad:3>", 1]}) == {"a": ["xxx", 1]}
    assert Bindings({}).compare("<pad:3>", "xxx", "body") == []


def test_a_trimmed_recording_is_a_part_of_the_answer() -> None:
    """Only the named keys were recorded, and of lists only some items: those must be there unchanged."""
    bindings = Bindings({"base": "http://h:1"})
    recorded = {"url": "<base>/x", "rest": [{"type": "b", "codes": ["2"]}]}
    came = {"url": "http://h:1/x", "more": 1, "rest": [{"type": "a"}, {"type": "b", "codes": ["1", "2"], "more": 2}]}
    assert bindings.compare(recorded, bindings.trimmed(recorded, came), "body") == []
    assert bindings.compare(recorded, bindings.trimmed(recorded, {**came, "rest": [{"type": "b"}]}), "body") != []


def test_last_modified_is_the_instant_of_the_version() -> None:
    """To the second, as an HTTP date."""
    body: Json = {"meta": {"lastUpdated": "2026-01-05T03:00:00.999Z"}}
    assert compare_last_modified("Mon, 05 Jan 2026 03:00:00 GMT", body) == []
    assert compare_last_modified("Mon, 05 Jan 2026 03:00:01 GMT", body) != []
    assert compare_last_modified(None, body) == []


def test_a_forged_token_differs_in_its_signature_only() -> None:
    """Whatever the first letter is."""
    assert with_changed_signature("a.b.xyz") == "a.b.Ayz"
    assert with_changed_signature("a.b.Ayz") == "a.b.Byz"


def test_a_cron_event_has_the_bot_as_input_and_no_requester() -> None:
    """That is how the replayer knows that the clock is to be moved."""
    assert is_cron_event({"body": {"input": {"resourceType": "Bot"}}})
    assert not is_cron_event({"body": {"input": {"resourceType": "Bot"}, "requester": {}}})


def test_a_call_that_nobody_planned_is_counted() -> None:
    """A look-alike that makes extra calls is noticed."""
    host = RecordingBotHost()
    with host:
        assert host.take(Call("POST", "/", {}, b"")) == {
            "status": 200,
            "headers": {"Content-Type": "application/json"},
            "body": {},
        }
        assert (host.unexpected, host.calls_waiting()) == (1, 1)
