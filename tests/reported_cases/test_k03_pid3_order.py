"""K3. After A40 (M-2 into M-1), the order of both numbers decides whether a message that lists them is accepted.

Expected: PID-3 is an unordered list, so the result is the same either way.
"""

from __future__ import annotations

from tests.reported_cases.conversation import Checks, adt, pid, send, world


def test_k03_pid3_order() -> None:
    check = Checks()
    said = {}
    for order in ("M-1^^^CLINIC^MR~M-2^^^CLINIC^MR", "M-2^^^CLINIC^MR~M-1^^^CLINIC^MR"):
        with world() as w:
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
            said[order[:3]] = send(
                w,
                adt("A08", pid(order, "Quandt^Ilse", "19610304", "F", "9 New St^^Reno^NV^89501"), at="20260103120000"),
            )[1]
    check("both orders have one answer", len({a.split("|")[1] for a in said.values()}) == 1, said)
    check.done()
