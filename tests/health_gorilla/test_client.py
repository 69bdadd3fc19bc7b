"""Health Gorilla's FHIR API for practitioners: searches in any release, persons in any shape, and tokens that end."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import responses
from requests.structures import CaseInsensitiveDict
from responses.matchers import query_param_matcher

from bot_layer.errors import AuthError, ConfigError, PermanentError, ServiceError, TransientError
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla.client import HealthGorillaClient, created_id
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.http.policy import RetryPolicy
from bot_layer.http.transport import Answer, Transport
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches, npi
from tests.medplum_sandbox.health_gorilla_caller import Caller, clinical

BASE = "https://hg.example/fhir/R4"
TOKEN_URL = "https://hg.example/oauth/token"
TRANSPORT = Transport("Health Gorilla", RetryPolicy(retries=1, backoff=0.0, longest_wait=0.0))
_NUMBERS = itertools.count()


def client_of(gorilla: HealthGorillaSandbox, tenant: str | None = None) -> HealthGorillaClient:
    return HealthGorillaClient(hg.read(gorilla.settings()).in_tenant(tenant), TRANSPORT)


@contextmanager
def enrolled(switches: Switches | None = None, *, organization: str | None = None) -> Iterator[HealthGorillaSandbox]:
    """A look-alike that knows one clinician, and counts requests from then on."""
    with HealthGorillaSandbox(switches=switches) as gorilla:
        body = clinical(gorilla)
        if organization == "subtenant":
            body["organization"] = {"reference": f"Organization/{gorilla.subtenant_id}"}
        Caller(gorilla).enroll(body)
        gorilla.clear_requests()
        yield gorilla


def conversation() -> HealthGorillaClient:
    """A client of a partner whose answers a test writes; it has its own login, so that no token is shared."""
    responses.post(TOKEN_URL, json={"access_token": "token-1", "expires_in": 3600})
    client_id = f"client-{next(_NUMBERS)}"
    given = {"BASE_URL": BASE, "TOKEN_URL": TOKEN_URL, "CLIENT_ID": client_id, "CLIENT_SECRET": "s" * 40}
    settings = hg.read({f"HEALTH_GORILLA_{name}": value for name, value in {**given, "TENANT_ID": "t-1"}.items()})
    return HealthGorillaClient(settings, TRANSPORT)


def bundle(*found: Json, following: str | None = None) -> Json:
    links = [{"relation": "self", "url": "x"}, *([{"relation": "next", "url": following}] if following else [])]
    return {
        "resourceType": "Bundle",
        "type": "searchset",
        "entry": [{"resource": resource} for resource in found],
        "link": links,
    }


def a_role(role_id: str = "r-1", **changes: Any) -> Json:
    return {
        "resourceType": "PractitionerRole",
        "id": role_id,
        "practitioner": {"reference": "Practitioner/p-1"},
    } | changes


PERSON: Json = {"resourceType": "Practitioner", "id": "p-1"}


def fhir_calls() -> list[str]:
    return [str(call.request.url) for call in responses.calls if "/fhir/" in str(call.request.url)]


def paths(gorilla: HealthGorillaSandbox) -> list[str]:
    """The requests to the FHIR endpoints."""
    return [found.path.rpartition("/R4/")[2] for found in gorilla.requests if "/fhir/" in found.path]


# Searches


def test_the_directory_is_searched_by_npi() -> None:
    """One clinician, or none."""
    with HealthGorillaSandbox() as gorilla:
        client = client_of(gorilla)
        (found,) = client.directory(npi(1))
        assert found.name.element["family"] == "Gorilla"
        assert client.directory(npi(299_999)) == []


SHAPES: list[dict[str, Any]] = [
    {"role_practitioner": shape, "combined_search": combined}
    for shape in ("contained", "reference", "include")
    for combined in (True, False)
]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_account_is_found_with_its_person_in_every_release(shape: dict[str, Any]) -> None:
    """Contained, referred to or included; by one search where that is allowed, else by NPI and filtered."""
    with enrolled(Switches(**shape)) as gorilla:
        client = client_of(gorilla)
        (found,) = client.enrollments(npi(1))
        (account,) = gorilla.roles()
        person_id = gorilla.directory.by_npi(npi(1))[0]["id"]
        assert (found.id, found.role["id"], found.login is not None) == (person_id, account["id"], True)
        assert [one.id for one in client.accounts_of(str(person_id))] == [person_id]
        assert [one.id for one in client.members()] == [person_id]
        assert client.enrollments(npi(2)) == []


def test_a_refused_combined_search_is_remembered_for_the_server() -> None:
    """The first sync costs one request more, the others don't."""
    with enrolled(Switches(combined_search=False)) as gorilla:
        for _ in range(3):
            assert len(client_of(gorilla).enrollments(npi(1))) == 1
        statuses = [found.status for found in gorilla.requests if "/fhir/" in found.path]
    assert statuses == [400, 200, 200, 200]


