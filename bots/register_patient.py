"""$register-patient: registers a patient in Health Gorilla's index, with the id that federated queries use.

Reads the Patient in Medplum (follows merges), the consents, and the index entry; creates, updates, ends or keeps the
entry; writes Health Gorilla's id back. Also accepts HL7 ADT messages, and answers them with an acknowledgement.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from bot_layer.bot.declaration import Bot, Grant, Watch
from bot_layer.bot.event import Event, target
from bot_layer.bot.handler import Handler, failed
from bot_layer.errors import BotError, InputError
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.references import local
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.health_gorilla.rules.clinician import reference_of
from bot_layer.http import transport
from bot_layer.medplum import client as medplum
from bot_layer.patient_registration.adt import acknowledgement
from bot_layer.patient_registration.adt import message as adt
from bot_layer.patient_registration.adt.acknowledgement import Problem, code_of, problem_of
from bot_layer.patient_registration.adt.message import Header
from bot_layer.patient_registration.adt_messages import AdtMessages
from bot_layer.patient_registration.patient_index import Patients
from bot_layer.patient_registration.patients_in_medplum import PatientStore
from bot_layer.patient_registration.registrar import Registrar, Request
from bot_layer.patient_registration.rules import registration_answer
from bot_layer.patient_registration.rules.registration_settings import (
    SETTINGS,
    adt_policy,
    disclosure_policy,
    registration_policy,
)
from bot_layer.patient_registration.tasks import RegistrationTasks

HL7 = "x-application/hl7-v2+er7"

BOT = Bot(
    name="register-patient",
    identifier="health-gorilla-labs/register-patient",
    about="Registers patients in Health Gorilla's index, also from ADT messages, for federated queries",
    target="Patient",
    parameter="patient",
    settings=(*SETTINGS, *hg.SETTINGS, *transport.SETTINGS),
    watches=(
        Watch("Patient", interactions=("create", "update", "delete")),
        Watch("Consent", interactions=("create", "update", "delete")),
    ),
    grants=(
        *(Grant(each, write=True) for each in ("Patient", "Task", "List", "Basic")),
        Grant("Consent"),
    ),
    content_types=(HL7,),
    opt_in=True,
)


def register(event: Event) -> Json:
    """Register one patient, or process and acknowledge one ADT message."""
    now = datetime.now(UTC)
    if _is_hl7(event.input, event.content_type):
        # An HL7 caller receives HL7: the only bot answer that is text.
        return cast(Json, receive(event, now))
    request = Request(
        force=event.flag("force"),
        preview=event.flag("preview"),
        not_same=_not_same(event),
        watched=event.from_subscription,
    )
    consent = _consent(event)
    if consent is not None:
        registrar = _registrar(event, now)
        return registrar.register(registrar.store.named_by(consent), request)
    asked = target(event, "Patient", "patient")
    if asked.deleted:
        tasks = RegistrationTasks(medplum.connect(event), now)
        tasks.cancel([asked.id], "patient-deleted", "The Patient was deleted.")
        return registration_answer.deleted()
    return _registrar(event, now).register(asked.reference, request)


def receive(event: Event, now: datetime) -> str:
    """The acknowledgement of an ADT message: AA accepted, AE failed, AR rejected."""
    header = Header()
    try:
        header = adt.header(str(event.input))
        policy = adt_policy(event.secrets)
        message = adt.read(
            str(event.input), authorities=policy.authorities, processing_ids=policy.processing_ids, now=now
        )
        header = message.header
        if message.action == "ignore":
            return acknowledgement.ack(header, "AA", now, [acknowledgement.NOT_FOR_US])
        registrar = _registrar(event, now)
        messages = AdtMessages(registrar.store, policy.patient_system)
        steps = messages.judge(message)
        stored = messages.apply(message, steps)
    except BotError as error:
        return acknowledgement.ack(header, code_of(error), now, [problem_of(error)])
    remarks = [acknowledgement.LATE] if any(step.is_late for step in steps) else []
    remarks += [acknowledgement.UNKNOWN_PRIOR] if any(step.has_unknown_prior for step in steps) else []
    return _registered(registrar, header, stored, remarks)


def refuse(error: BotError, event: Json) -> Json:
    """The answer for a failure outside the bot, such as a missing setting: an HL7 sender still gets an
    acknowledgement."""
    given = event.get("input")
    if not _is_hl7(given, str(event.get("contentType") or "")):
        return failed(error)
    try:
        header = adt.header(str(given))
    except InputError:
        header = Header()
    return cast(Json, acknowledgement.ack(header, code_of(error), datetime.now(UTC), [problem_of(error)]))


def _registered(registrar: Registrar, header: Header, stored: list[Json], remarks: list[Problem]) -> str:
    """The acknowledgement once the stored Patients are registered; it names the first failure of each kind."""
    errors: dict[str, BotError] = {}
    for patient in stored:
        try:
            registrar.register(f"Patient/{patient['id']}", Request(watched=True))
        except BotError as error:
            errors.setdefault(error.code, error)
    has_failed = any(code_of(error) != "AA" for error in errors.values())
    problems = [*map(problem_of, errors.values()), *remarks]
    return acknowledgement.ack(header, "AE" if has_failed else "AA", registrar.now, problems)


def _registrar(event: Event, now: datetime) -> Registrar:
    server, policy = medplum.connect(event).with_local_references(), registration_policy(event.secrets)
    return Registrar(
        store=PatientStore(server, now),
        index=Patients(health_gorilla.connect(event.secrets), policy, now),
        tasks=RegistrationTasks(server, now),
        policy=policy,
        disclosure=disclosure_policy(event.secrets),
    )


def _is_hl7(given: Any, content_type: str) -> bool:
    return isinstance(given, str) or content_type.startswith(HL7)


def _not_same(event: Event) -> tuple[str, ...]:
    named = [reference_of(each) for each in parameters.values(event.parameters, "notSameAs")]
    if not all(local(each, event.base_url).startswith("Patient/") for each in named):
        where = parameters.path_of("notSameAs")
        raise InputError("notSameAs must refer to a Patient of this server.", code="wrong-target", expression=[where])
    return tuple(named)


def _consent(event: Event) -> Json | None:
    """The Consent that a Subscription reports as changed or deleted; None for any other event."""
    given = event.input
    consent = given.get("deletedResource", given) if isinstance(given, dict) else None
    is_consent = isinstance(consent, dict) and consent.get("resourceType") == "Consent"
    return consent if event.from_subscription and is_consent else None


def _read_settings(values: Mapping[str, str]) -> None:
    for read in (hg.read, disclosure_policy, registration_policy, adt_policy):
        read(values)


handler = Handler(BOT, register, answer_failure=refuse, read_settings=_read_settings)
