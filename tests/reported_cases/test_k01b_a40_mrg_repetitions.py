"""K1b. MRG-1 with two numbers that belong to two Patients here.

Only the first Patient ends, and the answer is AA. Expected: both end, or an AE that leaves the decision to a person
(several-patients).
"""

from __future__ import annotations

from tests.reported_cases.conversation import Checks, adt, by_number, pid, send, world


def test_k01b_a40_mrg_repetitions() -> None:
    check = Checks()
    with world() as w:
        for number, given in (("M-1", "Ilse"), ("M-2", "Else"), ("M-3", "Ilsa")):
            send(w, adt("A04", pid(f"{number}^^^CLINIC^MR", f"Quandt^{given}", "19610304", "F")))
        said, _ = send(
            w,
            adt(
                "A40",
                pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F"),
                "MRG|M-2^^^CLINIC^MR~M-3^^^CLINIC^MR",
                at="20260102120000",
            ),
        )
        ended = [n for n in ("M-2", "M-3") if any(p.get("active") is False for p in by_number(w, n))]
        check("both ended, or the answer is no AA", ended == ["M-2", "M-3"] or said != "AA", (said, "ended:", ended))
    check.done()
