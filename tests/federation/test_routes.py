"""The federated responder on loopback, in front of the Medplum look-alike: its answers and its refusals."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import jwt
import pytest

from bot_layer.federation.rules.token import hash_secret
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json
from bot_layer.fhir.security_labels import CONFIDENTIALITY_SYSTEM
from bot_layer.medplum.client import connect_client
from medplum_sandbox.health_gorilla.network import NetworkError
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests.federation.federated_world import CCD, CLIENT_ID, Network, network


@pytest.fixture
def world() -> Iterator[Network]:
    """A responder with the usual settings."""
    with network() as made:
        yield made


def search(client: httpx.Client, query: str) -> httpx.Response:
    """The answer to a query."""
    return client.get(f"fhir/R4/DocumentReference?{query}")


# The conversation


def test_the_network_gets_the_documents_of_a_registered_patient(world: Network) -> None:
    """Token, query, fetch: size, hash and content type are those that were promised."""
    patient = world.patient()
    world.document(patient)
    world.document(patient, b"%PDF-1.7", date="2026-02-01T00:00:00Z")
    caller = world.caller()
    found = caller.query(patient["id"])
    assert [caller.fetch(document) for document in found] == [b"%PDF-1.7", CCD]
    assert {document["subject"]["reference"] for document in found} == {f"Patient/{patient['id']}"}


def test_nobody_and_nothing_are_a_total_of_zero(world: Network) -> None:
    """An unknown id, a patient without documents, an unregistered one, an inactive one: 200 and 0."""
    unregistered = world.patient(identifier=[])
    inactive = world.patient(active=False)
    for patient in (unregistered, inactive):
        world.document(patient)
    asked = [
        "7d3f0e52-0000-4000-8000-000000000404",
        "no such/../id",
        world.patient()["id"],
        unregistered["id"],
        inactive["id"],
    ]
    with world.http(token=world.caller().token()) as client:
        for patient_id in asked:
            answer = client.get("fhir/R4/DocumentReference", params={"patient": patient_id})
            assert (answer.status_code, answer.json()["total"]) == (200, 0)


def test_pages_are_followed_to_the_end(world: Network) -> None:
    """Every document once, the same total on every page."""
    patient = world.patient()
    existing = {world.document(patient)["id"] for _ in range(5)}
    with world.http(token=world.caller().token()) as client:
        url, seen, totals = f"fhir/R4/DocumentReference?patient={patient['id']}&_count=2", [], set()
        while url:
            bundle = client.get(url).json()
            seen += [entry["resource"]["id"] for entry in bundle["entry"]]
            totals.add(bundle["total"])
            url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
    assert (sorted(seen), totals) == (sorted(existing), {5})


def test_an_unknown_parameter_is_ignored_unless_handling_is_strict(world: Network) -> None:
    """As FHIR says; the self link has the parameters that were used."""
    patient = world.patient()
    world.document(patient)
    with world.http(token=world.caller().token()) as client:
        query = f"patient={patient['id']}&colour=red&_sort=date"
        answer = search(client, query)
        assert (answer.status_code, answer.json()["total"]) == (200, 1)
        (own,) = [link["url"] for link in answer.json()["link"] if link["relation"] == "self"]
        assert own.endswith(f"/federated/fhir/R4/DocumentReference?patient={patient['id']}")
        strict = client.get(f"fhir/R4/DocumentReference?{query}", headers={"Prefer": "handling=strict"})
        assert (strict.status_code, strict.json()["resourceType"]) == (400, "OperationOutcome")
        assert search(client, "").status_code == 400


def test_a_search_may_be_posted_as_a_form(world: Network) -> None:
    """POST _search, its parameters in the body, in the URL, or in both; anything but a form is refused."""
    patient = world.patient()
    world.document(patient)
    world.document(patient, status="superseded")
    form = {"patient": patient["id"]}
    with world.http(token=world.caller().token()) as client:
        path = "fhir/R4/DocumentReference/_search"
        assert client.post(path, data=form).json()["total"] == 2
        assert client.post(f"{path}?status=current", data=form).json()["total"] == 1
        assert client.post(f"{path}?patient={patient['id']}", data={"status": "superseded"}).json()["total"] == 1
        strict = client.post(path, data={**form, "colour": "red"}, headers={"Prefer": "handling=strict"})
        assert strict.status_code == 400
        assert client.post(path, json=form).status_code == 415
        assert client.post(path, data={**form, "x": "y" * 10_000}).status_code == 413
    with world.http() as client:
        assert client.post(path, data=form).status_code == 401


def test_a_patient_can_be_named_in_every_form(world: Network) -> None:
    """By reference, by this server's address, by an identifier, and by the document itself."""
    patient, other = world.patient(), world.patient()
    stored = world.document(patient)
    world.document(other)
    health_gorilla_id = patient["identifier"][0]["value"]
    queries = (
        f"patient=Patient/{patient['id']}",
        f"patient={world.url}/fhir/R4/Patient/{patient['id']}",
        f"patient={world.medplum.base_url}/fhir/R4/Patient/{patient['id']}",
        f"patient.identifier=https://www.healthgorilla.com|{health_gorilla_id}",
        f"patient:identifier={health_gorilla_id}",
        f"_id={stored['id']}",
        f"_id={stored['id']},no-such&patient={patient['id']}",
    )
    with world.http(token=world.caller().token()) as client:
        for query in queries:
            bundle = search(client, query).json()
            assert [entry["resource"]["id"] for entry in bundle["entry"]] == [stored["id"]], query
        for query in (
            f"_id={stored['id']}&patient={other['id']}",
            f"patient=https://elsewhere.example/fhir/R4/Patient/{patient['id']}",
            f"patient=Practitioner/{patient['id']}",
            "patient.identifier=https://www.healthgorilla.com|nobody",
            "_id=no-such",
        ):
            assert (search(client, query).status_code, search(client, query).json()["total"]) == (200, 0), query
        unregistered = world.document(world.patient(identifier=[]))
        assert search(client, f"_id={unregistered['id']}").json()["total"] == 0


