"""K11. An identifier whose period is over counts as in force.

A closed account number is sent to Health Gorilla, and an NPI that ended makes a clinician ambiguous. (Names and
addresses with an end are ignored; so is `use` old.) Expected: Identifier.period is the time "during which identifier
is/was valid for use", so the identifier is left out like an `old` one, or reported.
"""

from __future__ import annotations

import json
from typing import Any

from bots.sync_practitioner import handler as sync
from medplum_sandbox.health_gorilla import npi
from tests.bots import practice_world as pw
from tests.reported_cases.conversation import Checks


def test_k11_period_of_identifier() -> None:
    check = Checks()

    def numbers(w: Any) -> list[str]:
        person_ = next(c for c in w.account()["contained"] if c["resourceType"] == "Practitioner")
        return [i["value"] for i in person_["identifier"] if "AN" in json.dumps(i.get("type", {}))]

    with pw.world() as w:
        lab = w.store(pw.organization(w.gorilla.labs[0], name="Lab"))
        p = w.store(
            pw.clinician(
                identifier=[
                    {"system": pw.NPI, "value": npi(1)},
                    {**pw.account_number(lab, "CLOSED-1"), "period": {"start": "2012-01-01", "end": "2019-12-31"}},
                    pw.account_number(lab, "OPEN-2"),
                ]
            )
        )
        r = w.call(sync, pw.named("practitioner", p))
        check(
            "the closed number is not sent, or is reported",
            "CLOSED-1" not in numbers(w) or len(pw.codes(r)) > 1,
            (numbers(w), pw.codes(r)),
        )
    with pw.world() as w:
        p = w.store(
            pw.clinician(
                identifier=[
                    {"system": pw.NPI, "value": npi(2), "period": {"end": "2015-05-01"}},
                    {"system": pw.NPI, "value": npi(1)},
                ]
            )
        )
        r = w.call(sync, pw.named("practitioner", p))
        check("the NPI in force is taken", pw.action(r) == "enrolled", pw.codes(r))
    check.done()
