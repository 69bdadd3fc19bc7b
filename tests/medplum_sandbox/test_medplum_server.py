"""The Medplum look-alike as a server: what it stores, who may log in, and what it counts."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.medplum.middleware import RequestCounter
from medplum_sandbox.medplum.outcomes import FhirError
from medplum_sandbox.medplum.projects import new_project
from medplum_sandbox.medplum.quota import Quotas
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.medplum.store import Store
from medplum_sandbox.medplum.world import Actor, World
from tests import loopback
from tests.medplum_sandbox.medplum_caller import SYSTEM, caller, entry, medplum, patient, text_of


def test_a_file_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    """Resources, versions, indexes, content, project and client: as if the server had never stopped."""
    db = tmp_path / "medplum.sqlite"
    with medplum(db=db) as (sandbox, client):
        made = client.created(patient("a"))
        changed = client.put(f"Patient/{made['id']}", json={**made, "active": True}).json()
        binary = client.post("Binary", content=b"text", headers={"Content-Type": "text/plain"}).json()
        owner, email, project = sandbox.owner_profile_id, sandbox.owner_email, sandbox.project_id
    with medplum(db=db) as (sandbox, client):
        assert client.found(f"Patient?identifier={SYSTEM}|a") == [changed]
        assert client.get(f"Patient/{made['id']}/_history").json()["total"] == 2
        assert client.get(f"Binary/{binary['id']}").content == b"text"
        assert (sandbox.owner_profile_id, sandbox.owner_email, sandbox.project_id) == (owner, email, project)
        assert client.created(patient("b"))["id"]


def test_a_fresh_project_holds_its_owner_and_nothing_clinical() -> None:
    """One Practitioner, no Patient."""
    with medplum() as (sandbox, client):
        assert [one["id"] for one in client.found("Practitioner")] == [sandbox.owner_profile_id]
        assert client.found("Patient") == []


def test_projects_do_not_see_each_other() -> None:
    """Neither by search nor by id."""
    with medplum() as (sandbox, client):
        made = client.created(patient("a"))
        other = new_project(sandbox.world, "Other")
        login = httpx.BasicAuth(other.client_id, other.client_secret)
        url = f"{sandbox.base_url}/fhir/R4/Patient"
        assert "entry" not in loopback.get(url, auth=login).json()
        assert loopback.get(f"{url}/{made['id']}", auth=login).status_code == 404


def test_a_token_lives_twelve_hours_by_the_sandbox_clock() -> None:
    """One second later it is 401."""
    with medplum() as (sandbox, client):
        assert client.get("Patient").status_code == 200
        sandbox.world.clock = lambda: datetime.now(UTC) + timedelta(hours=12, seconds=1)
        assert client.get("Patient").status_code == 401


def test_a_client_that_was_deleted_gets_no_token() -> None:
    """Its old tokens end with its membership."""
    with medplum() as (sandbox, _):
        other = new_project(sandbox.world, "Other", second_client=True)
        owner = caller(sandbox, None)
        login = httpx.BasicAuth(other.plain_client_id or "", other.plain_client_secret or "")
        url = f"{sandbox.base_url}/oauth2/token"
        form = {"grant_type": "client_credentials"}
        token = loopback.post(url, data=form, auth=login).json()["access_token"]
        admin = httpx.BasicAuth(other.client_id, other.client_secret)
        fhir = f"{sandbox.base_url}/fhir/R4"
        found = loopback.get(
            f"{fhir}/ProjectMembership", params={"profile": f"ClientApplication/{other.plain_client_id}"}, auth=admin
        )
        membership = found.json()["entry"][0]["resource"]["id"]
        loopback.request("DELETE", f"{fhir}/ProjectMembership/{membership}", auth=admin).raise_for_status()
        assert loopback.post(url, data=form, auth=login).status_code == 400
        assert caller(sandbox, token).get("Patient").status_code == 401
        loopback.request("DELETE", f"{fhir}/ClientApplication/{other.plain_client_id}", auth=admin).raise_for_status()
        assert loopback.post(url, data=form, auth=login).json()["error_description"] == "Invalid client"
        assert owner.get("Patient").status_code == 200


@pytest.mark.parametrize("credentials", ["not base64!", base64.b64encode(b"\xff\xfe").decode()])
def test_a_basic_header_that_cannot_be_read_is_nobody(credentials: str) -> None:
    """401, not a crash."""
    with medplum() as (_, client):
        assert client.get("Patient", headers={"Authorization": f"Basic {credentials}"}).status_code == 401


def test_an_endpoint_that_breaks_answers_as_the_server_does(caplog: pytest.LogCaptureFixture) -> None:
    """500 without a reason; the reason is logged."""
    with medplum() as (sandbox, client):
        sandbox.world.store.close()
        answer = client.get("Patient")
        assert (answer.status_code, answer.json()) == (500, {"msg": "Internal Server Error"})
        assert "An endpoint of the sandbox failed" in caplog.text


def test_every_request_is_recorded_with_its_status() -> None:
    """Tests count by it what a bot costs."""
    with medplum() as (sandbox, client):
        client.get("Patient?name=x")
        client.get("Patient/1")
        seen = [(one.method, one.path, one.query, one.status) for one in sandbox.requests]
        assert seen == [("GET", "/fhir/R4/Patient", "name=x", 200), ("GET", "/fhir/R4/Patient/1", "", 404)]


def test_the_quota_is_restored_after_a_minute() -> None:
    """The window starts with the first unit, not with the clock's minute."""
    now = [0.0]
    quotas = Quotas(100, clock=lambda: now[0])
    quotas.charge("p", "m", 100)
    with pytest.raises(FhirError) as refused:
        quotas.charge("p", "m", 1)
    assert refused.value.status == 429
    quotas.charge("p", "other", 100)
    now[0] = 60.0
    quotas.charge("p", "m", 100)


