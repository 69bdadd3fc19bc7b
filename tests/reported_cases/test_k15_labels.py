"""K15. A document that is labelled, but not by a confidentiality code with its system, counts as unlabelled.

normal, and goes out to every network. Should: what is labelled and not understood stays inside (as an unknown
confidentiality code does): 42CFRPart2, ETH, PSY, HIV, "no disclosure" codes, {code: R} without system, {text:
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
            check(f"{name}: not told of", c.get(f"fhir/R4/DocumentReference?patient={p['id']}").json()["total"] == 0)
    check.done()
