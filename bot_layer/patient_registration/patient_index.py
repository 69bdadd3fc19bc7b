"""Patients in Health Gorilla's index are found, and registered or updated exactly once, even if answers are lost.

https://developer.healthgorilla.com/docs/patient
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from bot_layer.errors import PermanentError, TransientError
from bot_layer.fhir.identifiers import search_token
from bot_layer.fhir.json import Json
from bot_layer.fhir.validation import require_valid
from bot_layer.health_gorilla.client import HealthGorillaClient, created_id, resource_of
from bot_layer.http.addresses import path
from bot_layer.http.answer import Answer
from bot_layer.http.retry import write_planned
from bot_layer.patient_registration.rules.index_patient import ClinicPatient, Policy, Registration
from bot_layer.patient_registration.rules.registration import Act, Create, Found, NothingToDo
from bot_layer.patient_registration.rules.same_person import is_alike


@dataclass(frozen=True)
class Patients:
    """The index as one login sees it, read at the time ``now``."""

    gorilla: HealthGorillaClient
    policy: Policy
    now: datetime

    def find(self, patient: ClinicPatient, former: Sequence[str] = ()) -> Found:
        """What the index has of a patient: by identifier, else by name and birth date, and by the recorded id.

        ``former`` are the ids of the Patients that were merged into this one: a registration of theirs is this one's.
        """
        by_identifier = self._registered_under(patient.external_ids, former)
        if by_identifier:
            return Found(by_identifier=by_identifier)
        person = patient.demographics
        *names, initials = person.search_names
        named = [theirs for each in names for theirs in self._named(*each, person.birth_date)]
        try:
            named += self._named(*initials, person.birth_date)
        except PermanentError as error:
            if error.status != 400:
                raise
            # Health Gorilla may require longer names; those who are spelled in the same way were found.
        alike = list({each.id: each for each in named if is_alike(person, each.demographics)}.values())
        return Found(by_demographics=alike, recorded=self._recorded(patient, alike))

    def find_registered(self, patient: ClinicPatient, former: Sequence[str] = ()) -> Found:
        """The registrations of a patient, by identifier and by the recorded id, without looking for namesakes."""
        by_identifier = self._registered_under(patient.external_ids, former)
        return Found(by_identifier=by_identifier, recorded=self._recorded(patient, by_identifier))

    def carry_out(self, plan: Act, replan: Callable[[], Act]) -> str:
        """The Health Gorilla id once the patient is registered as planned.

        After a lost answer or a conflict it is planned again from what the index has by then, never sent blindly.
        """
        return write_planned(plan, self._apply, replan, tries=4)

    def _apply(self, plan: Act) -> str:
        """The id; a TransientError of status 412 where the plan is out of date by now."""
        if isinstance(plan, NothingToDo):
            return plan.id
        require_valid(plan.body)
        if isinstance(plan, Create):
            pt = plan.body["identifier"][0]
            query = f"identifier={quote(search_token(pt['system'], pt['value']), safe=':/|')}"
            answer = self.gorilla.create("Patient", plan.body, unless_found=query)
            registered = created_id(answer, "Patient")
        else:
            answer, registered = self.gorilla.update("Patient", plan.body), plan.id
        if answer.status == 202 and isinstance(plan, Create):
            text = "Health Gorilla is still busy with the same request; try again later."
            raise TransientError(
                text,
                service="Health Gorilla",
                status=202,
                method="POST",
                path="Patient",
                code="registration-in-flight",
            )
        is_outdated = answer.status in {409, 412}
        if not is_outdated:
            _require_ok(answer)
        if is_outdated or registered is None:
            text = "Others keep changing the registration; try again later."
            raise TransientError(
                text, service="Health Gorilla", status=412, path="Patient", code="registration-conflict"
            )
        return registered

    def _registered_under(self, own: Sequence[str], former: Sequence[str]) -> list[Registration]:
        """Who is registered under the patient's own ids, else under the first known id of a Patient merged into it."""
        found = {theirs.id: theirs for external in own for theirs in self._registered_as(external)}
        if found:
            return list(found.values())
        return next(filter(None, map(self._registered_as, former)), [])

    def _registered_as(self, external: str) -> list[Registration]:
        """Who is registered under an id; a server that ignores the parameter answers with somebody else."""
        system = self.policy.patient_system
        answered = self._search([("identifier", search_token(system, external))])
        return [theirs for theirs in answered if (system, external) in theirs.numbers]

    def _recorded(self, patient: ClinicPatient, known: Sequence[Registration]) -> Registration | None:
        """The registration under the id that Medplum keeps, unless it is among those that are known."""
        recorded = patient.health_gorilla_ids[:1]
        if not recorded or recorded[0] in {theirs.id for theirs in known}:
            return None
        answer = self.gorilla.send("GET", path("Patient/{id}", id=recorded[0]))
        if answer.status in {404, 410}:
            return None
        _require_ok(answer)
        return self._registration(resource_of(answer))

    def _named(self, family: str, given: str, birth_date: str) -> list[Registration]:
        return self._search([("family", family), ("given", given), ("birthdate", birth_date)])

    def _search(self, query: list[tuple[str, str]]) -> list[Registration]:
        found = self.gorilla.search("Patient", query)
        return [self._registration(each) for each in found if each.get("resourceType") == "Patient"]

    def _registration(self, resource: Json) -> Registration:
        return Registration.read(resource, self.policy, self.now)


def _require_ok(answer: Answer) -> None:
    if answer.ok:
        return
    error = answer.error()
    if isinstance(error, PermanentError):
        error.code = "registration-refused"
    raise error