def test_requests_are_counted_by_the_minute() -> None:
    """A refused one does not count; after a minute the oldest is forgotten."""
    now = [0.0]
    counter = RequestCounter({"auth": 1}, clock=lambda: now[0])
    assert [counter.take("auth", "a"), counter.take("auth", "a"), counter.take("auth", "b")] == [0, -1, 0]
    now[0] = 60.0
    assert counter.take("auth", "a") == 0


def test_a_project_may_have_a_quota_of_its_own(tmp_path: Path) -> None:
    """As its systemSetting says, also after a restart."""
    db = tmp_path / "medplum.sqlite"
    with MedplumSandbox(db=db) as sandbox:
        project = sandbox.world.store.get(sandbox.project_id)
        assert project is not None
        setting = [{"name": "userFhirQuota", "valueInteger": 30}, {"name": "other", "valueInteger": 1}]
        server = Repository(sandbox.world, Actor(sandbox.project_id, {"profile": {}}, {}, free=True))
        server.update({**project.resource(), "systemSetting": setting})
    with medplum(db=db) as (_, client):
        assert [client.get("Patient").status_code for _ in range(2)] == [200, 429]


def test_listeners_get_only_committed_changes() -> None:
    """Create, update and delete; not of a write that changes nothing or is undone."""
    with medplum() as (sandbox, client):
        heard: list[tuple[str, bool]] = []
        sandbox.world.listeners.append(lambda c: heard.append((c.interaction, c.previous is not None)))
        made = client.created(patient("a"))
        client.put(f"Patient/{made['id']}", json=made)
        client.put(f"Patient/{made['id']}", json={**made, "active": True})
        client.post("Patient", json={**patient("b"), "shoeSize": 1})
        client.delete(f"Patient/{made['id']}")
        assert heard == [("create", False), ("update", True), ("delete", True)]


def test_a_transaction_that_fails_leaves_nothing_behind() -> None:
    """Not even the names under which the index would have known its resources."""
    world = World(store=Store())
    server = Repository(world, Actor("p", {"profile": {}}, {}, free=True))

    def half() -> None:
        with world.transaction():
            server.create(patient("a"))
            raise LookupError

    with pytest.raises(LookupError):
        half()
    assert server.find("Patient", []) == []
    server.create({"resourceType": "Basic", "identifier": [{"system": SYSTEM, "value": "a"}], "code": {"text": "x"}})
    assert server.find("Patient", [("identifier", "a")]) == []