def test_an_unchanged_look_costs_one_request() -> None:
    """If the release allows the combined search."""
    with enrolled() as gorilla:
        client_of(gorilla).enrollments(npi(1))
        assert paths(gorilla) == ["PractitionerRole"]


@pytest.mark.parametrize("combined", [True, False])
def test_accounts_of_other_tenants_are_left_out(combined: bool) -> None:
    """A subtenant's account is not the tenant's, and the other way round."""
    with enrolled(Switches(combined_search=combined), organization="subtenant") as gorilla:
        assert client_of(gorilla).enrollments(npi(1)) == []
        assert len(client_of(gorilla, gorilla.subtenant_id).enrollments(npi(1))) == 1


@responses.activate
def test_a_role_without_organization_is_of_the_logins_own_tenant() -> None:
    """So it is left out if people are enrolled in another one."""
    client = conversation()
    responses.get(
        f"{BASE}/PractitionerRole", json=bundle(a_role(), a_role("r-2", organization={"reference": "x/t-2"}), PERSON)
    )
    assert [found.role["id"] for found in client.enrollments(npi(1))] == ["r-1"]
    elsewhere = HealthGorillaClient(client.settings.in_tenant("t-2"), TRANSPORT)
    assert [found.role["id"] for found in elsewhere.enrollments(npi(1))] == ["r-2"]


@responses.activate
def test_pages_are_read_only_from_this_host() -> None:
    """Only the query of the link is used: a token never goes to another host."""
    client = conversation()
    url = f"{BASE}/PractitionerRole"
    query = {"organization": "t-1", "_include": "PractitionerRole:practitioner"}
    first = bundle(a_role(), PERSON, following="https://elsewhere.example/x/PractitionerRole?_cursor=a%2Bb&_count=2")
    responses.get(url, json=first, match=[query_param_matcher(query)])
    second = bundle(a_role("r-2"), PERSON)
    responses.get(url, json=second, match=[query_param_matcher({"_cursor": "a+b", "_count": "2"})])
    assert [found.role["id"] for found in client.members()] == ["r-1", "r-2"]
    assert all(call.startswith(BASE) for call in fhir_calls())


@responses.activate
def test_an_answer_without_end_is_given_up() -> None:
    """At most twenty pages are read; then the operator gets an error."""
    client = conversation()
    responses.get(f"{BASE}/Organization", json=bundle(following=f"{BASE}/Organization?_cursor=again"))
    with pytest.raises(PermanentError) as caught:
        client.search("Organization", [("partof", "t-1")])
    assert (caught.value.code, caught.value.path) == ("answer-too-large", "Organization")
    assert "more than 20 pages" in caught.value.message
    assert len(fhir_calls()) == 20


@responses.activate
def test_the_accounts_of_a_person_are_read_to_the_last_page() -> None:
    """The combined search has pages too: an account on the second page does not count as missing."""
    client = conversation()
    url = f"{BASE}/PractitionerRole"
    combined = {"practitioner": "p-1", "_include": "PractitionerRole:practitioner", "organization": "t-1"}
    first = bundle(following=f"{url}?_cursor=2")
    responses.get(url, json=first, match=[query_param_matcher(combined)])
    responses.get(url, json=bundle(a_role(), PERSON), match=[query_param_matcher({"_cursor": "2"})])
    assert [found.role["id"] for found in client.accounts_of("p-1")] == ["r-1"]


