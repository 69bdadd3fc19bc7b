"""References to this server count in each of FHIR's forms: relative, of a version, absolute.

https://hl7.org/fhir/R4/references.html#literal. Importing tools write the absolute ones.
"""

from __future__ import annotations

import pytest

from bot_layer.fhir import parameters
from bots.register_patient import handler
from tests.bots.patient_world import Clinic, action, clinic, codes, person
from tests.federation.federated_world import Network, network

FORMS = ("Patient/{id}", "Patient/{id}/_history/1", "{base}/fhir/R4/Patient/{id}")


def written(world: Clinic | Network, form: str, patient_id: str) -> dict[str, str]:
    """A Reference in one of the forms."""
    return {"reference": form.format(id=patient_id, base=world.medplum.base_url.rstrip("/"))}


@pytest.mark.parametrize("form", FORMS)
def test_a_merge_is_followed_and_two_people_are_distinguished(form: str) -> None:
    with clinic() as w:
        one = w.server.create(person())
        handler(w.asked(one))
        link = {"type": "replaced-by", "other": written(w, form, one["id"])}
        ended = w.server.create(person(birthDate="1941-12-03", active=False, link=[link]))
        assert action(handler(w.asked(ended))) == "unchanged"
        namesake = w.server.create(person())
        assert codes(handler(w.asked(namesake))) == ["registered-as-another"]
        named = [
            parameters.reference(name, written(w, form, of["id"])["reference"])
            for name, of in (("patient", namesake), ("notSameAs", one))
        ]
        assert action(handler(w.event(parameters.build(*named)))) == "registered"


@pytest.mark.parametrize("form", ["Patient/{id}", "{base}/fhir/R4/Patient/{id}"])
def test_a_list_and_a_consent_count_that_another_tool_stored(form: str) -> None:
    with clinic() as w:
        one, two = (w.server.create(person()) for _ in range(2))
        handler(w.asked(one))
        w.server.create(
            {
                "resourceType": "List",
                "status": "current",
                "mode": "working",
                "code": {"coding": [{"code": "doNotMatch"}]},
                "subject": written(w, form, one["id"]),
                "entry": [{"item": written(w, form, two["id"])}],
            }
        )
        assert action(handler(w.asked(two))) == "registered"
        consent = w.server.create(
            {
                "resourceType": "Consent",
                "status": "active",
                "scope": {"coding": [{"code": "patient-privacy"}]},
                "category": [{"text": "Exchange"}],
                "policyRule": {"coding": [{"code": "OPTOUT"}]},
                "patient": written(w, form, two["id"]),
            }
        )
        assert "patient-opted-out" in codes(handler(w.subscribed(consent, "create")))


@pytest.mark.parametrize("form", FORMS)
def test_documents_and_former_ids_are_found(form: str) -> None:
    with network() as n:
        patient = n.patient()
        n.document(patient, subject=written(n, form, patient["id"]))
        former = n.patient(active=False, link=[{"type": "replaced-by", "other": written(n, form, patient["id"])}])
        with n.http(token=n.caller().token()) as client:
            for asked in (patient, former):
                found = client.get("fhir/R4/DocumentReference", params={"patient": asked["id"]}).json()
                assert found["total"] == 1