def test_later_transactions_have_later_instants() -> None:
    """Even when the clock does not move: ``_lastUpdated`` distinguishes them."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    world = World(store=Store(), clock=lambda: moment)
    server = Repository(world, Actor("p", {"profile": {}}, {}, free=True))
    stamps = [server.create(patient(v))["meta"]["lastUpdated"] for v in "ab"]
    assert stamps == ["2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00.001Z"]


def test_a_member_can_be_named_for_a_token() -> None:
    """The owner's token acts as the owner."""
    with medplum() as (sandbox, _):
        owner = caller(sandbox, sandbox.token_for(f"Practitioner/{sandbox.owner_profile_id}"))
        extended = owner.post("Patient", json=patient("a"), headers={"X-Medplum": "extended"}).json()
        assert extended["meta"]["author"]["display"] == "Project Owner"
        assert [c["reference"] for c in extended["meta"]["compartment"]] == [
            f"Project/{sandbox.project_id}",
            f"Patient/{extended['id']}",
        ]


def test_patient_context_of_a_version_is_kept_for_later() -> None:
    """History pages by _count and _offset; the version that deleted is 410."""
    with medplum() as (_, client):
        made = client.created(patient("a"))
        path = f"Patient/{made['id']}"
        client.put(path, json={**made, "active": True})
        client.delete(path)
        history = client.get(f"{path}/_history?_count=1&_offset=1").json()
        assert [one["resource"]["active"] for one in history["entry"]] == [True]
        deleted = client.get(f"{path}/_history").json()["entry"][0]["request"]["url"]
        assert client.get(deleted).status_code == 410


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"op": "add"}, "Patch body must be an array"),
        ([{"op": "fly", "path": "/a"}], "Invalid operation: fly"),
        ([1], "Invalid operation: undefined"),
        ([{"op": "add", "path": "/a/b"}, {"op": "remove", "path": "/c"}], "/a/b\nValue required at path: /c"),
        ([{"op": "add", "path": "a"}], "Invalid JSON Pointer: a"),
        ([{"op": "copy", "from": "/a", "path": "/b"}], "Value required at path: /a"),
    ],
)
def test_a_patch_that_is_none_is_refused(body: object, text: str) -> None:
    """400 with every operation that fails, and nothing changes."""
    with medplum() as (_, client):
        made = client.created(patient("a"))
        answer = client.patch(f"Patient/{made['id']}", json=body)
        assert answer.status_code == 400
        assert text_of(answer).endswith(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "Test failed: undefined != x"),
        (True, "Test failed: undefined != true"),
        ({"a": 1}, "Test failed: undefined != [object Object]"),
        (["a", None], "Test failed: undefined != a,"),
    ],
)
def test_a_failed_patch_test_is_reported_as_javascript_writes_values(value: object, text: str) -> None:
    """Whatever was compared."""
    with medplum() as (_, client):
        made = client.created(patient("a"))
        answer = client.patch(f"Patient/{made['id']}", json=[{"op": "test", "path": "/gender", "value": value}])
        assert text_of(answer) == text


def test_conditional_references_show_what_their_target_is_called() -> None:
    """A name, a text, a title or a code; nothing if there is none."""
    with medplum() as (_, client):
        client.created({"resourceType": "Organization", "identifier": [{"value": "o"}], "name": "Clinic"})
        client.created(
            {"resourceType": "Basic", "identifier": [{"value": "b"}], "code": {"coding": [{"display": "D"}]}}
        )
        client.created({"resourceType": "Basic", "identifier": [{"value": "c"}], "code": {"coding": [{"code": "d"}]}})
        client.created({"resourceType": "Location", "identifier": [{"value": "l"}]})
        client.created(
            {
                "resourceType": "List",
                "identifier": [{"value": "t"}],
                "status": "current",
                "mode": "working",
                "title": "T",
            }
        )
        targets = ("Organization?identifier=o", "Basic?identifier=b", "Basic?identifier=c", "Location?identifier=l")
        items = [{"item": {"reference": target}} for target in (*targets, "List?identifier=t")]
        made = client.created({"resourceType": "List", "status": "current", "mode": "working", "entry": items})
        shown = [one["item"].get("display") for one in made["entry"]]
        assert shown == ["Clinic", "D", None, None, "T"]