@responses.activate
def test_twenty_pages_are_read() -> None:
    """In their order, and the bound is not reached."""
    client = conversation()
    url = f"{BASE}/Organization"
    for number in range(20):
        following = f"{url}?_cursor={number + 1}" if number < 19 else None
        page = bundle({"resourceType": "Organization", "id": str(number)}, following=following)
        responses.get(url, json=page, match=[query_param_matcher({"_cursor": str(number)} if number else {})])
    found = client.search("Organization", [])
    assert [organization["id"] for organization in found] == [str(number) for number in range(20)]


@responses.activate
@pytest.mark.parametrize("entries", ["", ', "entry": null', ', "entry": []', ', "total": 0'])
def test_a_searchset_without_entries_is_no_account(entries: str) -> None:
    """Health Gorilla leaves entries out."""
    client = conversation()
    responses.get(f"{BASE}/PractitionerRole", body=f'{{"resourceType": "Bundle", "type": "searchset"{entries}}}')
    assert client.enrollments(npi(1)) == []


@responses.activate
@pytest.mark.parametrize("body", ["", "[]", "{}", "null", '{"entry": []}'])
def test_an_answer_without_a_resource_is_not_taken_for_nobody(body: str) -> None:
    """Otherwise an enrolled person would be enrolled again."""
    client = conversation()
    responses.get(f"{BASE}/PractitionerRole", body=body)
    with pytest.raises(TransientError) as caught:
        client.enrollments(npi(1))
    assert (caught.value.code, caught.value.maybe_done) == ("unreadable-answer", False)


@responses.activate
def test_another_person_is_not_mistaken_for_the_requested_one() -> None:
    """A server that ignores the NPI returns any people: those with another NPI are left out."""
    client = conversation()

    def person(number: int) -> Json:
        given = {"system": "http://hl7.org/fhir/sid/us-npi", "value": npi(number)}
        return {"resourceType": "Practitioner", "id": f"p-{number}", "identifier": [given]}

    people = [person(1), person(2)]
    roles = [a_role(f"r-{n}", practitioner={"reference": f"Practitioner/p-{n}"}) for n in (1, 2)]
    responses.get(f"{BASE}/PractitionerRole", json=bundle(*roles, *people))
    responses.get(f"{BASE}/Practitioner", json=bundle(*people))
    assert [account.id for account in client.enrollments(npi(1))] == ["p-1"]
    assert [entry.id for entry in client.directory(npi(2))] == [person(2)["id"]]


@responses.activate
def test_a_search_that_is_refused_otherwise_is_an_error() -> None:
    """404 or 422 says nothing about the combined search, and does not count as an empty answer."""
    client = conversation()
    responses.get(f"{BASE}/PractitionerRole", status=422, json={"issue": [{"code": "invalid"}]})
    with pytest.raises(PermanentError) as caught:
        client.enrollments(npi(1))
    assert (caught.value.status, len(fhir_calls())) == (422, 1)
    assert npi(1) not in str(caught.value)


# Persons


@responses.activate
def test_a_person_is_read_if_only_a_reference_is_returned() -> None:
    """At this host, without the reference's own host and version."""
    client = conversation()
    responses.get(
        f"{BASE}/PractitionerRole/r-1",
        json=a_role(practitioner={"reference": "https://x.example/Practitioner/p-1/_history/2"}),
    )
    responses.get(f"{BASE}/Practitioner/p-1", json=PERSON)
    found = client.enrollment("r-1")
    assert (found.person, found.id) == (PERSON, "p-1")


@responses.activate
def test_a_person_who_cannot_be_read_still_has_an_id() -> None:
    """404: some users can't be read on their own. Any other refusal is an error."""
    client = conversation()
    person = responses.get(f"{BASE}/Practitioner/p-1", status=404)
    found = client.account(a_role())
    assert (found.person, found.id) == (None, "p-1")
    responses.remove(person)
    responses.get(f"{BASE}/Practitioner/p-1", status=410)
    with pytest.raises(PermanentError):
        client.account(a_role())


@responses.activate
@pytest.mark.parametrize("practitioner", [{}, {"reference": "#pr"}])
def test_nobody_is_looked_for_without_a_reference(practitioner: Json) -> None:
    """A fragment that refers to nothing is no id."""
    client = conversation()
    assert client.account(a_role(practitioner=practitioner)).person is None
    assert fhir_calls() == []


