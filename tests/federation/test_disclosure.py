"""What hides a document or a patient from other networks: labels, Consents, and unreadable answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bot_layer.fhir.json import Json
from bots.federated_documents import handler
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests.federation.federated_world import Network, network

ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
CONSENT_SCOPE = "http://terminology.hl7.org/CodeSystem/consentscope"
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
NORMAL: Json = {"coding": [{"system": CONFIDENTIALITY, "code": "N"}]}


@pytest.fixture(scope="module")
def world() -> Iterator[Network]:
    """A responder with the usual settings; each case creates its own patient."""
    with MedplumSandbox(quota=10_000_000) as medplum, network(medplum) as made:
        yield made


def listed(world: Network, patient: Json) -> int:
    """How many documents the responder lists; the bot behind Medplum's own address must say the same."""
    with world.http(token=world.caller().token()) as client:
        answer = client.get(f"fhir/R4/DocumentReference?patient={patient['id']}")
    assert answer.status_code == 200, answer.text
    bundle = handler(
        {
            "bot": {"reference": "Bot/5a9dbc00-0000-4000-8000-00000000000b"},
            "baseUrl": f"{world.medplum.base_url}/",
            "accessToken": world.medplum.token_for(),
            "requester": {"reference": f"ClientApplication/{world.medplum.client_id}"},
            "input": {"patient": patient["id"]},
            "contentType": "application/fhir+json",
            "secrets": {},
        }
    )
    total = int(answer.json()["total"])
    assert bundle["total"] == total
    return total


def coded(code: str, system: str | None = ACT_CODE, **changes: Any) -> Json:
    """A label of one code."""
    return {"coding": [{**({"system": system} if system else {}), "code": code}], **changes}


@pytest.mark.parametrize(
    "label",
    [
        coded("HIV"),
        coded("PSY"),
        coded("SUD"),
        coded("SEX"),
        coded("BH", "urn:oid:2.16.840.1.113883.5.4"),
        coded("42CFRPart2CD"),
        coded("NOAUTH"),
        coded("DELAU"),
        coded("PERSISTLABEL"),
        coded("N", None),
        coded("N", "https://ehr.example/confidentiality"),
        coded("n", CONFIDENTIALITY),
        {"text": "sensitive"},
        {"coding": [{"display": "restricted"}]},
        {"coding": [{"system": CONFIDENTIALITY, "code": "N"}, {"system": ACT_CODE, "code": "ETH"}]},
    ],
)
def test_a_label_that_is_not_understood_keeps_a_document_inside(world: Network, label: Json) -> None:
    """Sensitivity, obligations, other systems, text: neither listed nor returned, even with a normal level."""
    patient = world.patient()
    documents = [world.document(patient, securityLabel=labels) for labels in ([label], [NORMAL, label])]
    assert listed(world, patient) == 0
    with world.http(token=world.caller().token()) as client:
        for document in documents:
            assert client.get(f"documents/{document['id']}?patient={patient['id']}").status_code == 404


@pytest.mark.parametrize("code", ["R", "V", "HIV", "NODSCLCD"])
def test_a_label_counts_in_meta_of_document_and_patient(world: Network, code: str) -> None:
    """meta.security is a label as any other."""
    system = CONFIDENTIALITY if code in "RV" else ACT_CODE
    meta = {"security": [{"system": system, "code": code}]}
    of_document, of_patient = world.patient(), world.patient(meta=meta)
    world.document(of_document, meta=meta)
    world.document(of_document)
    stored = world.document(of_patient)
    assert (listed(world, of_document), listed(world, of_patient)) == (1, 0)
    with world.http(token=world.caller().token()) as client:
        assert client.get(f"documents/{stored['id']}?patient={of_patient['id']}").status_code == 404


@pytest.mark.parametrize("labels", [[], [NORMAL], [coded("L", "http://hl7.org/fhir/v3/Confidentiality")]])
def test_a_document_of_normal_confidentiality_leaves(world: Network, labels: list[Json]) -> None:
    """Without a label, or with one that is understood; labels of test data restrict nothing."""
    patient = world.patient(meta={"security": [{"system": ACT_REASON, "code": "HTEST"}]})
    more: dict[str, Any] = {"securityLabel": labels} if labels else {}
    world.document(patient, **more)
    assert listed(world, patient) == 1


