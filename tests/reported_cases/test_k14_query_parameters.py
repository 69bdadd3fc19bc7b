"""K14. A single unknown parameter makes the responder answer the whole query with 400.

No document of the patient is found. Expected by FHIR R4 search 3.1.1.3 (cited in query.py): servers SHOULD ignore
unknown parameters, unless the client says handling=strict (proxies and HTTP stacks add parameters). US Core:
patient+category, patient+category+date, _id.
"""

from __future__ import annotations

from tests.federation.federated_world import network
from tests.reported_cases.conversation import Checks


def test_k14_query_parameters() -> None:
    check = Checks()
    with network() as w:
        p = w.patient()
        w.document(
            p,
            category=[
                {
                    "coding": [
                        {
                            "system": "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
                            "code": "clinical-note",
                        }
                    ]
                }
            ],
        )
        with w.http(token=w.caller().token()) as c:
            for more in (
                "category=clinical-note",
                "category=clinical-note&date=ge2020-01-01",
                "_sort=-date",
                "_pretty=true",
                "requestId=7f",
            ):
                a = c.get(f"fhir/R4/DocumentReference?patient={p['id']}&{more}")
                check(
                    f"&{more}: 200, total 1",
                    (a.status_code, a.json().get("total")) == (200, 1),
                    (a.status_code, a.json().get("issue", [{}])[0].get("details", {}).get("text")),
                )
            a = c.get(
                f"fhir/R4/DocumentReference?patient={p['id']}&category=nonsense", headers={"Prefer": "handling=strict"}
            )
            check(
                "category that fits nothing, or strict: 400 or total 0",
                a.status_code == 400 or a.json()["total"] == 0,
                a.text[:100],
            )
    check.done()
