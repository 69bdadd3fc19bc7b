"""One patient is registered, updated, or kept out of the index: gather, decide, act."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from bot_layer.errors import BotError, InputError
from bot_layer.fhir.json import Json
from bot_layer.patient_registration.patient_index import Patients
from bot_layer.patient_registration.patients_in_medplum import PatientStore
from bot_layer.patient_registration.rules import registration, registration_answer
from bot_layer.patient_registration.rules.disclosure import Denial, DisclosurePolicy
from bot_layer.patient_registration.rules.index_patient import ClinicPatient, Policy
from bot_layer.patient_registration.rules.registration import Act, Context, Create, NothingToDo, Update
from bot_layer.patient_registration.rules.registration_answer import NOT_FOR_THE_INDEX
from bot_layer.patient_registration.tasks import ENDING_SYSTEM, RegistrationTasks


@dataclass(frozen=True)
class Request:
    """What a caller says beside the patient. ``watched``: a failure leaves a Task, as nobody reads the answer."""

    force: bool = False
    preview: bool = False
    not_same: tuple[str, ...] = ()
    watched: bool = False


@dataclass(frozen=True)
class Registrar:
    """The registrations of one Medplum project in one index."""

    store: PatientStore
    index: Patients
    tasks: RegistrationTasks
    policy: Policy
    disclosure: DisclosurePolicy

    @property
    def now(self) -> datetime:
        """The time at which the index and Medplum are read."""
        return self.store.now

    def register(self, reference: str, request: Request) -> Json:
        """The answer, one Parameters resource; a BotError where the patient is not registered."""
        known = [reference.partition("/")[2]]
        try:
            # The event may be stale, or invented by its caller: register Medplum's current state.
            patient = self.store.current(reference)
            merged = list(self.store.merged_into(patient))
            known += [each["id"] for each in (patient, *merged)]
            return self._register(patient, merged, request, known)
        except BotError as error:
            self._note(known, error, request)
            raise

    def _register(self, stored: Json, merged: Sequence[Json], request: Request, known: Sequence[str]) -> Json:
        denial = self.store.denial([stored, *merged], self.disclosure)
        patient, *others = (ClinicPatient.read(each, self.policy, self.now) for each in (stored, *merged))
        former = [each for other in others for each in other.external_ids]
        if denial is not None:
            self._keep_out(stored, patient, former, denial, preview=request.preview)
        if not request.preview:
            for other in request.not_same:
                self.store.declare_not_same(stored, other)

        def plan() -> Act:
            return self._plan(stored, patient, former, request)

        planned = plan()
        if not isinstance(planned, Create):
            self.store.require_own_id(stored, planned.id)
        health_gorilla_id = None if request.preview else self.index.carry_out(planned, plan)
        if not request.preview:
            self.store.write_back(stored, health_gorilla_id)
            self.tasks.complete(dict.fromkeys(known))
        return registration_answer.answer(
            planned,
            patient.id,
            self.policy,
            health_gorilla_id,
            followed=known[0] != patient.id,
            preview=request.preview,
        )

    def _plan(self, stored: Json, patient: ClinicPatient, former: Sequence[str], request: Request) -> Act:
        """What to do; InputError or ReviewNeeded where nothing may be done. A refusal is known before any search."""
        registration.require_registrable(patient, self.policy)
        found = self.index.find(patient, former)
        others: frozenset[str] = frozenset()
        if found.by_demographics:
            others = self.store.not_same(stored, self.policy)
            others |= self.store.known_ids(request.not_same if request.preview else (), self.policy)
        context = Context(tuple(former), others, request.force)
        return registration.plan(patient, found, self.policy, context)

    def _keep_out(
        self, stored: Json, patient: ClinicPatient, former: Sequence[str], denial: Denial, *, preview: bool
    ) -> None:
        """End what is registered, as far as Health Gorilla allows, and raise the reason.

        The Task comes first, so that a person learns of it also where the rest fails; the id in Medplum comes last.
        """
        error = InputError(denial.text, code=denial.code, expression=[denial.expression])

        def endings() -> list[Update]:
            return registration.endings(patient, self.index.find_registered(patient, former))

        def again(health_gorilla_id: str) -> Act:
            found = (each for each in endings() if each.id == health_gorilla_id)
            return next(found, NothingToDo(health_gorilla_id))

        if not preview:
            planned = endings()
            if planned:
                self.tasks.open(patient.id, error, ENDING_SYSTEM)
            for ending in planned:
                self.index.carry_out(ending, partial(again, ending.id))
            self.store.write_back(stored, None)
        raise error

    def _note(self, known: Sequence[str], error: BotError, request: Request) -> None:
        """What a failure means for the Tasks of the patient."""
        if request.preview:
            return
        is_deleted = error.code == "not-found" and len(known) == 1
        if error.code in NOT_FOR_THE_INDEX or is_deleted:
            self.tasks.cancel(dict.fromkeys(known), error.code, error.message)
        elif request.watched:
            asked, current = known[0], known[1] if len(known) > 1 else known[0]
            self.tasks.open(current, error)
            if asked != current:
                self.tasks.cancel([asked], "patient-merged", "The Patient was merged into another.")
