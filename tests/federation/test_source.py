"""How the federated responder handles a busy, strict or odd Medplum, and links that only one side has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from bot_layer.errors import AuthError, BotError, InputError, PermanentError, TransientError
from bot_layer.federation.rules.document import Rules
from bot_layer.federation.settings import Answering
from bot_layer.federation.source import FederatedSource
from bot_layer.fhir.json import Json
from bot_layer.http.policy import RetryPolicy
from bot_layer.medplum import binary as medplum_binary
from bot_layer.medplum.client import Medplum, connect_client
from bot_layer.patient_registration.adt import stored as adt
from medplum_sandbox.medplum.sandbox import MedplumSandbox

HG: Json = {"system": "https://www.healthgorilla.com", "value": "0123456789abcdef01234567"}
NOT_THERE = "7d3f0e52-0000-4000-8000-000000000404"


@pytest.fixture
def medplum() -> Iterator[MedplumSandbox]:
    """A separate Medplum."""
    with MedplumSandbox() as made:
        yield made


def client(medplum: MedplumSandbox) -> Medplum:
    """Its operator, who does not wait."""
    patience = RetryPolicy(retries=0, backoff=0.0)
    return connect_client(medplum.base_url, medplum.client_id, medplum.client_secret, patience=patience)


def source(medplum: MedplumSandbox, *, most: int = 2000) -> FederatedSource:
    """The source with the usual rules."""
    return FederatedSource(client(medplum), Answering(Rules("https://x.example/{id}?")), most_documents=most)


def patient(medplum: MedplumSandbox, *links: tuple[str, str]) -> Json:
    """A registered patient with links."""
    result = [{"type": kind, "other": {"reference": reference}} for kind, reference in links]
    more = {"link": result} if result else {}
    return client(medplum).create({"resourceType": "Patient", "identifier": [HG], **more})


def note(medplum: MedplumSandbox, owner: Json, data: str = "SGk=") -> Json:
    """A document with its bytes in the resource."""
    document = {"status": "current", "subject": {"reference": f"Patient/{owner['id']}"}}
    content = [{"attachment": {"contentType": "text/plain", "data": data}}]
    return client(medplum).create({"resourceType": "DocumentReference", **document, "content": content})


def binary(medplum: MedplumSandbox, data: str = "SGk=") -> str:
    """The id of a Binary."""
    made = client(medplum).create({"resourceType": "Binary", "contentType": "text/plain", "data": data})
    return str(made["id"])


def test_a_link_on_one_side_alone_opens_no_documents(medplum: MedplumSandbox) -> None:
    """A Patient that claims to replace another gets the other's documents only if the other agrees."""
    stranger = patient(medplum)
    claims = patient(medplum, ("replaces", f"Patient/{stranger['id']}"), ("replaces", f"Patient/{NOT_THERE}"))
    note(medplum, stranger)
    found = source(medplum).patient(claims["id"])
    assert found is not None
    assert found.references == (f"Patient/{claims['id']}",)
    assert source(medplum).documents(found, claims["id"]) == []


def test_merges_are_followed_to_the_first_record(medplum: MedplumSandbox) -> None:
    """For any id, the documents are those of all records that were merged into the surviving one."""
    first = patient(medplum)
    second = patient(medplum, ("replaces", f"Patient/{first['id']}"))
    third = patient(medplum, ("replaces", f"Patient/{second['id']}"))
    for removed, successor in ((first, second), (second, third)):
        client(medplum).change(f"Patient/{removed['id']}", partial(adt.ended, successor=f"Patient/{successor['id']}"))
    found = [source(medplum).patient(each["id"]) for each in (first, second, third)]
    everyone = {f"Patient/{each['id']}" for each in (first, second, third)}
    assert [each and set(each.references) for each in found] == [everyone] * 3


def test_a_number_that_a_patient_no_longer_has_leads_to_nobody(medplum: MedplumSandbox) -> None:
    """A number entered by mistake may be another patient's; a merged patient's old number leads to the survivor."""
    system = "https://clinic.example/mrn"
    asked = FederatedSource(client(medplum), Answering(Rules("https://x.example/{id}?"), system))
    mistaken = [HG, {"system": system, "value": "1", "use": "old"}, {"system": system, "value": "2"}]
    existing = client(medplum).create({"resourceType": "Patient", "identifier": mistaken})
    assert asked.patient("1") is None
    found = asked.patient("2")
    assert found is not None
    assert found.references == (f"Patient/{existing['id']}",)

    merged = [HG, {"system": system, "value": "3", "use": "old"}]
    link = [{"type": "replaced-by", "other": {"reference": f"Patient/{existing['id']}"}}]
    client(medplum).create({"resourceType": "Patient", "identifier": merged, "link": link})
    followed = asked.patient("3")
    assert followed is not None
    assert followed.patient["id"] == existing["id"]

    taken_over = {"system": system, "value": "3"}
    client(medplum).change(
        f"Patient/{existing['id']}", lambda now: {**now, "identifier": [*now["identifier"], taken_over]}
    )
    assert asked.patient("3") == replace(followed, patient=client(medplum).read(f"Patient/{existing['id']}"))


