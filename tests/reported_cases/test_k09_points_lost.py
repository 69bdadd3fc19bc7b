"""K9. Existing phones and e-mails are silently not sent to the index.

These are `tel:`/`mailto:` (S4's own sample, C-CDA), the extension as "Ext: 5", "extension 5", "#5", ";ext=5", TN of HL7
2.3 with C text, and an e-mail beside a number in one XTN. Expected: they are sent without the parts that do not belong
to the number, or the answer has a remark.
"""

from __future__ import annotations

from bots.register_patient import handler
from tests.bots.patient_world import clinic, person
from tests.reported_cases.conversation import Checks, adt, patients, pid, send, world


def test_k09_points_lost() -> None:
    check = Checks()
    with clinic() as w:
        given = [
            "tel:+1(775)555-0142",
            "775-555-0143 Ext: 5",
            "775-555-0144 extension 5",
            "775-555-0145 #5",
            "775-555-0146;ext=5",
        ]
        p = w.server.create(
            person(
                name=[{"family": "Quandt", "given": ["Ilse"]}],
                telecom=[{"system": "phone", "value": v} for v in given]
                + [{"system": "email", "value": "mailto:ilse@mail.example"}],
            )
        )
        handler(w.asked(p))
        sent = "".join(
            c for t in w.gorilla.patients()[0].get("telecom", []) for c in t["value"] if c.isdigit() or c == "@"
        )
        check(
            "all five numbers and the address arrive",
            all(f"555014{n}" in sent for n in range(2, 7)) and "@" in sent,
            [t["value"] for t in w.gorilla.patients()[0].get("telecom", [])],
        )
    with world() as w:
        send(
            w,
            adt(
                "A04", pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F", home="^^^ilse@mail.example^^^7755550147")
            ),
        )
        kept = [t["value"] for t in patients(w)[0].get("telecom", [])]
        check("one XTN with both gives both", len(kept) == 2, kept)
    check.done()
