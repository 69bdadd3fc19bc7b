"""K20. PID-11 with a mailing address (M, a PO box) before the home address (H).

The index gets the PO box as "home". Expected: it gets the home address in any order (v2-to-FHIR, table 0190: M is
Address.type postal, no use).
"""

from __future__ import annotations

from tests.reported_cases.conversation import Checks, adt, pid, send, world


def test_k20_mailing_address() -> None:
    check = Checks()
    with world() as w:
        send(
            w,
            adt(
                "A04",
                pid(
                    "M-1^^^CLINIC^MR",
                    "Quandt^Ilse",
                    "19610304",
                    "F",
                    "PO Box 5^^Ely^NV^89301^^M~12 Pine^^Ely^NV^89302^^H",
                ),
            ),
        )
        check(
            "the index has 12 Pine",
            w.gorilla.patients()[0]["address"][0]["line"] == ["12 Pine"],
            w.gorilla.patients()[0]["address"],
        )
    check.done()
