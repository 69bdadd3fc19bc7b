"""K13. The assigner of an account number as an absolute reference to the same Medplum.

The number is left out. Expected: the reference is resolved (FHIR references may be absolute; identifiers.key() already
knows "relative, whole, or of a version").
"""

from __future__ import annotations

import json

from bots.sync_practitioner import handler as sync
from medplum_sandbox.health_gorilla import npi
from tests.bots import practice_world as pw
from tests.reported_cases.conversation import Checks


def test_k13_assigner_forms() -> None:
    check = Checks()
    with pw.world() as w:
        lab = w.store(pw.organization(w.gorilla.labs[0], name="Lab"))
        n = {
            **pw.account_number(lab, "111"),
            "assigner": {"reference": f"{w.medplum.base_url.rstrip('/')}/fhir/R4/Organization/{lab['id']}"},
        }
        r = w.call(
            sync,
            pw.named("practitioner", w.store(pw.clinician(identifier=[{"system": pw.NPI, "value": npi(1)}, n]))),
        )
        check("the number arrives", '"111"' in json.dumps(w.account()), pw.codes(r))
    check.done()
