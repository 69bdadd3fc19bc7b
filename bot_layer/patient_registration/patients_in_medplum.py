"""Patients in Medplum: follows merges, reads consents and known namesakes, and writes registrations back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir import outcomes, references
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM, search_token
from bot_layer.fhir.json import Json, as_object, codings, objects, text
from bot_layer.fhir.parameters import path_of
from bot_layer.fhir.social_security import is_ssn
from bot_layer.medplum.client import Medplum
from bot_layer.patient_registration.rules import disclosure
from bot_layer.patient_registration.rules.disclosure import Denial, DisclosurePolicy
from bot_layer.patient_registration.rules.index_patient import (
    ClinicPatient,
    Policy,
    numbers,
    replaced_by,
    with_health_gorilla_id,
)

_MOST_MERGES = 8
_MOST_NAMESAKES = 50
DO_NOT_MATCH = "doNotMatch"
"""The code of the List by which Medplum's guide to deduplication says that two Patients are two people."""


@dataclass(frozen=True)
class PatientStore:
    """The Patients of one Medplum project at the time ``now``."""

    server: Medplum
    now: datetime

    def current(self, reference: str) -> Json:
        """The Patient that a reference means after all merges; ReviewNeeded where the merges form a circle."""
        patient = self.server.read(references.local(reference, self._base))
        for _ in range(_MOST_MERGES):
            successor = replaced_by(patient)
            if successor is None:
                return patient
            if not successor.startswith("Patient/"):
                break
            patient = self.server.read(successor)
        raise ReviewNeeded(
            "The Patient's merges form a circle, lead to a Patient that does not exist, or are too many.",
            code="merge-loop",
        )

    def merged_into(self, patient: Json) -> Iterator[Json]:
        """The Patients that were merged into this one, or into one of those, as both sides of a link say.

        A link on one side alone does not count. Each Patient has one successor, so none occurs twice.
        """
        for link in objects(patient.get("link")):
            reference = _target(link.get("other")) if link.get("type") == "replaces" else ""
            merged = self.server.find(reference) if reference.startswith("Patient/") else None
            if merged is not None and replaced_by(merged) == f"Patient/{patient['id']}":
                yield merged
                yield from self.merged_into(merged)

    def denial(self, patients: list[Json], policy: DisclosurePolicy) -> Denial | None:
        """Why a patient must stay unknown to networks; ``patients`` are the Patient and those merged into it.

        A label or a Consent of any of them counts. An error while the Consents are read is raised: it is no permission.
        """
        consents = list(self._consents(patients))
        found = (disclosure.denial(each, consents, policy, self.now) for each in patients)
        return next((each for each in found if each is not None), None)

    def _consents(self, patients: Sequence[Json]) -> Iterator[Json]:
        """The Consents that name one of the Patients, by any kind of reference.

        Medplum finds relative and versioned references by the compartment, absolute ones by their whole text, and
        logical ones by the value of the identifier.
        """
        own = [f"Patient/{each['id']}" for each in patients]
        queries = [("_compartment", ",".join(own)), ("patient", references.forms(own, self._base))]
        carried = [each for patient in patients for each in objects(patient.get("identifier")) if not is_ssn(each)]
        values = {text(each.get("value")) for each in carried} - {""}
        if values:
            tokens = (search_token("", value).removeprefix("|") for value in sorted(values))
            queries.append(("patient:identifier", ",".join(tokens)))
        systems = {(each.get("system"), each.get("value")) for each in carried}
        for query in queries:
            for consent in self.server.search_all("Consent", [query, ("_count", "100")]):
                logical = (consent.get("patient") or {}).get("identifier") or {}
                is_ours = (logical.get("system"), logical.get("value")) in systems or not logical.get("system")
                if query[0] != "patient:identifier" or is_ours:
                    yield consent

    def named_by(self, consent: Json) -> str:
        """``Patient/id`` of the patient whom a Consent names; InputError where it names none that is known here."""
        patient = as_object(consent.get("patient"))
        reference = references.local(_target(patient), self._base)
        if not reference:
            logical = patient.get("identifier") or {}
            system, value = text(logical.get("system")), text(logical.get("value"))
            token = search_token(system, value) if system else search_token("", value).removeprefix("|")
            found = self.server.search("Patient", [("identifier", token)]) if value else []
            reference = f"Patient/{found[0]['id']}" if len(found) == 1 else ""
        if not reference.startswith("Patient/"):
            raise InputError(
                "The Consent names no Patient of this server.", code="no-target", expression=["Consent.patient"]
            )
        return reference

    def not_same(self, patient: Json, policy: Policy) -> frozenset[str]:
        """The ids, in Medplum's and in Health Gorilla's index, of everybody who is known to be somebody else."""
        own = f"Patient/{patient['id']}"
        ids: set[str] = set()
        for found in self._do_not_match("subject", own):
            ids |= _listed(found)
        for found in self._do_not_match("item", own):
            ids |= {_target(found.get("subject"))} if own in _listed(found) else set()
        return self.known_ids(sorted(ids - {own, ""})[:_MOST_NAMESAKES], policy)

    def known_ids(self, named: Iterable[str], policy: Policy) -> frozenset[str]:
        """The ids under which the index may know the Patients of these references."""
        found = (self.server.find(references.local(reference, self._base)) for reference in named)
        others = [ClinicPatient.read(each, policy, self.now) for each in found if each is not None]
        return frozenset(known for each in others for known in (*each.external_ids, *each.health_gorilla_ids))

    def declare_not_same(self, patient: Json, reference: str) -> None:
        """Store in Medplum that the Patient of a reference is somebody else, for all later messages and calls."""
        other = self.current(reference)
        own = f"Patient/{patient['id']}"
        if other["id"] == patient["id"]:
            problem = "notSameAs names the Patient itself, or one merged into it."
            raise InputError(problem, code="same-patient", expression=[path_of("notSameAs")])
        entry = {"item": {"reference": f"Patient/{other['id']}"}}

        def listed(stored: Json) -> Json:
            known = objects(stored.get("entry"))
            is_known = any(_target(each.get("item")) == entry["item"]["reference"] for each in known)
            return stored if is_known else {**stored, "entry": [*known, entry]}

        coding = {"system": outcomes.CODE_SYSTEM, "code": DO_NOT_MATCH, "display": "Known not to be the same person"}
        made = {
            "resourceType": "List",
            "status": "current",
            "mode": "working",
            "code": {"coding": [coding]},
            "subject": {"reference": own},
            "entry": [entry],
        }
        found = self._do_not_match("subject", own)
        stored = found[0] if found else self.server.create_once(made, f"subject={own}&code={DO_NOT_MATCH}")
        self.server.change(f"List/{stored['id']}", listed)

    def require_own_id(self, patient: Json, health_gorilla_id: str) -> None:
        """Raise ReviewNeeded where another active Patient carries this Health Gorilla id."""
        if health_gorilla_id in self._health_gorilla_ids(patient):
            return
        query = [("identifier", f"{HEALTH_GORILLA_SYSTEM}|{health_gorilla_id}"), ("_count", "20")]
        for other in self.server.search("Patient", query):
            is_ended = other.get("active") is False or replaced_by(other) == f"Patient/{patient['id']}"
            if health_gorilla_id in self._health_gorilla_ids(other) and other["id"] != patient["id"] and not is_ended:
                raise ReviewNeeded("Another Patient in Medplum has this Health Gorilla id.", code="id-of-another")

    def write_back(self, patient: Json, health_gorilla_id: str | None) -> None:
        """Store Health Gorilla's id on the Patient, or mark it as old (None); writes nothing where it is so."""

        def written(stored: Json) -> Json:
            return with_health_gorilla_id(stored, health_gorilla_id, self.now)

        if written(patient) != patient:
            self.server.change(f"Patient/{patient['id']}", written)

    def _health_gorilla_ids(self, patient: Json) -> tuple[str, ...]:
        return numbers(patient, HEALTH_GORILLA_SYSTEM, self.now)

    def _do_not_match(self, name: str, reference: str) -> list[Json]:
        """The current Lists of people who are not the same, by their subject or by an item."""
        value = references.forms([reference], self._base)
        query = [(name, value), ("code", DO_NOT_MATCH), ("_count", str(_MOST_NAMESAKES))]
        return [
            each
            for each in self.server.search("List", query)
            if each.get("status") == "current"
            and DO_NOT_MATCH in [coding.get("code") for coding in codings(each.get("code"))]
        ]

    @property
    def _base(self) -> str:
        return str(self.server.client.fhir_base_url)


def _listed(found: Json) -> set[str]:
    """The references of a List's items that are not deleted from it."""
    return {_target(entry.get("item")) for entry in objects(found.get("entry")) if not entry.get("deleted")}


def _target(reference: object) -> str:
    return str(reference.get("reference", "")) if isinstance(reference, dict) else ""
