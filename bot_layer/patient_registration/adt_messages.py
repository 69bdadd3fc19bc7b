"""ADT messages carried out in Medplum: judged as a whole, then stored. A refused message stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from bot_layer.errors import InputError, ReviewNeeded
from bot_layer.fhir.demographics import Demographics
from bot_layer.fhir.identifiers import search_token
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.adt import order as adt_order
from bot_layer.patient_registration.adt import stored as adt
from bot_layer.patient_registration.adt.message import OLDER_MERGES, Adt, Person
from bot_layer.patient_registration.patients_in_medplum import PatientStore
from bot_layer.patient_registration.rules.index_patient import replaced_by
from bot_layer.patient_registration.rules.same_person import is_same_birth_date, is_somebody_else

_NEW = "new"


@dataclass(frozen=True)
class Step:
    """The plan for one PID of a message: the Patient that it means (None: a new one), and those that end.

    ``is_late``: a later message of the same sender was applied to the Patient before. ``has_unknown_prior``: nobody has
    a number that was to end.
    """

    person: Person
    patient: Json | None = field(default=None, repr=False)
    ending: tuple[Json, ...] = field(default=(), repr=False)
    is_late: bool = False
    has_unknown_prior: bool = False


@dataclass(frozen=True)
class AdtMessages:
    """The messages of one Medplum project. ``patient_system`` is the system by which messages name a patient."""

    store: PatientStore
    patient_system: str | None = None

    def judge(self, message: Adt) -> list[Step]:
        """What the message would do, or the reason why it may do nothing; nothing is written."""
        if message.action == "inactivate":
            return [self._inactivation(message.persons[0])]
        planned: dict[str, Json] = {}
        steps: list[Step] = []
        for person in message.persons:
            step = self._step(person, planned)
            if message.header.trigger in OLDER_MERGES and step.has_unknown_prior:
                raise InputError(
                    "Medplum has no Patient with the number that the message ends.",
                    code="unknown-patient",
                    expression=["MRG-1"],
                )
            steps.append(step)
            planned.update(_after(step))
        return steps

    def apply(self, message: Adt, steps: Sequence[Step]) -> list[Json]:
        """The Patients to register after the steps were carried out: stored, merged, or none where one ended."""
        server = self.store.server
        if message.action == "inactivate":
            for step in steps:
                if not step.is_late and step.patient is not None:
                    server.change(_reference(step.patient), adt.inactivated)
                    self._remember(step.patient, step.person)
            return []
        stored = []
        for step in steps:
            patient = self._stored(step)
            for ending in step.ending:
                kept, ended = _reference(patient), _reference(ending)
                server.change(ended, partial(adt.ended, successor=kept))
                server.change(kept, partial(adt.survivor, prior=ended))
            stored.append(patient)
        return stored

    def _inactivation(self, person: Person) -> Step:
        found = self._meant(person, {}, [])
        if found is None:
            raise InputError(
                "Medplum has no Patient with this identifier.", code="unknown-patient", expression=["PID-3"]
            )
        self._require_same(person, found)
        return Step(person, found, is_late=self._is_late(found, person))

    def _step(self, person: Person, planned: dict[str, Json]) -> Step:
        prior = adt.usable(person.prior)
        if person.prior and not prior:
            raise _no_record_number("MRG-1")
        found = self._meant(person, planned, prior)
        own = found["id"] if found else None
        holders = [self._holder(number, planned, besides=own) for number in prior]
        ending = {each["id"]: each for each in holders if each is not None and each["id"] != own}
        for each in ending.values():
            adt.ended(each, _reference(found) if found else "")
        is_late = found is not None and self._is_late(found, person)
        if found is not None and not is_late:
            self._require_same(person, found)
        pairs = zip(prior, holders, strict=True)
        is_unknown = any(each is None and not (found and adt.carries(found, number)) for number, each in pairs)
        return Step(person, found, tuple(ending.values()), is_late, is_unknown)

    def _meant(self, person: Person, planned: dict[str, Json], prior: Sequence[Json]) -> Json | None:
        """The one Patient whom the numbers of PID-3 name, in whatever order; None where nobody has any of them."""
        numbers = adt.identifying(person.patient["identifier"], self.patient_system)
        if not numbers:
            raise _no_record_number("PID-3")
        staying = [each for each in numbers if not any(adt.is_same(each, ended) for ended in prior)] or numbers
        holders = [(number, self._holder(number, planned)) for number in staying]
        found = {each["id"]: each for _, each in holders if each is not None}
        alive = [each for each in found.values() if replaced_by(each) is None]
        if not alive and found:
            raise _merged()
        if not alive:
            return None
        ended = [each for each in found.values() if replaced_by(each) is not None]
        if len(alive) > 1 or any(self._current_id(each, planned) != alive[0]["id"] for each in ended):
            raise _number_of_another()
        known = {number["system"] for number, each in holders if each is not None}
        is_new = any(each is None and number["system"] in known for number, each in holders)
        if is_new and not self._is_compatible(person.patient, alive[0]) and not self._is_late(alive[0], person):
            raise _number_of_another()
        return alive[0]

    def _holder(self, number: Json, planned: dict[str, Json], *, besides: str | None = None) -> Json | None:
        """The one Patient who has a number. One who was merged into another who has it too does not count."""
        query = [("identifier", search_token(number["system"], number["value"])), ("_count", "20")]
        found = [planned.get(each["id"], each) for each in self.store.server.search("Patient", query)]
        found = [each for each in found if adt.carries(each, number) and each["id"] != besides]
        references = {_reference(each) for each in found}
        carrying = [each for each in found if replaced_by(each) not in references]
        if any(adt.carried_before(patient, number) for patient in carrying):
            raise ReviewNeeded("A Patient in Medplum has this identifier as an old one.", code="old-identifier")
        if found and len(carrying) != 1:
            raise ReviewNeeded("Several Patients in Medplum have this identifier.", code="several-patients")
        return carrying[0] if carrying else None

    def _current_id(self, patient: Json, planned: dict[str, Json]) -> str:
        successor = str(replaced_by(patient)).removeprefix("Patient/")
        return successor if successor in planned else str(self.store.current(_reference(patient))["id"])

    def _stored(self, step: Step) -> Json:
        found, person, server = step.patient, step.person, self.store.server
        if found is None:
            key = adt.identifying(person.patient["identifier"], self.patient_system)[0]
            query = f"identifier={quote(search_token(key['system'], key['value']), safe=':/|')}"
            new = adt.new_patient(person)
            found = server.create_once(new, query)
            # A search also finds an account number that equals the record number: that is somebody else.
            found = found if adt.carries(found, key) else server.create(new)
        if replaced_by(found) is not None:
            raise _merged()
        if step.is_late:
            return found
        patient = server.change(_reference(found), lambda stored: adt.merged(stored, person))
        self._remember(patient, person)
        return patient

    def _require_same(self, person: Person, found: Json) -> None:
        """Raise ReviewNeeded where the message is about somebody else than the stored Patient of its number."""
        if is_somebody_else(self._demographics(person.patient), self._demographics(found)):
            raise ReviewNeeded(
                "The Patient of this number has another name and birth date in Medplum, or another name and sex: "
                "correct the wrong one. Nothing was stored.",
                code="contradictory-demographics",
            )

    def _is_compatible(self, stated: Json, patient: Json) -> bool:
        """Whether a message with a new number of the same kind is about the stored Patient."""
        ours, theirs = self._demographics(stated), self._demographics(patient)
        is_named = not ours.names or not theirs.names or bool(ours.names & theirs.names)
        return is_named and is_same_birth_date(ours, theirs)

    def _demographics(self, patient: Json) -> Demographics:
        return Demographics.read(patient, self.store.now)

    def _is_late(self, patient: Json, person: Person) -> bool:
        """Whether a stamp is newer: one beside the Patient, or one that an earlier version stored on the Patient."""
        holders = (patient, *self._stamps(patient["id"]))
        return any(adt_order.is_late(holder, person.stamp) for holder in holders)

    def _remember(self, patient: Json, person: Person) -> None:
        """Store the message's stamp beside the Patient."""
        found, server = self._stamps(patient["id"]), self.store.server
        if found:
            server.change(f"Basic/{found[0]['id']}", lambda stored: adt_order.stamped(stored, person.stamp))
            return
        made = adt_order.stamped(adt_order.new_holder(patient["id"]), person.stamp)
        if "extension" in made:
            server.create_once(made, f"identifier={adt_order.URL}|{patient['id']}")

    def _stamps(self, patient_id: str) -> Sequence[Json]:
        return self.store.server.search("Basic", [("identifier", f"{adt_order.URL}|{patient_id}")])


def _after(step: Step) -> dict[str, Json]:
    """The Patients as a step would leave them, for judging the next one; of a new Patient nothing is known yet."""
    own = step.patient["id"] if step.patient else _NEW
    kept = {own: step.patient if step.is_late else adt.merged(step.patient, step.person)} if step.patient else {}
    return {**kept, **{each["id"]: adt.ended(each, f"Patient/{own}") for each in step.ending}}


def _reference(patient: Any) -> str:
    return f"Patient/{patient['id']}"


def _no_record_number(where: str) -> InputError:
    return InputError(
        "No number identifies the patient: an account, visit or family number alone does not.",
        code="no-record-number",
        expression=[where],
    )


def _merged() -> InputError:
    return InputError(
        "The Patient with this identifier was merged into another one.", code="patient-merged", expression=["PID-3"]
    )


def _number_of_another() -> ReviewNeeded:
    return ReviewNeeded("Another Patient in Medplum has a number of this one.", code="number-of-another")
