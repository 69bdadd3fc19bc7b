"""What a registration says: the Parameters, the Task of one that failed, the problems in an acknowledgement."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from bot_layer.errors import BotError, InputError, ReviewNeeded
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, note
from bot_layer.patient_registration.adt.outbound import Problem
from bot_layer.patient_registration.rules.index_patient import Policy, external_id
from bot_layer.patient_registration.rules.registration import Create, NothingToDo, Refuse, Review, Update

TASK_SYSTEM: Final = "https://medplum.com/integrations/python-bots/registration-task"
TASK_CODE: Final = "register-patient"
# By rule these patients are not registered: that is no failure for a person to look after.
NOT_FOR_THE_INDEX: Final = frozenset({"patient-inactive", "test-patient", "patient-deceased"})
_UNUSABLE_MESSAGES: Final = frozenset({"not-hl7", "unsupported-message", "unsupported-processing"})
_DONE: Final = {
    "registered": "The patient was registered in Health Gorilla.",
    "updated": "The registration in Health Gorilla was updated.",
    "unchanged": "Health Gorilla and Medplum agree; nothing was written.",
}
_WOULD: Final = {
    "registered": "The patient would be registered in Health Gorilla; nothing was written.",
    "updated": "The registration in Health Gorilla would be updated; nothing was written.",
    "unchanged": "Health Gorilla and Medplum agree; nothing would be written.",
}

Act = Create | Update | NothingToDo


def required(plan: Act | Refuse | Review) -> Act:
    """The plan, if it can be carried out; else InputError or ReviewNeeded."""
    if isinstance(plan, Refuse):
        raise InputError(plan.text, code=plan.code, expression=plan.expression)
    if isinstance(plan, Review):
        raise ReviewNeeded(plan.text, code=plan.code)
    return plan


def action(plan: Act) -> str:
    """The word for what a plan does."""
    return {Create: "registered", Update: "updated", NothingToDo: "unchanged"}[type(plan)]


def answer(plan: Act, patient: Json, policy: Policy, health_gorilla_id: str, *, followed: bool = False) -> Json:
    """``action``, ``patient``, ``healthGorillaId``, ``registeredAs`` (system and value), ``outcome``."""
    word = action(plan)
    return parameters.build(
        parameters.code("action", word),
        parameters.reference("patient", f"Patient/{patient['id']}"),
        parameters.string("healthGorillaId", health_gorilla_id),
        _registered_as(patient, policy),
        *_differences(plan),
        parameters.resource("outcome", outcomes.outcome([note(word, _DONE[word]), *_followed(followed)])),
    )


def preview(plan: Act, patient: Json, policy: Policy, *, followed: bool = False) -> Json:
    """What would be done: as an answer, with ``preview`` and the ``payload``."""
    word = action(plan)
    return parameters.build(
        parameters.code("action", word),
        parameters.boolean("preview", True),
        parameters.reference("patient", f"Patient/{patient['id']}"),
        parameters.string("healthGorillaId", None if isinstance(plan, Create) else plan.id),
        _registered_as(patient, policy),
        *_differences(plan),
        parameters.resource("payload", None if isinstance(plan, NothingToDo) else plan.body),
        parameters.resource(
            "outcome", outcomes.outcome([note(f"would-be-{word}", _WOULD[word]), *_followed(followed)])
        ),
    )


def deleted() -> Json:
    """The answer to a Subscription that tells of a deleted Patient."""
    gone = note(
        "patient-deleted", "The Patient was deleted in Medplum; Health Gorilla knows no way to end a registration."
    )
    return parameters.build(
        parameters.code("action", "unchanged"), parameters.resource("outcome", outcomes.outcome([gone]))
    )


def task(patient_id: str, error: BotError, now: datetime) -> Json:
    """The Task that makes a failed registration visible: one open Task for each patient."""
    moment = now.isoformat(timespec="seconds")
    text = "Register the patient in Health Gorilla"
    return {
        "resourceType": "Task",
        "identifier": [{"system": TASK_SYSTEM, "value": patient_id}],
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": outcomes.CODE_SYSTEM, "code": TASK_CODE}], "text": text},
        "for": {"reference": f"Patient/{patient_id}"},
        "focus": {"reference": f"Patient/{patient_id}"},
        "authoredOn": moment,
        **_reason(error, moment),
    }


def renewed(stored: Json, error: BotError, now: datetime) -> Json:
    """The open Task with the latest reason; unchanged where the reason is the same."""
    reason = _reason(error, now.isoformat(timespec="seconds"))
    if stored.get("statusReason") == reason["statusReason"]:
        return stored
    return {**stored, **reason}


def completed(stored: Json, now: datetime) -> Json:
    """The Task once the patient is registered."""
    return {**stored, "status": "completed", "lastModified": now.isoformat(timespec="seconds")}


def problem(error: BotError) -> Problem:
    """An error as a segment of an acknowledgement; what is no failure is a warning."""
    severity: Literal["E", "W"] = "W" if error.code in NOT_FOR_THE_INDEX else "E"
    return Problem(error.code, error.message, error.expression if isinstance(error, InputError) else (), severity)


def acknowledgement(error: BotError) -> Literal["AA", "AE", "AR"]:
    """How a message ended: AR where it could not be taken at all, AE where it failed, AA where the rules say no."""
    if error.code in _UNUSABLE_MESSAGES:
        return "AR"
    return "AA" if error.code in NOT_FOR_THE_INDEX else "AE"


def not_for_us() -> Problem:
    """What is said of an event that does not concern registration."""
    return Problem("unsupported-event", "This event does not concern registration; nothing was done.", ("MSH-9",), "I")


def late() -> Problem:
    """What is said of a message that is older than the last one of its sender."""
    return Problem("late-message", "A newer message was applied before: what that one said stays.", ("EVN-2",), "I")


def _reason(error: BotError, moment: str) -> Json:
    coding = {"system": outcomes.CODE_SYSTEM, "code": error.code}
    return {"statusReason": {"coding": [coding], "text": error.message}, "lastModified": moment}


def _registered_as(patient: Json, policy: Policy) -> Json:
    return parameters.parts(
        "registeredAs",
        parameters.string("system", policy.patient_system),
        parameters.string("value", external_id(patient, policy)),
    )


def _differences(plan: Act) -> list[Json | None]:
    return [parameters.string("difference", element) for element in plan.changed] if isinstance(plan, Update) else []


def _followed(followed: bool) -> list[Issue]:
    return [note("merge-followed", "The Patient was merged into another; that one is registered.")] if followed else []