def test_the_clinic_is_named_if_a_document_names_nobody() -> None:
    """Author and custodian are contained Organizations: the document's own, else the configured one."""
    with MedplumSandbox() as medplum:
        login = (medplum.base_url, medplum.client_id, medplum.client_secret)
        organization = connect_client(*login).create({"resourceType": "Organization", "name": "Elm Clinic"})
        with network(medplum, FEDERATED_ORGANIZATION=f"Organization/{organization['id']}") as world:
            patient = world.patient()
            world.document(patient)
            (document,) = world.caller().query(patient["id"])
    assert [existing["name"] for existing in document["contained"]] == ["Elm Clinic", "Elm Clinic"]


def test_a_stated_size_and_hash_need_no_reading(world: Network) -> None:
    """If the resource states both, the bytes are read only when they are fetched."""
    patient = world.patient()
    digest = base64.b64encode(hashlib.sha1(CCD, usedforsecurity=False).digest()).decode()
    stated = world.document(patient)["content"][0]["attachment"] | {"size": len(CCD), "hash": digest}
    world.document(patient, content=[{"attachment": stated}])
    found = world.caller().query(patient["id"])
    assert {document["content"][0]["attachment"]["hash"] for document in found} == {digest}

    def opened() -> int:
        """How often the bytes were requested; the Binary's own labels are read in each case."""
        asked = (one for one in world.medplum.requests if "/Binary/" in one.path)
        return sum("fhir+json" not in one.headers["accept"] for one in asked)

    before = opened()
    world.caller().query(patient["id"])
    assert opened() == before


@pytest.mark.parametrize("stated", ["text/\u4e2d", "text/plain; name=\u201da\u201d", "picture"])
def test_a_content_type_that_is_no_header_is_not_sent(world: Network, stated: str) -> None:
    """The bytes are still returned, as bytes of unknown type."""
    patient = world.patient()
    stored = world.document(patient, content=[{"attachment": {"contentType": stated, "data": "SGk="}}])
    with world.http(token=world.caller().token()) as client:
        answer = client.get(f"documents/{stored['id']}?patient={patient['id']}")
    assert (answer.status_code, answer.content) == (200, b"Hi")
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_a_new_version_of_the_content_is_measured_anew(world: Network) -> None:
    """A Binary may be replaced while the DocumentReference stays as it is."""
    patient = world.patient()
    stored = world.document(patient)
    caller = world.caller()
    (first,) = caller.query(patient["id"])
    binary_id = stored["content"][0]["attachment"]["url"].split("/storage/")[1].partition("/")[0]
    data = base64.b64encode(b"<other/>").decode()
    world.server.change(f"Binary/{binary_id}", lambda now: {**now, "data": data})
    (second,) = caller.query(patient["id"])
    assert first["content"][0]["attachment"]["size"] == len(CCD)
    assert second["content"][0]["attachment"]["size"] == len(b"<other/>")
    assert caller.fetch(second) == b"<other/>"


