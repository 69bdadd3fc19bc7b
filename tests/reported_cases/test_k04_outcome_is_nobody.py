"""K4. An OperationOutcome in answer to the person search is read as "no match", and a second patient is registered.

Health Gorilla answers with 200 and an OperationOutcome (severity error), with a Bundle that contains only such an
outcome, or with total 1 and no entry. Expected: try-again-later or unreadable-answer, and nothing is written. An
outcome of severity information or warning is no error.
"""

from __future__ import annotations

from typing import Any

from bot_layer.fhir.json import Json
from bots.register_patient import handler
from medplum_sandbox.health_gorilla.sandbox import HealthGorillaSandbox
from medplum_sandbox.health_gorilla.wire import Answer
from medplum_sandbox.medplum.sandbox import MedplumSandbox
from tests.bots.patient_world import Clinic, action, codes, person
from tests.reported_cases.conversation import Checks


def test_k04_outcome_is_nobody() -> None:
    check = Checks()
    BAD = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": "timeout", "diagnostics": "index not available"}],
    }
    ANSWERS: dict[str, Json] = {
        "an OperationOutcome": BAD,
        "a Bundle with only an error outcome": {
            "resourceType": "Bundle",
            "type": "searchset",
            "total": 0,
            "entry": [{"resource": BAD, "search": {"mode": "outcome"}}],
        },
        "total 1 without entry": {"resourceType": "Bundle", "type": "searchset", "total": 1},
    }
    for name, answer in ANSWERS.items():

        class G(HealthGorillaSandbox):
            ill = False

            def _answer(self, ask: Any, url: Any, answer: Json = answer) -> Any:
                return (
                    Answer(200, answer)
                    if self.ill and ask.method == "GET" and ask.path.endswith("/Patient")
                    else super()._answer(ask, url)
                )

        with MedplumSandbox() as m, G() as g:
            w = Clinic(m, g)
            who: Json = {"name": [{"family": "Quandt", "given": ["Ilse"]}], "birthDate": "1961-03-04"}
            handler(w.asked(w.server.create(person(**who))))
            again = w.server.create(person(**who))
            g.ill = True
            r = handler(w.asked(again))
            g.ill = False
            check(f"{name}: one patient in the index", len(g.patients()) == 1, (action(r), codes(r), len(g.patients())))
    check.done()
