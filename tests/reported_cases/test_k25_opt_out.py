"""K25. A patient who opted out of exchange with other networks is registered all the same.

The opt-out is an active Consent that denies, or Patient.meta.security R or NOAUTH. The registration is automatic, and
the documents are disclosed. The docs name no way to exclude an active, living patient. Expected: a way that the docs
name; here each of three is tried.
"""

from __future__ import annotations

from bots.register_patient import handler
from tests.bots.patient_world import action, clinic, person
from tests.federation.federated_world import network
from tests.reported_cases.conversation import Checks


def test_k25_opt_out() -> None:
    check = Checks()
    ACT, CONF = (
        "http://terminology.hl7.org/CodeSystem/v3-ActCode",
        "http://terminology.hl7.org/CodeSystem/v3-Confidentiality",
    )
    kept_out: dict[str, bool] = {}
    with clinic() as w:
        for name, meta in {
            "meta R": {"security": [{"system": CONF, "code": "R"}]},
            "meta NOAUTH": {"security": [{"system": ACT, "code": "NOAUTH"}]},
        }.items():
            p = w.server.create(person(name=[{"family": f"Quandt{len(kept_out)}", "given": ["Ilse"]}], meta=meta))
            kept_out[f"{name}: not registered"] = action(handler(w.subscribed(p, "create"))) != "registered"
        p = w.server.create(person(name=[{"family": "Quandt9", "given": ["Ilse"]}]))
        w.server.create(
            {
                "resourceType": "Consent",
                "status": "active",
                "scope": {
                    "coding": [
                        {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
                    ]
                },
                "category": [
                    {
                        "coding": [
                            {"system": "http://terminology.hl7.org/CodeSystem/consentcategorycodes", "code": "infao"}
                        ]
                    }
                ],
                "patient": {"reference": f"Patient/{p['id']}"},
                "policyRule": {"coding": [{"system": ACT, "code": "OPTOUT"}]},
                "provision": {"type": "deny"},
            }
        )
        kept_out["Consent OPTOUT: not registered"] = action(handler(w.subscribed(p, "create"))) != "registered"
    with network() as n:
        p = n.patient(meta={"security": [{"system": CONF, "code": "R"}]})
        n.document(p)
        with n.http(token=n.caller().token()) as c:
            kept_out["patient labelled R: documents not listed"] = (
                c.get(f"fhir/R4/DocumentReference?patient={p['id']}").json()["total"] == 0
            )
    for what, good in kept_out.items():
        check(what, good, "registered or listed")
    check.done()