def test_inline_data_is_a_document_too(world: Network) -> None:
    """The resource itself has the bytes; a document whose bytes were deleted is not listed."""
    patient = world.patient()
    inline = {"contentType": "text/plain", "data": base64.b64encode(b"Hello").decode()}
    world.document(patient, content=[{"attachment": inline}])
    world.document(patient, content=[{"attachment": {"url": "Binary/7d3f0e52-0000-4000-8000-000000000404"}}])
    world.document(patient, content=[{"attachment": {"url": "https://elsewhere.example/x.pdf"}}])
    caller = world.caller()
    (document,) = caller.query(patient["id"])
    assert caller.fetch(document) == b"Hello"


@pytest.mark.parametrize(
    ("label", "total"),
    [
        ({"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}, 0),
        ({"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "PSY"}, 0),
        ({"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "N"}, 1),
    ],
)
def test_a_label_of_the_content_counts(world: Network, label: Json, total: int) -> None:
    """The DocumentReference says nothing, and the Binary that it refers to is labeled."""
    patient = world.patient()
    binary = world.server.create(
        {"resourceType": "Binary", "contentType": "text/plain", "data": "SGk=", "meta": {"security": [label]}}
    )
    stored = world.document(patient, content=[{"attachment": {"url": f"Binary/{binary['id']}"}}])
    with world.http(token=world.caller().token()) as client:
        assert client.get(f"fhir/R4/DocumentReference?patient={patient['id']}").json()["total"] == total
        fetched = client.get(f"documents/{stored['id']}?patient={patient['id']}")
    assert fetched.status_code == (200 if total else 404)


def test_several_patients_may_be_requested_at_once(world: Network) -> None:
    """A comma means OR; an unknown patient adds nothing."""
    one, other, third = (world.patient() for _ in range(3))
    for each in (one, other, third):
        world.document(each)
    with world.http(token=world.caller().token()) as client:
        answer = client.get(f"fhir/R4/DocumentReference?patient={one['id']},Patient/{other['id']},nobody").json()
    subjects = {entry["resource"]["subject"]["reference"] for entry in answer["entry"]}
    assert (answer["total"], subjects) == (2, {f"Patient/{one['id']}", f"Patient/{other['id']}"})


@pytest.mark.parametrize("asked", ["xml", "application/fhir+xml", "text/turtle"])
def test_another_format_than_json_is_not_acceptable(world: Network, asked: str) -> None:
    with world.http(token=world.caller().token()) as client:
        answer = client.get("fhir/R4/DocumentReference", params={"patient": "p", "_format": asked})
    assert (answer.status_code, outcomes.codes(answer.json())) == (406, ["invalid-parameter"])


def test_an_etag_follows_the_bytes(world: Network) -> None:
    """It is the same on each host for the same Binary in Medplum; a replaced Binary has another one."""
    patient = world.patient()
    stored = world.document(patient)
    url = f"documents/{stored['id']}?patient={patient['id']}"
    binary_id = stored["content"][0]["attachment"]["url"].split("/storage/")[1].partition("/")[0]
    with world.http(token=world.caller().token()) as client:
        first, again = client.get(url).headers["ETag"], client.head(url).headers["ETag"]
        world.server.change(f"Binary/{binary_id}", lambda now: {**now, "data": "SGk="})
        after = client.get(url)
    assert first == again != after.headers["ETag"]
    assert after.content == b"Hi"


def test_a_merged_patients_documents_are_found_under_both_ids(world: Network) -> None:
    """The registration of the old id lives on in the network: it leads to the surviving patient, and back."""
    kept, removed = world.patient(), world.patient()
    world.document(kept)
    world.document(removed)
    world.server.change(
        f"Patient/{removed['id']}",
        lambda now: {
            **now,
            "active": False,
            "link": [{"type": "replaced-by", "other": {"reference": f"Patient/{kept['id']}"}}],
        },
    )
    world.server.change(
        f"Patient/{kept['id']}",
        lambda now: {**now, "link": [{"type": "replaces", "other": {"reference": f"Patient/{removed['id']}"}}]},
    )
    caller = world.caller()
    for asked in (kept["id"], removed["id"]):
        found = caller.query(asked)
        assert {document["subject"]["display"] for document in found} == {asked}
        assert [caller.fetch(document) for document in found] == [CCD, CCD]


def test_the_registered_id_may_be_a_record_number() -> None:
    """The identifier is resolved; two patients with one number count as none."""
    system = "https://clinic.example/mrn"
    with network(FEDERATED_PATIENT_IDENTIFIER_SYSTEM=system) as world:
        registered = {"system": "https://www.healthgorilla.com", "value": "abc"}
        patient = world.patient(identifier=[{"system": system, "value": "M-1"}, registered])
        world.document(patient)
        assert len(world.caller().query("M-1")) == 1
        assert world.caller().query(patient["id"]) == []
        world.patient(identifier=[{"system": system, "value": "M-1"}, registered])
        assert world.caller().query("M-1") == []


def test_a_summary_is_returned_if_there_is_no_document() -> None:
    """If configured, a C-CDA under a stable id: created when it is fetched, kept for that version of the patient."""
    with network(FEDERATED_CCDA="true") as world:
        patient, other = world.patient(), world.patient()
        caller = world.caller()
        (result,) = caller.query(patient["id"])
        assert "hash" not in result["content"][0]["attachment"]
        with world.http(token=caller.token()) as client:
            url = result["content"][0]["attachment"]["url"]
            first, again = client.get(url), client.get(url)
            strangers = [client.get(url.replace(patient["id"], other["id"], 1)), client.get(f"{url}&content=1")]
        assert first.headers["Content-Type"] == "application/xml"
        assert first.content == again.content
        assert b"ClinicalDocument" in first.content
        assert [answer.status_code for answer in strangers] == [404, 404]
        (measured,) = caller.query(patient["id"])
        assert (measured["id"], caller.fetch(measured)) == (result["id"], first.content)
        world.server.change(f"Patient/{patient['id']}", lambda now: {**now, "gender": "female"})
        (changed,) = caller.query(patient["id"])
        assert "hash" not in changed["content"][0]["attachment"]
        world.document(patient)
        assert [document["id"] for document in caller.query(patient["id"])] != [result["id"]]
        # Documents that must not be disclosed still count as documents: no summary discloses their content.
        closed = world.patient()
        world.document(closed, level="V")
        assert caller.query(closed["id"]) == []
        secret = world.patient(meta={"security": [{"system": CONFIDENTIALITY_SYSTEM, "code": "R"}]})
        assert caller.query(secret["id"]) == []
        with world.http(token=caller.token()) as client:
            for each in (patient, closed, secret):
                assert client.get(f"documents/ccda-{each['id']}?patient={each['id']}").status_code == 404
    with network() as world:
        patient = world.patient()
        assert world.caller().query(patient["id"]) == []
        with world.http(token=world.caller().token()) as client:
            assert client.get(f"documents/ccda-{patient['id']}?patient={patient['id']}").status_code == 404


# Who may not


def test_no_document_is_reached_without_a_token_or_across_patients(world: Network) -> None:
    """All pairs: a document is returned only for its own patient, and never without a token."""
    patients = [world.patient() for _ in range(3)]
    documents = [(patient["id"], world.document(patient)["id"]) for patient in patients for _ in range(2)]
    asked_ids = [*(patient["id"] for patient in patients), "", "7d3f0e52-0000-4000-8000-000000000404"]
    good = world.caller().token()
    foreign = jwt.encode(
        {"sub": CLIENT_ID, "exp": 9_999_999_999}, "another key of thirty-two characters", algorithm="HS256"
    )
    for token in (good, foreign, "", None):
        with world.http(token=token) as client:
            for (owner, document_id), asked in itertools.product(documents, asked_ids):
                path = f"documents/{document_id}" + (f"?patient={asked}" if asked else "")
                answers = {method: client.request(method, path).status_code for method in ("GET", "HEAD")}
                expected = (200 if owner == asked else 404) if token == good else 401
                assert answers == {"GET": expected, "HEAD": expected}


def test_a_query_needs_a_token_of_ours_that_is_still_good(world: Network) -> None:
    """Missing, forged, of another algorithm, expired, or of a client that went: 401, and how to log in."""
    patient = world.patient()
    good = world.caller().token()
    claims = jwt.decode(good, options={"verify_signature": False})
    unsigned = jwt.encode(claims, "", algorithm="none")
    for token in (None, "x", unsigned, good[:-2], good + "A"):
        with world.http(token=token) as client:
            answer = search(client, f"patient={patient['id']}")
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    world.now[0] += claims["exp"] - claims["iat"]
    with world.http(token=good) as client:
        assert search(client, f"patient={patient['id']}").status_code == 401
    with world.http() as client:
        basic = httpx.BasicAuth(CLIENT_ID, world.secret)
        assert client.get(f"fhir/R4/DocumentReference?patient={patient['id']}", auth=basic).status_code == 401


@pytest.mark.parametrize(("level", "status"), [(None, 200), ("L", 200), ("N", 200), ("R", 404), ("V", 404)])
def test_confidential_documents_do_not_leave(world: Network, level: str | None, status: int) -> None:
    """A document above the configured level is neither listed nor returned, as if it did not exist."""
    patient = world.patient()
    document = world.document(patient, level=level)
    assert len(world.caller().query(patient["id"])) == (1 if status == 200 else 0)
    with world.http(token=world.caller().token()) as client:
        answer = client.get(f"documents/{document['id']}?patient={patient['id']}")
        nothing = client.get(f"documents/7d3f0e52-0000-4000-8000-000000000404?patient={patient['id']}")
    assert answer.status_code == status
    if status == 404:
        assert answer.content == nothing.content


def test_an_error_is_withdrawn_at_once(world: Network) -> None:
    """A document that becomes entered-in-error is no longer returned, even at an address that was listed before."""
    patient = world.patient()
    stored = world.document(patient)
    caller = world.caller()
    (result,) = caller.query(patient["id"])
    world.server.change(f"DocumentReference/{stored['id']}", lambda now: {**now, "status": "entered-in-error"})
    with pytest.raises(NetworkError):
        caller.fetch(result)
    assert caller.query(patient["id"]) == []


# Tokens


def test_a_token_is_issued_as_documented(world: Network) -> None:
    """In the body or by Basic; never stored; the scope is the requested one."""
    form = {"grant_type": "client_credentials", "aud": "anything", "scope": "system/DocumentReference.read"}
    with world.http() as client:
        posted = client.post("oauth2/token", data={**form, "client_id": CLIENT_ID, "client_secret": world.secret})
        basic = client.post("oauth2/token", data=form, auth=(CLIENT_ID, world.secret))
    for answer in (posted, basic):
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json().keys() == {"access_token", "token_type", "expires_in", "scope"}
        assert (answer.json()["token_type"], answer.json()["scope"]) == ("Bearer", form["scope"])
        claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
        assert claims["exp"] - claims["iat"] == answer.json()["expires_in"] <= 3600


def test_a_wrong_login_is_refused_in_oauths_words(world: Network) -> None:
    """401 invalid_client, with the challenge if Basic was used; no answer reveals whether the client exists."""
    form = {"grant_type": "client_credentials"}
    with world.http() as client:
        wrong = client.post("oauth2/token", data={**form, "client_id": CLIENT_ID, "client_secret": "wrong"})
        nobody = client.post("oauth2/token", data={**form, "client_id": "nobody", "client_secret": "wrong"})
        basic = client.post("oauth2/token", data=form, auth=(CLIENT_ID, "wrong"))
    assert (wrong.status_code, wrong.json()["error"], wrong.headers["Cache-Control"]) == (
        401,
        "invalid_client",
        "no-store",
    )
    assert nobody.json() == wrong.json()
    assert (basic.status_code, basic.headers["WWW-Authenticate"]) == (401, 'Basic realm="federated"')
    assert "WWW-Authenticate" not in wrong.headers


def test_wrong_logins_are_limited_and_lock_nobody_out(world: Network) -> None:
    """After ten in a minute a wrong secret gets 429; the right one passes, even from the same address."""
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": "wrong"}
    with world.http() as client:
        statuses = [client.post("oauth2/token", data=form).status_code for _ in range(11)]
        assert statuses == [401] * 10 + [429]
        for _ in range(2):
            assert client.post("oauth2/token", data={**form, "client_secret": world.secret}).status_code == 200
        limited = client.post("oauth2/token", data=form)
        assert (limited.status_code, limited.headers["Retry-After"]) == (429, "60")
        assert client.post("oauth2/token", data={**form, "client_id": "other"}).status_code == 401
        world.now[0] += 61
        assert client.post("oauth2/token", data=form).status_code == 401


def test_only_a_trusted_proxys_word_counts_for_the_address() -> None:
    """Behind a proxy each caller is counted separately; the header counts only from a trusted proxy."""
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": "wrong"}
    for trusted, expected in (("", [401, 429, 429]), ("127.0.0.0/8 ::1", [401, 401, 429])):
        with network(FEDERATED_ATTEMPTS="1", FEDERATED_TRUSTED_PROXIES=trusted) as world, world.http() as client:
            seen = ("6.6.6.1, 203.0.113.1", "6.6.6.2, 203.0.113.2", "6.6.6.3, 203.0.113.1")
            headers = [{"X-Forwarded-For": each} for each in seen]
            statuses = [client.post("oauth2/token", data=form, headers=each).status_code for each in headers]
            assert statuses == expected


def test_the_audience_may_be_fixed() -> None:
    """If an audience is configured, a request for another server is refused."""
    with network(FEDERATED_AUDIENCES="https://clinic.example") as world, world.http() as client:
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": world.secret}
        assert client.post("oauth2/token", data={**form, "aud": "x"}).json()["error"] == "invalid_target"
        assert client.post("oauth2/token", data={**form, "aud": "https://clinic.example"}).status_code == 200


@pytest.mark.parametrize(
    "scope", [None, "create", "xxxxxxx", "user/*.*", "openid offline_access", "system/*.*", "system/Patient.write"]
)
def test_the_documents_can_be_read_with_every_requested_scope(world: Network, scope: str | None) -> None:
    """The guide's own sample requests ``create``; nothing beyond the client's own scopes is granted."""
    patient = world.patient()
    stored = world.document(patient)
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": world.secret}
    with world.http() as client:
        answer = client.post("oauth2/token", data={**form, **({"scope": scope} if scope else {})})
    assert (answer.status_code, answer.json()["expires_in"]) == (200, 3600)
    assert set(answer.json()["scope"].split()) <= {"system/DocumentReference.read", "system/Binary.read"}
    with world.http(token=answer.json()["access_token"]) as client:
        assert search(client, f"patient={patient['id']}").json()["total"] == 1
        assert client.get(f"documents/{stored['id']}?patient={patient['id']}").status_code == 200


@pytest.mark.parametrize(
    ("scopes", "asked", "searches", "fetches"),
    [
        (["system/Patient.read"], None, False, False),
        (["system/Patient.read"], "system/DocumentReference.read", False, False),
        (["create"], None, False, False),
        (["system/Binary.read"], None, False, True),
        (["system/DocumentReference.rs"], None, True, True),
        (["system/DocumentReference.s"], None, True, False),
        (["system/DocumentReference.write"], None, False, False),
        (["system/*.read"], "system/Binary.read", False, True),
        (["user/*.*"], None, True, True),
    ],
)
def test_granted_scopes_are_enforced(scopes: list[str], asked: str | None, searches: bool, fetches: bool) -> None:
    """What a token does not permit is 403 insufficient_scope, before anything is looked up."""
    secret = "s" * 40
    clients = json.dumps([{"id": CLIENT_ID, "secretHash": hash_secret(secret, b"salt" * 4), "scopes": scopes}])
    with network(FEDERATED_CLIENTS=clients) as world:
        patient = world.patient()
        stored = world.document(patient)
        form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": secret}
        with world.http() as client:
            token = client.post("oauth2/token", data={**form, **({"scope": asked} if asked else {})}).json()
        with world.http(token=token["access_token"]) as client:
            answers = [
                search(client, f"patient={patient['id']}"),
                client.post("fhir/R4/DocumentReference/_search", data={"patient": patient["id"]}),
                client.get(f"documents/{stored['id']}?patient={patient['id']}"),
            ]
    assert [answer.status_code == 200 for answer in answers] == [searches, searches, fetches]
    for answer in answers:
        if answer.status_code != 200:
            assert answer.status_code == 403
            assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
            assert answer.json()["resourceType"] == "OperationOutcome"


# Bytes


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-3", 206, CCD[:4]),
        ("bytes=5-", 206, CCD[5:]),
        ("bytes=-6", 206, CCD[-6:]),
        ("bytes=-9999", 206, CCD),
        ("bytes=3-9999", 206, CCD[3:]),
        ("bytes=9999-", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=5-3", 200, CCD),
        ("bytes=0-1,4-5", 200, CCD),
        ("lines=1-2", 200, CCD),
        ("bytes=-", 200, CCD),
    ],
)
def test_a_range_is_a_part_of_the_bytes(world: Network, asked: str, status: int, expected: bytes) -> None:
    """One range is served; an invalid one is ignored; one that starts after the end is 416."""
    patient = world.patient()
    document = world.document(patient)
    with world.http(token=world.caller().token()) as client:
        path = f"documents/{document['id']}?patient={patient['id']}"
        answer = client.get(path, headers={"Range": asked})
        head = client.head(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, expected)
    assert (head.status_code, head.content) == (status, b"")
    assert head.headers.get("Content-Length", "0") == str(len(expected))
    if status == 206:
        assert answer.headers["Content-Range"].endswith(f"/{len(CCD)}")


def test_a_large_document_passes_in_pieces(world: Network) -> None:
    """Three megabytes arrive whole, and a range from their middle is right."""
    patient = world.patient()
    data = bytes(range(256)) * 12_000
    with world.http(token=world.medplum.token_for()) as medplum:
        made = medplum.post(
            f"{world.medplum.base_url}/fhir/R4/Binary", content=data, headers={"Content-Type": "image/png"}
        )
    attachment = {"contentType": "image/png", "url": f"Binary/{made.json()['id']}"}
    world.document(patient, content=[{"attachment": attachment}])
    caller = world.caller()
    (document,) = caller.query(patient["id"])
    assert caller.fetch(document) == data
    with world.http(token=caller.token()) as client:
        url = document["content"][0]["attachment"]["url"]
        answer = client.get(url, headers={"Range": "bytes=1000000-1000009"})
        whole = client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"another version"'})
        same = client.get(url, headers={"Range": "bytes=0-9", "If-Range": answer.headers["ETag"]})
    assert answer.content == data[1_000_000:1_000_010]
    assert (len(whole.content), same.content) == (len(data), data[:10])


# Records


def test_every_access_leaves_an_audit_event(world: Network) -> None:
    """Who, whose, which: a document before it is sent, a query soon after; the same query again is counted."""
    patient = world.patient()
    stored = world.document(patient)
    caller = world.caller()
    for _ in range(3):
        (result,) = caller.query(patient["id"])
    caller.fetch(result)
    caller.query("nobody")
    audits = world.audits()
    by_action = {(event["action"], len(event["entity"])): event for event in audits}
    assert len(audits) == 3
    assert all(event["agent"][0]["who"]["identifier"]["value"] == CLIENT_ID for event in audits)
    fetched, asked, nobody = by_action["R", 2], by_action["E", 2], by_action["E", 1]
    assert [entity["what"]["reference"] for entity in fetched["entity"]] == [
        f"Patient/{patient['id']}",
        f"DocumentReference/{stored['id']}",
    ]
    assert asked["entity"][0]["what"]["reference"] == f"Patient/{patient['id']}"
    assert asked["entity"][1]["detail"] == [{"type": "times", "valueString": "3"}]
    assert base64.b64decode(nobody["entity"][0]["query"]) == b"patient=nobody"


def test_without_a_record_no_document_leaves(world: Network) -> None:
    """Medplum refuses the AuditEvent: the document is not sent; the records of queries wait for better times."""
    patient = world.patient()
    world.document(patient)
    caller = world.caller()
    (result,) = caller.query(patient["id"])
    world.medplum.faults.add("server_error", status=503, method="POST", path="/fhir/R4")
    with world.http(token=caller.token()) as client:
        refused = client.get(result["content"][0]["attachment"]["url"])
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    world.responder.recorder.flush()
    world.medplum.faults.clear()
    assert [event["action"] for event in world.audits()] == ["E"]


# The rest


def _said(answer: httpx.Response) -> str:
    return str(answer.json()["issue"][0]["details"]["coding"][0]["code"])


def test_only_these_routes_exist(world: Network) -> None:
    """Everything else is 404 or, with a wrong method, 405: an OperationOutcome with a code; with a good token too."""
    paths = [
        "",
        "fhir/R4/Patient",
        "fhir/R4/DocumentReference/1",
        "fhir/R4/Binary/1",
        "fhir/R4",
        "oauth2/authorize",
        "documents/",
    ]
    with world.http(token=world.caller().token()) as client:
        missing = [client.get(path) for path in paths]
        wrong = [
            client.request("PROPFIND", "fhir/R4/DocumentReference"),
            client.post("documents/1"),
            client.get("oauth2/token"),
        ]
        assert client.head("fhir/R4/Patient").status_code == 404
    assert [(answer.status_code, _said(answer)) for answer in missing] == [(404, "not-found")] * len(paths)
    assert [(answer.status_code, _said(answer)) for answer in wrong] == [(405, "method-not-allowed")] * 3
    assert [answer.headers["Allow"] for answer in wrong] == ["GET, HEAD", "GET, HEAD", "POST"]
    assert {answer.headers["Content-Type"] for answer in (*missing, *wrong)} == {"application/fhir+json"}
    assert {answer.headers["Cache-Control"] for answer in (*missing, *wrong)} == {"no-store"}


def test_anybody_may_learn_where_to_log_in(world: Network) -> None:
    """Capability statement and SMART configuration name the token endpoint."""
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(world.url))
    with world.http() as client:
        statement = client.get("fhir/R4/metadata").json()
        places = [f"{origin}/.well-known", f"{world.url}/.well-known", f"{world.url}/fhir/R4/.well-known"]
        smart = [client.get(f"{place}/smart-configuration").json() for place in places]
    assert statement["rest"][0]["resource"][0]["type"] == "DocumentReference"
    oauth = statement["rest"][0]["security"]["extension"][0]["extension"][0]
    assert {oauth["valueUri"], *(one["token_endpoint"] for one in smart)} == {f"{world.url}/oauth2/token"}


def test_sizes_are_limited(world: Network) -> None:
    """A body, headers or a query beyond need are refused before anything is done with them."""
    token = world.caller().token()
    with world.http(token=token) as client:
        assert client.post("oauth2/token", content=b"a" * 10_000).status_code == 413
        assert client.post("oauth2/token", content=b"", headers={"X-Much": "a" * 20_000}).status_code == 431
        assert search(client, f"patient={'a' * 5_000}").status_code == 414
        assert client.get("fhir/R4/metadata", headers={"X-Much": "a" * 20_000}).status_code == 431


def test_a_medplum_that_is_down_is_a_503(world: Network) -> None:
    """The caller learns that it may work later, and nothing of the patient."""
    patient = world.patient()
    token = world.caller().token()
    world.medplum.faults.add("server_error", status=503, method="GET")
    with world.http(token=token) as client:
        answer = search(client, f"patient={patient['id']}")
    assert (answer.status_code, answer.json()["resourceType"]) == (503, "OperationOutcome")
    assert patient["id"] not in answer.text


def test_an_answer_may_be_given_again_for_some_seconds() -> None:
    """The same question within the configured time asks Medplum once."""
    with network(FEDERATED_CACHE_SECONDS="5") as world:
        patient = world.patient()
        world.document(patient)
        caller = world.caller()
        assert len(caller.query(patient["id"])) == 1
        world.document(patient)
        assert len(caller.query(patient["id"])) == 1
        world.now[0] += 5
        assert len(caller.query(patient["id"])) == 2


def test_without_a_time_no_answer_is_given_again(world: Network) -> None:
    """Then no documents stay in memory."""
    patient = world.patient()
    caller = world.caller()
    for count in (1, 2):
        world.document(patient)
        assert len(caller.query(patient["id"])) == count


def test_the_route_answers_by_the_projects_settings_where_the_environment_has_none() -> None:
    """As the bot does: a project secret that a clinic sets must not count for only one of the two."""
    with MedplumSandbox() as medplum:
        server = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
        secret = {"name": "FEDERATED_CONFIDENTIALITY", "valueString": "R"}
        server.post(f"admin/projects/{medplum.project_id}/secrets", [secret])
        for environment, seen in (({}, 1), ({"FEDERATED_CONFIDENTIALITY": "N"}, 0)):
            with network(medplum, **environment) as here:
                patient = here.patient()
                here.document(patient, level="R")
                assert len(here.caller().query(patient["id"])) == seen
