"""What a registration answers: the Parameters of a call."""

from __future__ import annotations

from typing import Final

from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import note
from bot_layer.health_gorilla.rules import answers
from bot_layer.patient_registration.rules.disclosure import DENIALS
from bot_layer.patient_registration.rules.index_patient import Policy, shown
from bot_layer.patient_registration.rules.registration import Act, Create, NothingToDo, Update

NOT_FOR_THE_INDEX: Final = frozenset({"patient-inactive", "test-patient", "patient-deceased"}) | DENIALS
"""By rule these patients are not registered: that is no failure for a person to look after."""


def answer(
    plan: Act, patient_id: str, policy: Policy, health_gorilla_id: str | None, *, followed: bool, preview: bool = False
) -> Json:
    """``action``, ``patient``, ``healthGorillaId``, ``registeredAs`` (system and value), ``difference``, ``outcome``.

    A preview has the ``payload`` too, without social security numbers.
    """
    known = None if isinstance(plan, Create) else plan.id
    payload = shown(plan.body) if preview and not isinstance(plan, NothingToDo) else None
    entries = [
        parameters.reference("patient", f"Patient/{patient_id}"),
        parameters.string("healthGorillaId", health_gorilla_id or known),
        parameters.parts(
            "registeredAs",
            parameters.string("system", policy.patient_system),
            parameters.string("value", plan.external_id),
        ),
    ]
    merged = note("merge-followed", "The Patient was merged into another; that one is registered.")
    return answers.answer(
        plan.action,
        "patient",
        entries,
        preview=preview,
        differences=plan.changed if isinstance(plan, Update) else (),
        payload=payload,
        issues=[merged] if followed else [],
    )


def deleted() -> Json:
    """The answer to a Subscription that reports a deleted Patient."""
    text = "The Patient was deleted in Medplum; Health Gorilla has no call that ends a registration."
    outcome = outcomes.outcome([note("patient-deleted", text)])
    return parameters.build(parameters.code("action", "unchanged"), parameters.resource("outcome", outcome))
