"""Patients who are kept out of the network, and what happens to an existing registration."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.errors import TransientError
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum
from bots.register_patient import handler
from tests.bots.patient_world import MRN, Clinic, action, clinic, codes, person
from tests.reported_cases.conversation import adt, pid, send, world

ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
HG = "https://www.healthgorilla.com"


def consent(patient: Json, /, **parts: Any) -> Json:
    """An active privacy Consent of a patient."""
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": ACT_CODE, "code": "IDSCL"}]}],
        "patient": {"reference": f"Patient/{patient['id']}"},
        "policyRule": {
            "coding": [{"system": ACT_CODE, "code": "OPTOUT" if "provision" not in parts else "hipaa-auth"}]
        },
        **parts,
    }


def hg_identifiers(w: Clinic, patient: Json) -> list[tuple[str, str]]:
    """Value and use of each Health Gorilla id in Medplum."""
    entries = w.server.read(f"Patient/{patient['id']}").get("identifier", [])
    return [(each["value"], each.get("use", "")) for each in entries if each["system"] == HG]


def open_tasks(w: Clinic) -> list[str]:
    """The codes of the open Tasks, which a person must handle."""
    found = w.server.search("Task", [("_count", "20"), ("status", "requested")])
    return sorted(task["code"]["coding"][0]["code"] for task in found)


@pytest.mark.parametrize("event", ["the operation", "the Consent"])
@pytest.mark.parametrize("form", ["relative", "versioned", "absolute", "logical", "logical without system"])
def test_a_consent_counts_with_every_form_of_reference(form: str, event: str) -> None:
    with clinic() as w:
        number = {"system": MRN, "value": "R,1"}
        patient = w.server.create(person(identifier=[number]))
        own = f"Patient/{patient['id']}"
        forms: dict[str, Json] = {
            "relative": {"reference": own},
            "versioned": {"reference": f"{own}/_history/{patient['meta']['versionId']}"},
            "absolute": {"reference": f"{w.server.client.fhir_base_url}{own}"},
            "logical": {"identifier": number},
            "logical without system": {"type": "Patient", "identifier": {"value": "R,1"}},
        }
        denied = w.server.create(consent(patient, patient=forms[form]))
        answer = handler(w.asked(patient) if event == "the operation" else w.subscribed(denied, "create"))
        assert codes(answer) == ["patient-opted-out"]
        assert w.gorilla.patients() == []


def test_a_consent_of_another_authority_with_the_same_number_is_not_this_patients() -> None:
    with clinic() as w:
        patient = w.server.create(person(identifier=[{"system": MRN, "value": "R-1"}]))
        other = {"identifier": {"system": "https://elsewhere.example/mrn", "value": "R-1"}}
        denied = w.server.create(consent(patient, patient=other))
        assert codes(handler(w.subscribed(denied, "create"))) == ["no-target"]
        assert action(handler(w.asked(patient))) == "registered"


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ({}, "patient-opted-out"),
        ({"provision": {"type": "deny"}}, "patient-opted-out"),
        ({"provision": {"type": "permit", "provision": [{"type": "deny"}]}}, "patient-opted-out"),
        ({"provision": {}}, "consent-unreadable"),
    ],
)
@pytest.mark.parametrize("call", ["asked", "subscribed"])
def test_a_consent_keeps_a_patient_out(parts: Json, code: str, call: str) -> None:
    """In a direct call and in a Subscription; no person has to check, and force does not help."""
    with clinic() as w:
        patient = w.server.create(person())
        w.server.create(
            consent(patient, **{**parts, **({"policyRule": {"text": "x"}} if code != "patient-opted-out" else {})})
        )
        event = w.asked(patient, force=True) if call == "asked" else w.subscribed(patient)
        answer = handler(event)
        assert (action(answer), codes(answer)) == ("refused", [code])
        assert (w.gorilla.patients(), open_tasks(w)) == ([], [])


@pytest.mark.parametrize("status", ["draft", "inactive", "rejected", "entered-in-error"])
def test_a_consent_that_is_not_in_force_keeps_nobody_out(status: str) -> None:
    with clinic() as w:
        patient = w.server.create(person())
        w.server.create(consent(patient, status=status))
        assert action(handler(w.asked(patient))) == "registered"


def test_a_changed_consent_ends_a_registration_and_a_later_one_revives_it() -> None:
    """The Consent's own event does both. Health Gorilla knows no delete, so a person is asked once."""
    with clinic() as w:
        patient = w.server.create(person())
        handler(w.asked(patient))
        ((hg_id, _),) = hg_identifiers(w, patient)
        denied = w.server.create(consent(patient))
        for _ in range(2):
            assert codes(handler(w.subscribed(denied, "create"))) == ["patient-opted-out"]
        assert [(each["id"], each["active"]) for each in w.gorilla.patients()] == [(hg_id, False)]
        assert hg_identifiers(w, patient) == [(hg_id, "old")]
        assert open_tasks(w) == ["end-registration"]
        versions = [each["meta"]["versionId"] for each in w.gorilla.patients()]
        handler(w.subscribed(patient))
        assert [each["meta"]["versionId"] for each in w.gorilla.patients()] == versions

        withdrawn = w.server.change(f"Consent/{denied['id']}", lambda now: {**now, "status": "inactive"})
        assert action(handler(w.subscribed(withdrawn))) == "updated"
        assert [(each["id"], each["active"]) for each in w.gorilla.patients()] == [(hg_id, True)]
        assert hg_identifiers(w, patient) == [(hg_id, "")]
        assert open_tasks(w) == []


