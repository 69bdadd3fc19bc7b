"""K10. "The social security number is never in it" (docs, `adt --help`).

It is included if SS is not the first coding, is in lower case, is SB (Health Gorilla's own type for it), or is given as
text, or if the system ends with a slash. An ADT message adds it under the type ss, SB or SSN.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from bot_layer.patient_registration.adt import outbound as adt_out
from tests.bots.patient_world import person
from tests.reported_cases.conversation import Checks, adt, patients, pid, send, world


def test_k10_ssn() -> None:
    check = Checks()
    V2 = "http://terminology.hl7.org/CodeSystem/v2-0203"
    KINDS: dict[str, dict[str, Any]] = {
        "SS as second coding": {"type": {"coding": [{"system": "urn:x", "code": "NI"}, {"system": V2, "code": "SS"}]}},
        "ss": {"type": {"coding": [{"system": V2, "code": "ss"}]}},
        "SB": {"type": {"coding": [{"system": V2, "code": "SB"}]}},
        "text": {"type": {"text": "Social Security Number"}},
        "system/": {"system": "http://hl7.org/fhir/sid/us-ssn/"},
    }
    for name, parts in KINDS.items():
        text = adt_out.message(
            person(id="p", identifier=[{"system": "urn:oid:1.2.3", "value": "900-12-3456", **parts}]),
            "A08",
            adt_out.Envelope(datetime(2026, 1, 1, tzinfo=UTC), "1"),
        )
        check(f"out, {name}: not sent", "900-12-3456" not in text)
    for code in ("ss", "SB", "SSN"):
        with world() as w:
            send(w, adt("A04", pid(f"M-1^^^CLINIC^MR~900123456^^^CLINIC^{code}", "Quandt^Ilse", "19610304", "F")))
            check(f"in, {code}: not stored", "900123456" not in json.dumps(patients(w)))
    check.done()
