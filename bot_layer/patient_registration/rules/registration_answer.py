"""What a registration answers: the Parameters of a call."""

from __future__ import annotations

from typing import Final

from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import Issue, note
from bot_layer.patient_registration.rules.disclosure import DENIALS
from bot_layer.patient_registration.rules.index_patient import Policy, shown
from bot_layer.patient_registration.rules.plans import Act, Create, NothingToDo, Update

NOT_FOR_THE_INDEX: Final = frozenset({"patient-inactive", "test-patient", "patient-deceased"}) | DENIALS
"""By rule these patients are not registered: that is no failure for a person to look after."""
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


def action(plan: Act) -> str:
    """The word for what a plan does."""
    return {Create: "registered", Update: "updated", NothingToDo: "unchanged"}[type(plan)]


def answer(plan: Act, patient_id: str, policy: Policy, health_gorilla_id: str, *, followed: bool = False) -> Json:
    """``action``, ``patient``, ``healthGorillaId``, ``registeredAs`` (system and value), ``outcome``."""
    word = action(plan)
    return parameters.build(
        parameters.code("action", word),
        parameters.reference("patient", f"Patient/{patient_id}"),
        parameters.string("healthGorillaId", health_gorilla_id),
        _registered_as(plan, policy),
        *_differences(plan),
        parameters.resource("outcome", outcomes.outcome([note(word, _DONE[word]), *_followed(followed)])),
    )


def preview(plan: Act, patient_id: str, policy: Policy, *, followed: bool = False) -> Json:
    """What would be done: as an answer, with ``preview`` and the ``payload``, without social security numbers."""
    word = action(plan)
    return parameters.build(
        parameters.code("action", word),
        parameters.boolean("preview", True),
        parameters.reference("patient", f"Patient/{patient_id}"),
        parameters.string("healthGorillaId", None if isinstance(plan, Create) else plan.id),
        _registered_as(plan, policy),
        *_differences(plan),
        parameters.resource("payload", None if isinstance(plan, NothingToDo) else shown(plan.body)),
        parameters.resource(
            "outcome", outcomes.outcome([note(f"would-be-{word}", _WOULD[word]), *_followed(followed)])
        ),
    )


def deleted() -> Json:
    """The answer to a Subscription that reports a deleted Patient."""
    gone = note(
        "patient-deleted", "The Patient was deleted in Medplum; Health Gorilla has no call that ends a registration."
    )
    return parameters.build(
        parameters.code("action", "unchanged"), parameters.resource("outcome", outcomes.outcome([gone]))
    )


def _registered_as(plan: Act, policy: Policy) -> Json:
    return parameters.parts(
        "registeredAs",
        parameters.string("system", policy.patient_system),
        parameters.string("value", plan.external_id),
    )


def _differences(plan: Act) -> list[Json | None]:
    return [parameters.string("difference", element) for element in plan.changed] if isinstance(plan, Update) else []


def _followed(followed: bool) -> list[Issue]:
    return [note("merge-followed", "The Patient was merged into another; that one is registered.")] if followed else []
