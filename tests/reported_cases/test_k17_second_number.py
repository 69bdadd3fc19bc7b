"""K17. A patient is registered by record number (FEDERATED_PATIENT_IDENTIFIER_SYSTEM).

After a merge the sender lists both numbers, the bot itself adds the second one to the Patient, and from then on every
message is refused as missing-demographics (identifier). Expected: the number that the index knows is kept, and the
change of address arrives.
"""

from __future__ import annotations

from tests.bots.patient_world import MRN
from tests.reported_cases.conversation import Checks, adt, pid, send, world


def test_k17_second_number() -> None:
    check = Checks()
    with world(FEDERATED_PATIENT_IDENTIFIER_SYSTEM=MRN) as w:
        send(w, adt("A04", pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F")))
        send(w, adt("A04", pid("M-2^^^CLINIC^MR", "Quandt^Else", "19610304", "F")))
        send(
            w,
            adt(
                "A40",
                pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F"),
                "MRG|M-2^^^CLINIC^MR",
                at="20260102120000",
            ),
        )
        send(w, adt("A08", pid("M-1^^^CLINIC^MR~M-2^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F"), at="20260103120000"))
        said, ack = send(
            w,
            adt(
                "A08",
                pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F", "9 New St^^Reno^NV^89501"),
                at="20260104120000",
            ),
        )
        cities = [a["city"] for g in w.gorilla.patients() for a in g["address"]]
        check("the new address is in the index", said == "AA" and "Reno" in cities, (ack, cities))
    check.done()