@responses.activate
def test_a_person_who_is_included_is_not_read_again() -> None:
    """Neither an included one nor a contained one."""
    client = conversation()
    contained = a_role(practitioner={"reference": "#p-1"}, contained=[PERSON])
    assert client.account(contained).person == PERSON
    assert client.account(a_role(), [PERSON]).person == PERSON
    assert fhir_calls() == []


# Writing


@responses.activate
def test_the_same_content_carries_the_same_key() -> None:
    """A retry after a lost answer creates no second account; another login is another request."""
    client = conversation()
    responses.post(f"{BASE}/PractitionerRole", status=201)
    for body in ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3}):
        client.create("PractitionerRole", body)
    keys = [
        str(call.request.headers["HG-Idempotency-Key"]) for call in responses.calls if "/fhir/" in str(call.request.url)
    ]
    assert keys[0] == keys[1] != keys[2]
    assert all(uuid.UUID(key).version == 4 for key in keys)


@responses.activate
@pytest.mark.parametrize(("meta", "expected"), [({"versionId": "7"}, 'W/"7"'), ({}, None)])
def test_an_update_is_guarded_by_the_version_where_it_is_known(meta: Json, expected: str | None) -> None:
    """If-Match, as FHIR writes it."""
    client = conversation()
    responses.put(f"{BASE}/PractitionerRole/r-1", status=200)
    assert client.update("PractitionerRole", {**a_role(), "meta": meta}).ok
    sent = responses.calls[-1].request
    assert sent.headers.get("If-Match") == expected
    assert (sent.headers["Content-Type"], sent.headers["Authorization"]) == ("application/fhir+json", "Bearer token-1")
    assert json.loads(str(sent.body, "utf-8") if isinstance(sent.body, bytes) else str(sent.body))["id"] == "r-1"


def answer(location: str | None = None, body: Any = None) -> Answer:
    headers = CaseInsensitiveDict({"location": location} if location is not None else {})
    return Answer(
        "Health Gorilla", "POST", "PractitionerRole", 201, headers, json.dumps(body).encode() if body else b""
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (answer("https://hg.example/fhir/R4/PractitionerRole/r-1"), "r-1"),
        (answer("https://hg.example/fhir/R4/PractitionerRole/r-1/_history/1?x=y"), "r-1"),
        (answer("PractitionerRole/r-1"), "r-1"),
        (answer("/fhir/R4/PractitionerRole/r-1/_history/1"), "r-1"),
        (answer("https://hg.example/fhir/R4/PractitionerRole"), None),
        (answer("https://hg.example/fhir/R4/PractitionerRole/"), None),
        (answer("https://hg.example/fhir/R4/Practitioner/p-1"), None),
        (answer("", a_role()), "r-1"),
        (answer(None, a_role()), "r-1"),
        (answer(None, PERSON), None),
        (answer(None, {"resourceType": "PractitionerRole"}), None),
        (answer(), None),
    ],
)
def test_the_created_id_comes_from_location_or_body(given: Answer, expected: str | None) -> None:
    """By any form of Location, else by the returned resource, else not at all."""
    assert created_id(given, "PractitionerRole") == expected


@pytest.mark.parametrize("shape", ["absolute", "absolute_history", "relative", "relative_history"])
@pytest.mark.parametrize("empty", [True, False])
def test_the_look_alike_names_what_it_created(shape: Any, empty: bool) -> None:
    """And the account can be read by it."""
    with HealthGorillaSandbox(switches=Switches(location_header=shape, empty_create_body=empty)) as gorilla:
        client = client_of(gorilla)
        made = created_id(client.create("PractitionerRole", clinical(gorilla)), "PractitionerRole")
        assert client.enrollment(str(made)).role["id"] == gorilla.roles()[0]["id"]


# Tokens and refusals


def test_a_token_that_ended_early_is_replaced_once() -> None:
    """The call succeeds, and the new token is kept."""
    with enrolled() as gorilla:
        client = client_of(gorilla)
        client.enrollments(npi(1))
        gorilla.expire_tokens()
        assert len(client.enrollments(npi(1))) == 1
        client.enrollments(npi(1))
        asked = [(found.method, found.status) for found in gorilla.requests]
    assert asked == [("POST", 200), ("GET", 200), ("GET", 401), ("POST", 200), ("GET", 200), ("GET", 200)]


