"""K15. A document with a label that is not a confidentiality code with its system counts as unlabeled.

It counts as normal and is disclosed to every network. Expected: a document with an unknown label stays inside, as with
an unknown confidentiality code: 42CFRPart2, ETH, PSY, HIV, "no disclosure" codes, {code: R} without system, {text:
restricted}.
"""

from __future__ import annotations

from tests.federation.federated_world import network
from tests.reported_cases.conversation import Checks


def test_k15_labels() -> None:
    check = Checks()
    ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
    LABELS = {
        "42CFRPart2": {"coding": [{"system": ACT, "code": "42CFRPart2"}]},
        "ETH": {"coding": [{"system": ACT, "code": "ETH"}]},
        "NODSCLCD": {"coding": [{"system": ACT, "code": "NODSCLCD"}]},
        "R without system": {"coding": [{"code": "R"}]},
        "text": {"text": "restricted"},
    }
    with network() as w, w.http(token=w.caller().token()) as c:
        for name, label in LABELS.items():
            p = w.patient()
            w.document(p, securityLabel=[label])
            check(f"{name}: not listed", c.get(f"fhir/R4/DocumentReference?patient={p['id']}").json()["total"] == 0)
    check.done()