def test_a_conditional_reference_to_no_type_matches_nothing() -> None:
    """As one that finds nothing."""
    with medplum() as (_, client):
        answer = client.post("Basic", json={"resourceType": "Basic", "subject": {"reference": "Nothing?a=b"}})
        assert answer.status_code == 400
        body = {"resourceType": "Basic", "code": {"text": "x"}, "subject": {"reference": "Nothing?a=b"}}
        assert "did not match any resources" in text_of(client.post("Basic", json=body))


def test_a_batch_reads_versions_and_refuses_unknown_routes() -> None:
    """vread works; operations, foreign paths and writes to unusual paths are 404."""
    with medplum() as (_, client):
        made = client.created(patient("a"))
        path = f"Patient/{made['id']}"
        answered = client.batch(
            entry("GET", f"{path}/_history/{made['meta']['versionId']}"),
            entry("GET", f"{path}/a/b/c"),
            entry("POST", "Patient/$op", patient("b")),
            entry("POST", "Patient/x", patient("b")),
            entry("PATCH", "Patient", {"resourceType": "Binary", "data": ""}),
            entry("PATCH", path, patient("b")),
            entry("PATCH", path, {"resourceType": "Binary", "contentType": "a/b", "data": "AAAA"}),
            entry("PUT", f"Patient?identifier={SYSTEM}|z", {"resourceType": "Basic"}),
            entry("PUT", path, patient("a")),
            entry("DELETE", f"Patient?identifier={SYSTEM}|nobody"),
        )
        statuses = [one["response"]["status"] for one in answered]
        assert statuses == ["200", "404", "404", "404", "404", "400", "400", "400", "400", "200"]


def test_a_transaction_takes_fifty_updates_at_most() -> None:
    """As recorded in words: the fifty-first is refused before anything is done."""
    with medplum(features=("transaction-bundles",)) as (_, client):
        made = client.created(patient("a"))
        updates = [entry("PUT", f"Patient/{made['id']}", {**made, "active": True}) for _ in range(51)]
        answer = client.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": updates})
        assert (answer.status_code, text_of(answer)) == (
            400,
            "Transaction contains more update operations than allowed",
        )
        assert len(client.batch(*updates[:50], type="transaction")) == 50


