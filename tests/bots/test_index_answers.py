"""Answers of the patient index to a search: only an empty searchset means "no match"."""

from __future__ import annotations

from typing import Any

import pytest

from bot_layer.fhir.json import Json
from bots.register_patient import handler
from medplum_sandbox.health_gorilla.sandbox import HealthGorillaSandbox
from medplum_sandbox.health_gorilla.wire import Answer
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests.bots.patient_world import Clinic, action, person


def outcome(severity: str) -> Json:
    """An OperationOutcome of this severity."""
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": "timeout"}]}


def searchset(*entries: object, **parts: object) -> Json:
    """A searchset of these entries."""
    return {"resourceType": "Bundle", "type": "searchset", "entry": list(entries), **parts}


class Odd(HealthGorillaSandbox):
    """A Health Gorilla whose searches for Patients are answered with one fixed document while it is ill."""

    answer: Any = None
    is_ill = False

    def _answer(self, ask: Any, url: str) -> Answer:
        is_search = ask.method == "GET" and ask.path.endswith("/Patient")
        return Answer(200, self.answer) if self.is_ill and is_search else super()._answer(ask, url)


def register_twice(answer: object) -> tuple[str, int]:
    """The action of a namesake's registration while searches are answered so, and how many patients there are then."""
    with MedplumSandbox() as medplum, Odd() as gorilla:
        w = Clinic(medplum, gorilla, {"BOT_RETRIES": "0"})
        handler(w.asked(w.server.create(person())))
        gorilla.answer, gorilla.is_ill = answer, True
        said = action(handler(w.asked(w.server.create(person()))))
        return said, len(gorilla.patients())


@pytest.mark.parametrize(
    "answer",
    [
        outcome("fatal"),
        searchset({"resource": outcome("error"), "search": {"mode": "outcome"}}),
        searchset({"resource": outcome("fatal")}, total=0),
        searchset(total=3),
        searchset(None),
        searchset("Patient"),
        {"resourceType": "Bundle", "type": "collection"},
        {"resourceType": "Bundle", "entry": []},
        {"resourceType": "Patient", "id": "p-1"},
        [],
        "none",
    ],
)
def test_an_answer_that_is_not_a_searchset_does_not_mean_nobody(answer: object) -> None:
    """The call fails and may be repeated; no second patient is registered."""
    assert register_twice(answer) == ("failed", 1)


@pytest.mark.parametrize("severity", ["warning", "information"])
def test_a_remark_within_a_searchset_is_normal(severity: str) -> None:
    remark = {"resource": outcome(severity), "search": {"mode": "outcome"}}
    assert register_twice(searchset(remark, total=0)) == ("registered", 2)


class LongNamesOnly(HealthGorillaSandbox):
    """A Health Gorilla that refuses a search by less than two letters of a name."""

    refused = 0

    def _answer(self, ask: Any, url: str) -> Answer:
        if ask.method == "GET" and any(len(name) < 2 for name in ask.values("given")):
            self.refused += 1
            return Answer(400, outcome("error"))
        return super()._answer(ask, url)


def test_an_index_may_want_longer_names() -> None:
    """The search by initials is one more way to find a record in another spelling; the others must not fail by it."""
    with MedplumSandbox() as medplum, LongNamesOnly() as gorilla:
        w = Clinic(medplum, gorilla)
        said = [action(handler(w.asked(w.server.create(person())))) for _ in range(2)]
        assert (said, gorilla.refused) == (["registered", "refused"], 2)
