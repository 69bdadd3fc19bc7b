"""Medplum's data for a federated query: the patient with a registered id, and the documents that may be disclosed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice

from bot_layer.errors import InputError, PermanentError, ReviewNeeded
from bot_layer.federation.contents import Contents, Opened
from bot_layer.federation.rules import document as federated_document
from bot_layer.federation.rules.document import Rules
from bot_layer.federation.rules.query import Query
from bot_layer.federation.settings import Answering
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM, search_token
from bot_layer.fhir.json import Json, objects
from bot_layer.fhir.periods import in_force
from bot_layer.fhir.references import forms, is_id
from bot_layer.medplum.client import Medplum
from bot_layer.patient_registration.patients_in_medplum import PatientStore
from bot_layer.patient_registration.rules.index_patient import numbers, replaced_by


@dataclass(frozen=True)
class Found:
    """The patient with a requested id, and the Medplum Patients whose documents belong to that patient."""

    patient: Json = field(repr=False)
    references: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """What may be disclosed for one requested id: the patient, if there is one, and all documents, each in the form for
    the network."""

    patients: tuple[str, ...] = field(default=(), repr=False)
    documents: tuple[Json, ...] = field(default=(), repr=False)


class FederatedSource:
    """One Medplum project as the network may see it."""

    def __init__(
        self,
        server: Medplum,
        answering: Answering,
        *,
        most_documents: int = 2000,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.server = server
        self.answering = answering
        self.most_documents = most_documents
        self.now = now
        self.contents = Contents(server, answering.rules.highest)
        self._rules: Rules = replace(answering.rules, server=server.client.fhir_base_url)

    def answer(self, asked_id: str) -> Answer:
        """The patient who is registered with an id, and the documents; empty for a patient who is not known."""
        found = self.patient(asked_id)
        return Answer(found.references[:1], tuple(self.documents(found, asked_id))) if found else Answer()

    def opened(self, asked_id: str, document_id: str, number: str) -> tuple[Found, Json, Opened] | None:
        """One document of the patient who is registered with an id, and the bytes of its content ``number``.

        It is looked up for each request: a document that may no longer be disclosed is None, as an unknown one.
        """
        if not asked_id or not number.isascii() or not number.isdigit() or len(number) > 4:
            return None
        found = self.patient(asked_id)
        document = self.document(found, document_id) if found else None
        opened = self.open(found, document, int(number)) if found and document else None
        return (found, document, opened) if found and document and opened else None

    def asked_ids(self, query: Query) -> list[str]:
        """The registered ids of a query's patients; empty if no patient has the identifier or document.

        For a query with only document ids, these are the patients of those documents.
        """
        if query.patients:
            return list(query.patients)
        if query.identifiers:
            found = (each for asked in query.identifiers for each in self._ids_of(asked.system, asked.value))
            return list(dict.fromkeys(found))
        summarized = {each: federated_document.summarized_patient(each) for each in query.ids or ()}
        patients = [f"Patient/{patient}" for patient in summarized.values() if patient]
        stored = (self._stored(each) for each, patient in summarized.items() if not patient)
        subjects = [str((document.get("subject") or {}).get("reference")) for document in stored if document]
        return self._registered_ids([*patients, *subjects])

    def patient(self, asked_id: str) -> Found | None:
        """The patient who is registered with an id and may be disclosed, or None."""
        asked = self._asked(asked_id)
        now = self.now()
        if asked is None or not (self.answering.unregistered or numbers(asked, HEALTH_GORILLA_SYSTEM, now)):
            return None
        store = PatientStore(self.server, now)
        try:
            current = store.current(f"Patient/{asked['id']}") if _is_merged(asked) else asked
        except (InputError, ReviewNeeded):
            return None
        if current.get("active") is False:
            return None
        everyone = {f"Patient/{each['id']}": each for each in (current, asked, *store.merged_into(current))}
        # An error while reading labels and Consents does not count as permission.
        if store.denial(list(everyone.values()), self.answering.disclosure) is not None:
            return None
        return Found(current, tuple(everyone))

    def documents(self, found: Found, asked_id: str) -> list[Json]:
        """Every document of a patient that may be disclosed, in the form for the network."""
        stored = self._stored_documents(found, self.most_documents + 1)
        if len(stored) > self.most_documents:
            raise PermanentError(
                f"The patient has more than {self.most_documents} documents.",
                service="Medplum",
                method="GET",
                path="DocumentReference",
                code="answer-too-large",
            )
        measured = [(each, self.contents.of(each)) for each in stored if self._may_leave(each, found)]
        shown = [(document, contents) for document, contents in measured if any(contents)]
        summary = None if stored else self._summary(found)
        if summary is not None:
            shown = [(summary, [self.contents.of_summary(found.patient)])]
        own = self.server.find(self.answering.organization) if self.answering.organization else None
        named = {each for document, _ in shown for each in federated_document.organization_references(document)}
        organizations = {each: known for each in sorted(named) if (known := self.server.find(each)) is not None}
        return [
            federated_document.present(
                document,
                asked_id=asked_id,
                contents=contents,
                organizations=organizations,
                own=own,
                rules=self._rules,
            )
            for document, contents in shown
        ]

    def document(self, found: Found, document_id: str) -> Json | None:
        """One document of the patient that may be disclosed, as stored now; None for any other."""
        if federated_document.summarized_patient(document_id) is not None:
            summary = self._summary(found)
            is_meant = summary is not None and summary["id"] == document_id
            return summary if is_meant and not self._stored_documents(found, 1) else None
        stored = self._stored(document_id)
        return stored if stored is not None and self._may_leave(stored, found) else None

    def open(self, found: Found, document: Json, number: int) -> Opened | None:
        """The bytes of one content of a document, or None."""
        if federated_document.summarized_patient(document["id"]) is not None:
            return self.contents.open_summary(found.patient) if number == 0 else None
        return self.contents.open(document, number)

    def _stored_documents(self, found: Found, most: int) -> list[Json]:
        subjects = forms(found.references, self.server.client.fhir_base_url)
        query = [("subject", subjects), ("_count", str(min(most, 200)))]
        return list(islice(self.server.search_all("DocumentReference", query), most))

    def _summary(self, found: Found) -> Json | None:
        """The generated summary document of the patient, if the settings allow one."""
        summary = federated_document.summary(found.patient)
        is_offered = self.answering.ccda and federated_document.is_open(summary, self._rules)
        return summary if is_offered else None

    def _asked(self, asked_id: str) -> Json | None:
        system = self.answering.identifier_system
        if system is None:
            return self.server.find(f"Patient/{asked_id}") if is_id(asked_id) else None
        return self._identified(system, asked_id)

    def _identified(self, system: str | None, value: str) -> Json | None:
        """The one patient with an identifier; a system of None matches any."""
        token = search_token(system, value) if system is not None else search_token("", value).removeprefix("|")
        hits = self.server.search("Patient", [("identifier", token), ("_count", "10")])
        carrying = [patient for patient in hits if _carries(patient, system, value, self.now())]
        # A merged record leads to the surviving one, which may have taken over its number.
        successors = {replaced_by(patient) for patient in carrying}
        first = [patient for patient in carrying if f"Patient/{patient['id']}" not in successors]
        # If two patients have one number, do not guess which one is meant.
        return first[0] if len(first) == 1 else None

    def _ids_of(self, system: str | None, value: str) -> list[str]:
        """The registered id of the patient with an identifier; the number itself if patients are registered with it."""
        asked, own_system = self._identified(system, value), self.answering.identifier_system
        if asked is not None and own_system and _carries(asked, own_system, value, self.now()):
            return [value]
        return self._registered_ids([f"Patient/{asked['id']}"] if asked else [])

    def _registered_ids(self, references: Iterable[str]) -> list[str]:
        """The ids with which Medplum Patients were registered, without duplicates."""
        ids = (self._registered_id(reference) for reference in dict.fromkeys(references))
        return list(dict.fromkeys(each for each in ids if each))

    def _registered_id(self, reference: str) -> str | None:
        resource_type, _, patient_id = reference.partition("/")
        if resource_type != "Patient" or not is_id(patient_id):
            return None
        system = self.answering.identifier_system
        if system is None:
            return patient_id
        patient = self.server.find(reference)
        own = numbers(patient, system, self.now()) if patient is not None else ()
        return next(iter(own), None)

    def _stored(self, document_id: str) -> Json | None:
        return self.server.find(f"DocumentReference/{document_id}") if is_id(document_id) else None

    def _may_leave(self, document: Json, found: Found) -> bool:
        subject = document.get("subject")
        is_theirs = isinstance(subject, dict) and subject.get("reference") in found.references
        return is_theirs and federated_document.may_leave(document, self._rules)


def _is_merged(patient: Json) -> bool:
    return replaced_by(patient) is not None


def _carries(patient: Json, system: str | None, value: str, now: datetime) -> bool:
    """Whether the number is the patient's own. One that is no longer valid may have belonged to another patient."""
    own = (each for each in objects(patient.get("identifier")) if in_force(each, now) or _is_merged(patient))
    return any(each.get("value") == value and system in (None, each.get("system")) for each in own)
