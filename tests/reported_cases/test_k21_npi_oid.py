"""K21. An NPI under its other registered URI (urn:oid:2.16.840.1.113883.4.6, as C-CDA imports store it).

The answer is "needs an NPI". Expected: it is accepted, as SSN_SYSTEMS does for that kind of number (FHIR NamingSystem
us-npi lists both); or the text explains the refusal.
"""

from __future__ import annotations

from bots.sync_practitioner import handler as sync
from medplum_sandbox.health_gorilla import npi
from tests.bots import practice_world as pw
from tests.reported_cases.conversation import Checks


def test_k21_npi_oid() -> None:
    check = Checks()
    with pw.world() as w:
        r = w.call(
            sync,
            pw.named(
                "practitioner",
                w.store(pw.clinician(identifier=[{"system": "urn:oid:2.16.840.1.113883.4.6", "value": npi(1)}])),
            ),
        )
        check("enrolled", pw.action(r) == "enrolled", pw.codes(r))
    check.done()
