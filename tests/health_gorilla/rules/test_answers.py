"""The answer of the bots that make accounts, and the preview of it."""

from __future__ import annotations

import pytest
from fhir.resources.R4B.parameters import Parameters

from bot_layer.fhir import outcomes
from bot_layer.fhir.identifiers import health_gorilla
from bot_layer.fhir.json import Json
from bot_layer.fhir.outcomes import warning
from bot_layer.fhir.parameters import one, values
from bot_layer.health_gorilla.rules import accounts, answers, enrollment
from bot_layer.health_gorilla.rules.account_request import AccountRequest
from bot_layer.health_gorilla.rules.enrollment import Decision, Enroll, Enrollment, Update
from tests.health_gorilla.clinicians import ENTRY, NPI, NUMBER, clinician, enrolled, practitioner, read, settings

REQUESTS = AccountRequest(
    [NUMBER, {"system": "https://x.example", "value": "no account number"}],
    issues=[warning("account-number-empty", "An account number has no value.")],
    password="first-password",
)
WRITTEN_BACK = "Practitioner in Medplum: Health Gorilla id and login written back"


def enroll(requested: AccountRequest = REQUESTS) -> Enroll:
    return enrollment.plan_enrollment(clinician(), ENTRY, requested, settings())


def update(requested: AccountRequest = REQUESTS, found: Enrollment | None = None) -> Update:
    decision = enrollment.plan_update(clinician(), found or enrolled(), requested)
    assert decision.payload
    return decision


def preview(decision: Decision, given: Json | None = None, requested: AccountRequest = REQUESTS) -> Json:
    answer = answers.preview_of_account(decision, read(given or practitioner()), requested)
    Parameters.model_validate(answer)
    return answer


def synced() -> Json:
    return accounts.with_login(practitioner(health_gorilla("hg-1")), "amara")


def test_each_decision_has_its_word() -> None:
    """enrolled, updated, unchanged."""
    decisions: list[Decision] = [enroll(), update(), Update(enrolled())]
    assert [decision.action for decision in decisions] == ["enrolled", "updated", "unchanged"]


@pytest.mark.parametrize("action", ["enrolled", "updated", "unchanged"])
def test_the_answer_says_what_was_done(action: str) -> None:
    """Action, id, login, each account number with its laboratory, and the outcome with all remarks."""
    issue = warning("location-ignored", "x")
    answer = answers.of_account(action, "hg-1", "amara", REQUESTS, issues=[issue])
    Parameters.model_validate(answer)
    assert [one(answer, name) for name in ("action", "healthGorillaId", "login")] == [action, "hg-1", "amara"]
    assert values(answer, "accountNumber") == [
        [
            {"name": "value", "valueString": "A-1"},
            {"name": "assigner", "valueReference": {"reference": "Organization/f-1"}},
        ]
    ]
    assert outcomes.codes(one(answer, "outcome")) == ["account-number-empty", "location-ignored", action]


def test_an_unknown_value_is_left_out_of_the_answer() -> None:
    """No entry without a value."""
    answer = answers.of_account("unchanged")
    assert [entry["name"] for entry in answer["parameter"]] == ["action", "outcome"]


def test_a_preview_says_that_it_is_one_and_what_would_be_done() -> None:
    """The payload is the one that would be sent; the outcome says that nothing was written."""
    answer = preview(enroll())
    assert (one(answer, "action"), one(answer, "preview"), one(answer, "healthGorillaId")) == (
        "enrolled",
        True,
        "hg-1",
    )
    assert accounts.login_of(one(answer, "payload")["contained"][0]) == enroll().logins[0]
    assert outcomes.codes(one(answer, "outcome")) == ["account-number-empty", "would-be-enrolled"]
    assert values(answer, "difference") == ["PractitionerRole: create", WRITTEN_BACK]


def test_a_preview_contains_no_password() -> None:
    """Logs and AuditEvents would store it."""
    assert "first-password" in repr(enroll().payload("x"))
    assert "first-password" not in repr(preview(enroll()))


def test_a_preview_of_an_update_counts_what_is_added_and_names_what_is_replaced() -> None:
    """Values stand in the payload, and only there."""
    requested = AccountRequest([NUMBER], locations=["Organization/tl-1"])
    answer = preview(update(requested), synced(), requested)
    assert values(answer, "difference") == [
        "PractitionerRole.contained.identifier: 1 added",
        "PractitionerRole.location: replaced",
    ]
    assert one(answer, "payload")["location"] == [{"reference": "Organization/tl-1"}]
    assert not any(NPI in difference for difference in values(answer, "difference"))


def test_a_preview_names_only_what_differs() -> None:
    """Each of the two differences of an account can also occur by itself."""
    numbers, places = AccountRequest([NUMBER]), AccountRequest(locations=["Organization/tl-1"])
    assert len(values(preview(update(numbers), synced()), "difference")) == 1
    assert values(preview(update(places), synced()), "difference") == ["PractitionerRole.location: replaced"]


def test_a_preview_names_each_change_of_roles_and_address() -> None:
    """Roles of staff and an added address are reported by element, without their values."""
    found = enrolled(extension=[{"url": "x"}], code=[{"text": "old"}])
    requested = AccountRequest(emails=["a@practice.example"])
    roles: list[tuple[Json, list[str]]] = [
        ({"code": [{"text": "new"}]}, ["PractitionerRole.code: role replaced"]),
        ({"extension": []}, ["PractitionerRole.extension: security role set"]),
        ({}, []),
    ]
    for changes, expected in roles:
        decision = enrollment.plan_update(clinician(), found, requested, role={**found.role, **changes})
        assert values(preview(decision, synced(), requested), "difference") == [
            *expected,
            "PractitionerRole.contained.telecom: e-mail address added",
        ]


def test_a_preview_without_a_change_has_no_payload() -> None:
    """A difference includes what would be written back to Medplum."""
    nothing = Update(enrolled(NUMBER))
    unsynced = preview(nothing)
    assert values(unsynced, "difference") == [WRITTEN_BACK]
    assert one(unsynced, "payload") is None
    assert one(unsynced, "healthGorillaId") == "hg-1"
    assert values(preview(nothing, synced()), "difference") == []