def test_a_create_with_a_token_that_ended_is_sent_again() -> None:
    """401 is answered before anything is done."""
    with HealthGorillaSandbox() as gorilla:
        client = client_of(gorilla)
        client.token()
        gorilla.expire_tokens()
        assert client.create("PractitionerRole", clinical(gorilla)).ok
        assert len(gorilla.roles()) == 1


def test_a_token_that_is_refused_again_is_for_the_operator() -> None:
    """Two tokens and no third one."""
    with enrolled() as gorilla:
        gorilla.faults.add("expired_token")
        with pytest.raises(AuthError) as caught:
            client_of(gorilla).enrollments(npi(1))
        tokens = [found for found in gorilla.requests if found.path == "/oauth/token"]
    assert (caught.value.code, len(tokens)) == ("login-refused", 2)


@responses.activate
@pytest.mark.parametrize(
    ("status", "kind", "maybe_done"),
    [
        (403, AuthError, None),
        (429, TransientError, False),
        (500, TransientError, True),
        (501, PermanentError, None),
        (503, TransientError, True),
    ],
)
def test_an_answer_that_no_rule_reads_is_an_error(status: int, kind: type[Exception], maybe_done: bool | None) -> None:
    """Missing rights, rate limits and failures are raised; after a failed write a person must check first."""
    client = conversation()
    responses.post(f"{BASE}/PractitionerRole", status=status, json={"issue": [{"diagnostics": "Zzyzx"}]})
    with pytest.raises(kind) as caught:
        client.create("PractitionerRole", {"name": "Zzyzx"})
    assert getattr(caught.value, "maybe_done", None) is maybe_done
    assert "Zzyzx" not in f"{caught.value!r} {caught.value.__dict__}"


@responses.activate
@pytest.mark.parametrize("status", [200, 202, 400, 404, 409, 412, 422])
def test_the_result_of_a_rule_is_returned(status: int) -> None:
    """Refusals with a reason are answers."""
    client = conversation()
    responses.post(f"{BASE}/PractitionerRole", status=status)
    assert client.create("PractitionerRole", {}).status == status


def test_a_gateways_page_is_no_account() -> None:
    """HTML with status 200 is a transient error and does not mean "not enrolled"."""
    with enrolled() as gorilla:
        gorilla.faults.add("html", method="GET", status=200)
        with pytest.raises(TransientError) as caught:
            client_of(gorilla).enrollments(npi(1))
    assert caught.value.code == "unreadable-answer"


@pytest.mark.parametrize("kind", ["too_many", "server_error"])
def test_a_busy_answer_is_waited_for(kind: str) -> None:
    """Reads are repeated; if the service stays busy, that is reported."""
    with enrolled() as gorilla:
        client = client_of(gorilla)
        client.token()
        gorilla.faults.add(kind, times=1)
        assert len(client.enrollments(npi(1))) == 1
        gorilla.faults.add(kind)
        with pytest.raises(ServiceError) as caught:
            client.enrollments(npi(1))
    assert isinstance(caught.value, TransientError)


def test_the_settings_make_a_client() -> None:
    """All that is missing is named at once, and no secret is shown."""
    least = {
        "HEALTH_GORILLA_CLIENT_ID": "c",
        "HEALTH_GORILLA_CLIENT_SECRET": "hush" * 9,
        "HEALTH_GORILLA_TENANT_ID": "t-1",
    }
    made = health_gorilla.connect({**least, "BOT_RETRIES": "7"})
    assert (made.settings.tenant_id, made.transport.policy.retries) == ("t-1", 7)
    assert "hush" not in repr(made)
    with pytest.raises(ConfigError) as caught:
        health_gorilla.connect({})
    missing: Sequence[str] = caught.value.missing
    assert len(missing) == 3


@responses.activate
def test_a_part_of_an_answer_is_no_answer() -> None:
    """The total is larger than the pages: a missing entry may be the searched one."""
    answer = {**bundle({"resourceType": "Patient", "id": "p-1"}), "total": 2}
    responses.get(f"{BASE}/Patient", json=answer)
    with pytest.raises(ServiceError) as caught:
        conversation().search("Patient", [("family", "Quandt")])
    assert caught.value.code == "unreadable-answer"
