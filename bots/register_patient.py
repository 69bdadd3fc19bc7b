"""$register-patient: have a patient in Health Gorilla's index, under the id by which federated queries ask.

Reads the Patient in Medplum (merges are followed) and what the index holds; creates, updates or leaves alone; writes
Health Gorilla's id back. Also takes HL7 ADT messages: the Patient is stored first, the answer is an acknowledgement.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from bot_layer.bot.declaration import Bot, Grant, Watch
from bot_layer.bot.event import Event, target
from bot_layer.bot.handler import Handler, failed
from bot_layer.errors import BotError, InputError
from bot_layer.fhir.json import Json
from bot_layer.health_gorilla import client as health_gorilla
from bot_layer.health_gorilla.rules import settings as hg
from bot_layer.http import transport
from bot_layer.medplum import client as medplum
from bot_layer.patient_registration.adt import message as adt
from bot_layer.patient_registration.adt import order as adt_order
from bot_layer.patient_registration.adt import outbound as adt_out
from bot_layer.patient_registration.adt.message import Header
from bot_layer.patient_registration.patient_index import Patients
from bot_layer.patient_registration.patients_in_medplum import PatientStore
from bot_layer.patient_registration.rules import index_patient, registration_answer
from bot_layer.patient_registration.rules.registration import Create
from bot_layer.patient_registration.rules.registration_answer import (
    NOT_FOR_THE_INDEX,
    acknowledgement,
    late,
    not_for_us,
    problem,
)
from bot_layer.patient_registration.rules.registration_settings import SETTINGS, adt_policy, registration_policy

HL7 = "x-application/hl7-v2+er7"

BOT = Bot(
    name="register-patient",
    identifier="health-gorilla-labs/register-patient",
    about="Registers patients in Health Gorilla's index, also from ADT messages, for federated queries",
    target="Patient",
    parameter="patient",
    settings=(*SETTINGS, *hg.SETTINGS, *transport.SETTINGS),
    watches=(Watch("Patient"),),
    grants=(Grant("Patient", write=True), Grant("Task", write=True)),
    content_types=(HL7,),
    opt_in=True,
)


def register(event: Event) -> Json:
    """One patient registered, or one ADT message carried out and acknowledged."""
    if _is_hl7(event.input, event.content_type):
        # An HL7 caller gets HL7 back: the one answer of a bot that is text.
        return cast(Json, receive(event, datetime.now(UTC)))
    asked = target(event, "Patient", "patient")
    if asked.deleted:
        return registration_answer.deleted()
    if not event.from_subscription:
        return _register(event, asked.reference)
    store = PatientStore(medplum.connect(event))
    try:
        answer = _register(event, asked.reference)
    except BotError as error:
        if error.code not in NOT_FOR_THE_INDEX:
            store.fail(asked.id, error, datetime.now(UTC))
        raise
    store.succeed(asked.id, datetime.now(UTC))
    return answer


def receive(event: Event, now: datetime) -> str:
    """The acknowledgement of an ADT message: AA done, AE failed, AR not taken."""
    header = Header()
    try:
        header = adt.header(str(event.input))
        policy = adt_policy(event.secrets)
        message = adt.read(
            str(event.input), authorities=policy.authorities, processing_ids=policy.processing_ids, now=now
        )
        if message.action == "ignore":
            return adt_out.ack(header, "AA", now, [not_for_us()])
        store = PatientStore(medplum.connect(event))
        stored = store.carry_out(message, policy.patient_system)
        for patient in stored:
            _register(event, f"Patient/{patient['id']}")
    except BotError as error:
        return adt_out.ack(header, acknowledgement(error), now, [problem(error)])
    is_late = any(adt_order.is_late(patient, message.persons[0].stamp) for patient in stored)
    return adt_out.ack(header, "AA", now, [late()] if is_late else [])


def refuse(error: BotError, event: Json) -> Json:
    """The answer for a failure around the bot, as a missing setting: an HL7 sender gets an acknowledgement here too."""
    given = event.get("input")
    if not _is_hl7(given, str(event.get("contentType") or "")):
        return failed(error)
    try:
        header = adt.header(str(given))
    except InputError:
        header = Header()
    return cast(Json, adt_out.ack(header, acknowledgement(error), datetime.now(UTC), [problem(error)]))


def _is_hl7(given: Any, content_type: str) -> bool:
    return isinstance(given, str) or content_type.startswith(HL7)


def _register(event: Event, reference: str) -> Json:
    """Gather, decide, act; the answer is one Parameters resource."""
    policy, force = registration_policy(event.secrets), event.flag("force")
    store = PatientStore(medplum.connect(event))
    index = Patients(health_gorilla.connect(event.secrets), policy)

    # The event may be stale, or made up by its caller: what is registered is what Medplum holds.
    patient = store.current(reference)
    followed = f"Patient/{patient['id']}" != reference
    merged = [index_patient.external_id(each, policy) for each in store.merged_into(patient)]
    former = [each for each in merged if each is not None]
    plan = index.plan(patient, former, force=force)
    if not isinstance(plan, Create):
        store.require_own_id(patient, plan.id)

    if event.flag("preview"):
        return registration_answer.preview(plan, patient, policy, followed=followed)
    health_gorilla_id = index.carry_out(plan, patient, former, force=force)
    store.write_back(patient, health_gorilla_id)
    return registration_answer.answer(plan, patient, policy, health_gorilla_id, followed=followed)


handler = Handler(BOT, register, answer_failure=refuse)
