"""K1. A40 with two MRG after one PID.

Only the last merge is carried out, and the answer is AA. Expected: both merges, or an AE (ADT_A39 has one MRG for each
PID: segment sequence, ERR 100). adt.py _persons overwrites the first.
"""

from __future__ import annotations

from tests.reported_cases.conversation import Checks, adt, by_number, pid, send, world


def test_k01_a40_two_mrg() -> None:
    check = Checks()
    with world() as w:
        for number, given in (("M-1", "Ilse"), ("M-2", "Else"), ("M-3", "Ilsa")):
            send(w, adt("A04", pid(f"{number}^^^CLINIC^MR", f"Quandt^{given}", "19610304", "F")))
        said, _ = send(
            w,
            adt(
                "A40",
                pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F"),
                "MRG|M-2^^^CLINIC^MR",
                "MRG|M-3^^^CLINIC^MR",
                at="20260102120000",
            ),
        )
        ended = [n for n in ("M-2", "M-3") if any(p.get("active") is False for p in by_number(w, n))]
        check("both ended, or the answer is no AA", ended == ["M-2", "M-3"] or said != "AA", (said, "ended:", ended))
    check.done()