def test_a_binary_of_fhir_json_gets_a_new_version_by_put() -> None:
    """Raw content does not; a missing Binary cannot be replaced; bad base64 is refused."""
    headers = {"Content-Type": "application/fhir+json"}
    with medplum() as (_, client):
        body = {"resourceType": "Binary", "contentType": "text/plain", "data": "b25l"}
        made = client.post("Binary", json=body, headers=headers).json()
        path = f"Binary/{made['id']}"
        changed = client.put(path, json={**body, "id": made["id"], "data": "dHdv"}, headers=headers).json()
        assert changed["meta"]["versionId"] != made["meta"]["versionId"]
        assert client.get(path).content == b"two"
        missing = "Binary/00000000-0000-4000-8000-000000000000"
        assert client.put(missing, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 404
        assert client.post("Binary", json={**body, "data": "a"}, headers=headers).status_code == 400


def test_a_storage_url_ends_with_its_binary() -> None:
    """A deleted Binary has no content any more."""
    with medplum() as (_, client):
        made = client.post("Binary", content=b"x", headers={"Content-Type": "text/plain"}).json()
        assert loopback.get(made["url"]).content == b"x"
        client.delete(f"Binary/{made['id']}")
        assert loopback.get(made["url"]).status_code == 404


def test_an_unresolvable_reference_is_reported_before_a_structural_error() -> None:
    """The server resolves conditional references first; its own part of ``meta`` is not looked at."""
    with medplum() as (_, client):
        wrong = patient("a", foo=1, managingOrganization={"reference": "Organization?identifier=nobody"})
        answer = client.post("Patient", json=wrong)
        assert answer.json()["issue"] == [
            {
                "severity": "error",
                "code": "invalid",
                "details": {
                    "text": "Conditional reference 'Organization?identifier=nobody' did not match any resources"
                },
                "expression": ["Patient.managingOrganization"],
            }
        ]
        assert client.post("Patient", json=patient("a", meta={"versionId": 5, "lastUpdated": "x"})).status_code == 201


def test_a_warning_is_reported_with_an_error_and_refuses_nothing_by_itself() -> None:
    """A reference to a type that the element does not name, and two forms of one choice."""
    with medplum() as (_, client):
        odd = patient(
            "a", generalPractitioner=[{"reference": "Location/1"}], deceasedBoolean=True, deceasedDateTime="2024"
        )
        assert client.post("Patient", json=odd).status_code == 201
        issues = client.post("Patient", json={**odd, "foo": 1}).json()["issue"]
        assert sorted(issue["severity"] for issue in issues) == ["error", "warning", "warning"]


def test_a_property_beside_an_object_is_merged_into_it() -> None:
    """As the server does when it reads ``_maritalStatus``."""
    with medplum() as (_, client):
        made = client.created(patient("a", maritalStatus={"text": "M"}, _maritalStatus={"id": "x"}))
        assert made["maritalStatus"] == {"text": "M", "id": "x"}


def test_a_reference_that_is_no_text_makes_the_server_trip() -> None:
    """400 with what JavaScript says."""
    with medplum() as (_, client):
        answer = client.post("Schedule", json={"resourceType": "Schedule", "actor": [{"reference": {"id": "y"}}]})
        assert (answer.status_code, text_of(answer)) == (400, "reference.reference?.startsWith is not a function")


def test_a_version_that_the_caller_has_is_not_sent_again() -> None:
    """304 for its ETag, weak or not, and for any; 200 for another one."""
    with medplum() as (_, client):
        made = client.created(patient("a"))
        etag = f'W/"{made["meta"]["versionId"]}"'
        path = f"Patient/{made['id']}"
        statuses = [
            client.get(path, headers={"If-None-Match": wanted}).status_code
            for wanted in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*", '"x"')
        ]
        assert statuses == [304, 304, 304, 304, 200]
        assert client.get(path, headers={"If-None-Match": etag}).content == b""


def test_a_resource_is_validated_without_being_stored() -> None:
    """``$validate`` answers as a create would, and stores nothing."""
    with medplum() as (_, client):
        good = client.post("Basic/$validate", json={"resourceType": "Basic", "code": {"text": "x"}})
        bad = client.post("Basic/$validate", json={"resourceType": "Basic"})
        assert (good.status_code, text_of(good)) == (200, "All OK")
        assert (bad.status_code, text_of(bad)) == (400, "Missing required property")
        assert client.found("Basic") == []


@pytest.mark.parametrize(
    ("form", "headers", "reason"),
    [
        ("grant_type=client_credentials", {"Authorization": "Bearer x"}, "Invalid authorization header"),
        ("grant_type=authorization_code", {"Authorization": "x y"}, "Invalid authorization header"),
        ("grant_type=authorization_code", {}, "Missing code"),
        ("grant_type=authorization_code&code=x", {}, "Invalid code"),
        ("grant_type=refresh_token&refresh_token=x", {}, "Invalid refresh token"),
        ("grant_type=magic", {"Authorization": "Bearer x"}, "Unsupported grant_type"),
    ],
)
def test_a_token_request_is_refused_with_its_reason(form: str, headers: dict[str, str], reason: str) -> None:
    """As a real 5.1.13 refuses it."""
    with medplum() as (sandbox, _):
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = loopback.post(f"{sandbox.base_url}/oauth2/token", content=form, headers=kind | headers)
        assert (answer.status_code, answer.json()["error_description"]) == (400, reason)


def test_outside_of_the_fhir_api_nothing_is_a_page() -> None:
    """The web framework's own answer; within it is an outcome."""
    with medplum() as (sandbox, client):
        page = client.get(f"{sandbox.base_url}/admin/<x>")
        assert (page.status_code, "Cannot GET /admin/" in page.text, "<x>" in page.text) == (404, True, False)
        assert text_of(client.get("Patient/x/y/z")) == "Not found"


@pytest.mark.parametrize("body", [{}, {"resourceType": "Basic"}, []])
def test_an_update_with_another_type_is_refused(body: object) -> None:
    """The error does not say which type was expected, as for a create."""
    with medplum() as (_, client):
        assert (
            text_of(client.put("Patient/00000000-0000-4000-8000-000000000000", json=body)) == "Incorrect resource type"
        )