def test_a_merge_that_leads_nowhere_is_nobody(medplum: MedplumSandbox) -> None:
    """If the successor does not exist, or the links form a circle, no patient is guessed."""
    assert source(medplum).patient(patient(medplum, ("replaced-by", f"Patient/{NOT_THERE}"))["id"]) is None
    one = patient(medplum)
    two = patient(medplum, ("replaced-by", f"Patient/{one['id']}"))
    back = [{"type": "replaced-by", "other": {"reference": f"Patient/{two['id']}"}}]
    client(medplum).change(f"Patient/{one['id']}", lambda now: {**now, "link": back})
    assert source(medplum).patient(one["id"]) is None


@pytest.mark.parametrize("odd", ["https://other.example/fhir/R4/Patient/1", "RelatedPerson/1", "#p", "Patient/a/b"])
def test_a_link_to_an_unknown_patient_is_ignored(medplum: MedplumSandbox, odd: str) -> None:
    """Medplum stores any text as a reference: it leads to no patient, and is no failure."""
    assert source(medplum).patient(patient(medplum, ("replaced-by", odd))["id"]) is None
    replacing = patient(medplum, ("replaces", odd))
    found = source(medplum).patient(replacing["id"])
    assert found is not None
    assert found.references == (f"Patient/{replacing['id']}",)


def test_a_deleted_patient_or_document_is_not_there(medplum: MedplumSandbox) -> None:
    """What Medplum answers with 410 is as good as unknown."""
    owner = patient(medplum)
    stored = note(medplum, owner)
    found = source(medplum).patient(owner["id"])
    assert found is not None
    client(medplum).delete(f"DocumentReference/{stored['id']}")
    assert source(medplum).document(found, stored["id"]) is None
    assert source(medplum).document(found, "no id/at all") is None
    client(medplum).delete(f"Patient/{owner['id']}")
    assert source(medplum).patient(owner["id"]) is None


def test_a_refusal_that_is_none_of_the_callers_is_not_taken_for_nobody(medplum: MedplumSandbox) -> None:
    """A server that fails must not look like a patient without documents."""
    owner = patient(medplum)
    medplum.faults.add("server_error", status=418, method="GET", path="/Patient/")
    with pytest.raises(PermanentError):
        source(medplum).patient(owner["id"])


def test_too_many_documents_are_an_error_not_a_part(medplum: MedplumSandbox) -> None:
    """A list that is cut short would say that there is no more."""
    owner = patient(medplum)
    for _ in range(3):
        note(medplum, owner)
    found = source(medplum).patient(owner["id"])
    assert found is not None
    with pytest.raises(PermanentError, match="more than 2"):
        source(medplum, most=2).documents(found, owner["id"])


def test_a_content_that_is_not_there_can_not_be_opened(medplum: MedplumSandbox) -> None:
    """A number after the last one, and a Binary that was deleted between query and fetch."""
    owner = patient(medplum)
    stored = note(medplum, owner)
    found = source(medplum).patient(owner["id"])
    assert found is not None
    assert source(medplum).open(found, stored, 1) is None
    removed = {**stored, "content": [{"attachment": {"url": f"Binary/{NOT_THERE}"}}]}
    assert source(medplum).open(found, removed, 0) is None


# Bytes


@pytest.mark.parametrize(
    ("status", "error"), [(404, InputError), (403, AuthError), (503, TransientError), (418, PermanentError)]
)
def test_a_refused_document_is_named_by_its_cause(medplum: MedplumSandbox, status: int, error: type[BotError]) -> None:
    """Deleted, not allowed, busy, or malformed."""
    made = binary(medplum)
    medplum.faults.add("server_error", status=status, method="GET", path="/Binary/")
    with pytest.raises(error):
        medplum_binary.open_binary(client(medplum), made)


def test_a_token_that_ended_is_replaced_once(medplum: MedplumSandbox) -> None:
    """After a 401 a new token is requested; the document still arrives."""
    made = binary(medplum)
    medplum.faults.add("server_error", status=401, times=1, method="GET", path="/Binary/")
    stream = medplum_binary.open_binary(client(medplum), made)
    assert b"".join(stream.chunks()) == b"Hi"
    stream.close()
    medplum.faults.add("server_error", status=401, method="GET", path="/Binary/")
    with pytest.raises(AuthError):
        medplum_binary.open_binary(client(medplum), made)


def test_a_server_that_was_down_may_answer_again(medplum: MedplumSandbox) -> None:
    """No connection is a TransientError."""
    server, made = client(medplum), binary(medplum)
    medplum_binary.open_binary(server, made).close()
    medplum.stop()
    with pytest.raises(TransientError):
        medplum_binary.open_binary(server, made)