def consent(world: Network, patient: Json, **changes: Any) -> Json:
    """A stored Consent of the patient that denies, unless changed."""
    return world.server.create(
        {
            "resourceType": "Consent",
            "status": "active",
            "scope": {"coding": [{"system": CONSENT_SCOPE, "code": "patient-privacy"}]},
            "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
            "patient": {"reference": f"Patient/{patient['id']}"},
            "policyRule": {"coding": [{"system": ACT_CODE, "code": "OPTOUT"}]},
            "provision": {"type": "deny"},
            **changes,
        }
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"policyRule": {"text": "Patient opted out of HIE"}, "provision": {}},
        {"policyRule": {"coding": [{"code": "OPTIN"}]}, "provision": {"type": "deny"}},
        {"provision": {"type": "deny", "period": {"end": "2099"}}},
        {"policyRule": {"coding": [{"code": "unheard-of"}]}, "provision": {}},
    ],
)
def test_a_consent_that_denies_keeps_the_patient_out(world: Network, changes: Json) -> None:
    """The patient is not disclosed by list or by address; an unreadable Consent denies too."""
    patient = world.patient()
    stored = world.document(patient)
    assert listed(world, patient) == 1
    denying = consent(world, patient, **changes)
    assert listed(world, patient) == 0
    with world.http(token=world.caller().token()) as client:
        assert client.get(f"documents/{stored['id']}?patient={patient['id']}").status_code == 404
        assert client.get(f"fhir/R4/DocumentReference?_id={stored['id']}").json()["total"] == 0
    world.server.change(f"Consent/{denying['id']}", lambda now: {**now, "status": "inactive"})
    assert listed(world, patient) == 1


def test_a_consent_of_a_merged_record_counts(world: Network) -> None:
    """An opt-out on one of two merged records counts for the patient."""
    kept, merged = world.patient(), world.patient()
    world.document(kept)
    consent(world, merged)
    other = {"reference": f"Patient/{kept['id']}"}
    world.server.change(
        f"Patient/{merged['id']}", lambda now: {**now, "link": [{"type": "replaced-by", "other": other}]}
    )
    back = {"reference": f"Patient/{merged['id']}"}
    world.server.change(f"Patient/{kept['id']}", lambda now: {**now, "link": [{"type": "replaces", "other": back}]})
    assert (listed(world, kept), listed(world, merged)) == (0, 0)


def test_in_opt_in_states_only_a_permission_allows_disclosure(world: Network) -> None:
    """The setting turns it round."""
    with network(world.medplum, FEDERATED_OPT_IN="true") as strict:
        patient = strict.patient()
        strict.document(patient)
        caller = strict.caller()
        assert caller.query(patient["id"]) == []
        permitted = {"coding": [{"system": ACT_CODE, "code": "OPTIN"}]}
        consent(strict, patient, policyRule=permitted, provision={"type": "permit"})
        assert len(caller.query(patient["id"])) == 1


def test_if_consents_cannot_be_read_nothing_is_disclosed(world: Network) -> None:
    """An error is no permission, and the answer is not an empty list."""
    with network() as alone:
        patient = alone.patient()
        alone.document(patient)
        token = alone.caller().token()
        alone.medplum.faults.add("server_error", status=403, method="GET", path="/Consent")
        with alone.http(token=token) as client:
            answer = client.get(f"fhir/R4/DocumentReference?patient={patient['id']}")
    assert answer.status_code == 500
    assert answer.json()["resourceType"] == "OperationOutcome"


def test_a_gateways_page_is_not_given_as_a_document(world: Network) -> None:
    """A page with status 200 in front of Medplum: 503, so that the network asks again."""
    patient = world.patient()
    stored = world.document(patient, b"<html><body>Please log in</body></html>")
    binary_id = stored["content"][0]["attachment"]["url"].split("/storage/")[1].partition("/")[0]
    world.server.change(f"Binary/{binary_id}", lambda now: {**now, "contentType": "text/html; charset=utf-8"})
    with world.http(token=world.caller().token()) as client:
        answer = client.get(f"documents/{stored['id']}?patient={patient['id']}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/fhir+json")
    assert b"log in" not in answer.content


def test_a_gateways_page_is_recognized_where_the_document_states_no_type(world: Network) -> None:
    """The Binary's own content type says what Medplum would send."""
    patient = world.patient()
    binary = world.server.create({"resourceType": "Binary", "contentType": "text/plain", "data": "SGk="})
    stored = world.document(patient, content=[{"attachment": {"url": f"Binary/{binary['id']}"}}])
    reads = iter((False, True))  # the Binary itself, then its bytes
    world.medplum.faults.add(
        "html", method="GET", status=200, when=lambda _, path: "/Binary/" in path and next(reads, False)
    )
    with world.http(token=world.caller().token()) as client:
        page, document = (client.get(f"documents/{stored['id']}?patient={patient['id']}") for _ in range(2))
    assert (page.status_code, page.headers["Content-Type"]) == (503, "application/fhir+json")
    assert (document.status_code, document.content) == (200, b"Hi")


def test_a_content_type_that_is_none_hides_nothing(world: Network) -> None:
    """Medplum stores any text as Binary.contentType, and sends another one then."""
    patient = world.patient()
    binary = world.server.create({"resourceType": "Binary", "contentType": "letter", "data": "SGk="})
    world.document(patient, content=[{"attachment": {"url": f"Binary/{binary['id']}"}}])
    caller = world.caller()
    (document,) = caller.query(patient["id"])
    assert caller.fetch(document) == b"Hi"