def test_after_a_consent_is_deleted_the_patient_is_registered() -> None:
    with clinic() as w:
        patient = w.server.create(person())
        denied = w.server.create(consent(patient))
        handler(w.subscribed(patient))
        w.server.delete(f"Consent/{denied['id']}")
        assert action(handler(w.subscribed(denied, "delete"))) == "registered"


@pytest.mark.parametrize(
    "label",
    [
        {"system": CONFIDENTIALITY, "code": "V"},
        {"system": ACT_CODE, "code": "NODSCLCD"},
        {"code": "R"},
        {"system": "urn:clinic", "code": "vip"},
    ],
)
def test_a_label_ends_a_registration(label: Json) -> None:
    with clinic() as w:
        patient = w.server.create(person())
        handler(w.asked(patient))
        w.server.change(f"Patient/{patient['id']}", lambda now: {**now, "meta": {**now["meta"], "security": [label]}})
        assert codes(handler(w.subscribed(patient))) == ["patient-restricted"]
        assert [each["active"] for each in w.gorilla.patients()] == [False]


def test_a_preview_says_so_and_ends_nothing() -> None:
    with clinic() as w:
        patient = w.server.create(person())
        handler(w.asked(patient))
        w.server.create(consent(patient))
        before = w.records()
        assert codes(handler(w.asked(patient, preview=True))) == ["patient-opted-out"]
        assert (w.records(), open_tasks(w)) == (before, [])


def test_the_consent_of_a_merged_record_counts() -> None:
    """If a record with an opt-out is merged, the surviving record is not disclosed to networks either."""
    with clinic() as w:
        removed, kept = w.server.create(person()), w.server.create(person())
        w.server.create(consent(removed))
        for one, other, way in ((removed, kept, "replaced-by"), (kept, removed, "replaces")):
            link = [{"type": way, "other": {"reference": f"Patient/{other['id']}"}}]
            w.server.update({**w.server.read(f"Patient/{one['id']}"), "link": link})
        assert codes(handler(w.asked(kept))) == ["patient-opted-out"]


def test_opt_in_turns_it_round() -> None:
    with clinic(FEDERATED_OPT_IN="true") as w:
        patient = w.server.create(person())
        assert codes(handler(w.subscribed(patient))) == ["patient-not-opted-in"]
        w.server.create(consent(patient, provision={"type": "permit"}))
        assert action(handler(w.subscribed(patient))) == "registered"


def test_consents_that_cannot_be_searched_permit_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(self: Medplum, resource_type: str, query: Any) -> Any:
        raise TransientError("Medplum is busy.", service="Medplum", path=resource_type)

    with clinic() as w:
        patient = w.server.create(person())
        monkeypatch.setattr(Medplum, "search_all", down)
        assert action(handler(w.asked(patient))) == "failed"
        assert w.gorilla.patients() == []


@pytest.mark.parametrize(
    ("protecting", "opening"),
    [
        ("PD1||||||||||||Y", "PD1||||||||||||N"),
        ("PD1||||||||||||y", 'PD1||||||||||||""'),
        ("ARV|1|A|OO", "ARV|1|D|OO"),
        ("PD1|\rARV|1|A|ALL", "ARV|1|A|OI"),
        ("PV1|1|N\rPD1||||||||||||Y", "PV1|1|N\rPD1||||||||||||N"),
    ],
)
def test_a_message_excludes_a_patient_and_a_later_one_includes_the_patient_again(protecting: str, opening: str) -> None:
    """The label stays on the Patient until a message removes it; other labels are not changed."""
    who = pid("R-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F")
    with world() as w:
        assert send(w, adt("A04", who))[0] == "AA"
        said, ack = send(w, adt("A08", who, protecting, at="20260102120000"))
        assert (said, "patient-restricted" in ack) == ("AA", True)
        assert [each["active"] for each in w.gorilla.patients()] == [False]
        assert "patient-restricted" in send(w, adt("A08", who, "PD1||", at="20260103120000"))[1]
        assert send(w, adt("A08", who, opening, at="20260104120000")) == ("AA", "MSA|AA|C1")
        assert [each["active"] for each in w.gorilla.patients()] == [True]


def test_a_new_patient_who_is_protected_is_stored_and_never_registered() -> None:
    with world() as w:
        who = pid("R-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F")
        assert send(w, adt("A28", who, "PD1||||||||||||Y"))[0] == "AA"
        assert len(w.server.search("Patient", [("_count", "5")])) == 1
        assert w.gorilla.patients() == []


def test_a_restriction_of_a_visit_is_none_of_the_patient() -> None:
    with world() as w:
        who = pid("R-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F")
        assert send(w, adt("A01", who, "PV1|1|I", "ARV|1|A|OO"))[0] == "AA"
        assert len(w.gorilla.patients()) == 1
