"""Patients in Medplum: merges followed, ADT messages carried out, registrations written back, failures made visible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from bot_layer.errors import BotError, InputError, ReviewNeeded
from bot_layer.fhir.demographics import entries
from bot_layer.fhir.identifiers import HEALTH_GORILLA_SYSTEM, search_token
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum
from bot_layer.patient_registration.adt import message as adt
from bot_layer.patient_registration.adt.message import Adt, Person
from bot_layer.patient_registration.rules import index_patient, registration, registration_answer
from bot_layer.patient_registration.rules.registration_answer import TASK_SYSTEM

_MOST_MERGES = 8


@dataclass(frozen=True)
class PatientStore:
    """The Patients of one Medplum project."""

    server: Medplum

    def current(self, reference: str) -> Json:
        """The Patient that stands for a reference now: merges are followed, a circle is for a person."""
        patient = self.server.read(reference)
        for _ in range(_MOST_MERGES):
            successor = registration.replaced_by(patient)
            if successor is None:
                return patient
            if not successor.startswith("Patient/"):
                break
            patient = self.server.read(successor)
        raise ReviewNeeded("The Patient's merges lead in a circle or elsewhere, or are too many.", code="merge-loop")

    def merged_into(self, patient: Json) -> Iterator[Json]:
        """The Patients that were merged into this one, or into one of those, as both sides of a link say.

        A link on one side alone opens nothing. Each has one successor, so that nobody is met twice.
        """
        for link in entries(patient.get("link")):
            reference = _target(link) if link.get("type") == "replaces" else ""
            merged = self.server.held(reference) if reference.startswith("Patient/") else None
            if merged is not None and registration.replaced_by(merged) == f"Patient/{patient['id']}":
                yield merged
                yield from self.merged_into(merged)

    def require_own_id(self, patient: Json, health_gorilla_id: str) -> None:
        """Raise ReviewNeeded where another active Patient carries this Health Gorilla id."""
        if health_gorilla_id in index_patient.health_gorilla_ids(patient):
            return
        query = [("identifier", f"{HEALTH_GORILLA_SYSTEM}|{health_gorilla_id}"), ("_count", "20")]
        for other in self.server.search("Patient", query):
            carried = health_gorilla_id in index_patient.health_gorilla_ids(other)
            is_ended = other.get("active") is False or registration.replaced_by(other) == f"Patient/{patient['id']}"
            if carried and other["id"] != patient["id"] and not is_ended:
                raise ReviewNeeded("Another Patient in Medplum carries this Health Gorilla id.", code="id-of-another")

    def write_back(self, patient: Json, health_gorilla_id: str) -> None:
        """Keeps Health Gorilla's id on the Patient; nothing is written where it is there."""
        if index_patient.with_health_gorilla_id(patient, health_gorilla_id) is None:
            return
        self.server.change(
            f"Patient/{patient['id']}",
            lambda now: index_patient.with_health_gorilla_id(now, health_gorilla_id) or now,
        )

    def carry_out(self, message: Adt, patient_system: str | None) -> list[Json]:
        """The Patients to register after a message: stored, merged, or none where one ended."""
        if message.action == "inactivate":
            self._inactivate(message.persons[0], patient_system)
            return []
        stored = [(person, self._store(person, patient_system)) for person in message.persons]
        for person, patient in stored:
            if person.prior:
                self._merge(person.prior, patient, patient_system)
        return [patient for _, patient in stored]

    def fail(self, patient_id: str, error: BotError, now: datetime) -> None:
        """Leaves one open Task for the patient, with the latest reason."""
        open_tasks = self._open_tasks(patient_id)
        if open_tasks:
            reference = f"Task/{open_tasks[0]['id']}"
            self.server.change(reference, lambda stored: registration_answer.renewed(stored, error, now))
            return
        task = registration_answer.task(patient_id, error, now)
        self.server.create_once(task, f"identifier={TASK_SYSTEM}|{patient_id}&status=requested")

    def succeed(self, patient_id: str, now: datetime) -> None:
        """Closes the patient's open Task, if there is one."""
        for task in self._open_tasks(patient_id):
            self.server.change(f"Task/{task['id']}", lambda stored: registration_answer.completed(stored, now))

    def _open_tasks(self, patient_id: str) -> list[Json]:
        return self.server.search("Task", [("identifier", f"{TASK_SYSTEM}|{patient_id}"), ("status", "requested")])

    def _store(self, person: Person, patient_system: str | None) -> Json:
        key = adt.key(person.patient["identifier"], patient_system)
        found = self._find(key)
        numbers = adt.record_numbers(person.patient["identifier"], patient_system)
        self._require_own(found, [each for each in numbers if each != key], ending={"identifier": [*person.prior]})
        if found is None:
            query = f"identifier={quote(search_token(key['system'], key['value']), safe=':/|')}"
            new = adt.new_patient(person)
            found = self.server.create_once(new, query)
            # A search does not tell an account's number from an equal record number: that is somebody else.
            found = found if _carries(found, key) else self.server.create(new)
        _require_unmerged(found)
        return self.server.change(f"Patient/{found['id']}", lambda stored: adt.merged(stored, person))

    def _require_own(self, found: Json | None, numbers: Sequence[Json], *, ending: Json) -> None:
        """Raise ReviewNeeded where a number that the message adds is another Patient's, who does not end by it."""
        own = found["id"] if found else None
        for number in numbers:
            if _carries(ending, number) or (found and _carries(found, number)):
                continue
            holder = self._find(number)
            if holder is not None and self.current(f"Patient/{holder['id']}")["id"] != own:
                raise ReviewNeeded("Another Patient in Medplum carries a number of this one.", code="number-of-another")

    def _merge(self, prior: Sequence[Json], patient: Json, patient_system: str | None) -> None:
        """Links the record that ends and the one that stays; one that Medplum never knew needs no end."""
        ending = self._find(adt.key(prior, patient_system), besides=patient["id"])
        if ending is None:
            return
        kept, gone = f"Patient/{patient['id']}", f"Patient/{ending['id']}"
        # One message may merge several: what an earlier part of it ended does not stay.
        _require_unmerged(self.server.read(kept))
        self.server.change(gone, lambda stored: adt.ended(stored, kept))
        self.server.change(kept, lambda stored: adt.survivor(stored, gone))

    def _inactivate(self, person: Person, patient_system: str | None) -> None:
        found = self._find(adt.key(person.patient["identifier"], patient_system))
        if found is None:
            raise InputError("Medplum has no Patient of this identifier.", code="unknown-patient", expression=["PID-3"])
        self.server.change(f"Patient/{found['id']}", lambda stored: {**stored, "active": False})

    def _find(self, key: Json, *, besides: str | None = None) -> Json | None:
        """The one Patient that carries the identifier; one that ended in another who carries it too is not meant."""
        query = [("identifier", search_token(key["system"], key["value"])), ("_count", "10")]
        found = [each for each in self.server.search("Patient", query) if _carries(each, key) and each["id"] != besides]
        names = {f"Patient/{each['id']}" for each in found}
        carrying = [each for each in found if registration.replaced_by(each) not in names]
        if any(_carried(patient, key) for patient in carrying):
            raise ReviewNeeded("A Patient in Medplum carries this identifier as an old one.", code="old-identifier")
        if found and len(carrying) != 1:
            raise ReviewNeeded("Several Patients in Medplum carry this identifier.", code="several-patients")
        return carrying[0] if carrying else None


def _target(link: Json) -> str:
    other = link.get("other")
    return str(other.get("reference", "")) if isinstance(other, dict) else ""


def _require_unmerged(patient: Json) -> None:
    if registration.replaced_by(patient) is not None:
        raise InputError("The Patient of this identifier was merged away.", code="patient-merged", expression=["PID-3"])


def _carried(patient: Json, key: Json) -> bool:
    """Whether the identifier is the patient's only as one of use ``old``: a number that was given in error."""
    own = [entry for entry in entries(patient.get("identifier")) if adt.is_same(entry, key)]
    return bool(own) and all(entry.get("use") == "old" for entry in own)


def _carries(patient: Json, key: Json) -> bool:
    """Whether the identifier is among the patient's, whatever the search answered."""
    return any(adt.is_same(entry, key) for entry in entries(patient.get("identifier")))
