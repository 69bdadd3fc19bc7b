"""K8. MSH-9 without a trigger (versions 2.1 and 2.2 state the event only in EVN-1).

The answer is AA "does not concern registration", and every message of such a sender is lost without an error. Expected:
EVN-1 is read, or AR/AE (ERR 200).
"""

from __future__ import annotations

from tests.reported_cases.conversation import Checks, adt, patients, pid, send, world


def test_k08_aa_for_nothing() -> None:
    check = Checks()
    with world() as w:
        m = (
            adt("A04", pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F"), evn="EVN|A04|20260101120000")
            .replace("ADT^A04|", "ADT|")
            .replace("|2.5.1", "|2.2")
        )
        said, ack = send(w, m)
        check("carried out, or no AA", len(patients(w)) == 1 or said != "AA", ack)
        said, ack = send(w, adt("A18", pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F"), "MRG|M-2^^^CLINIC^MR"))
        check("a merge under its older event (A18, also A30, A34) is done, or the answer is no AA", said != "AA", ack)
    check.done()
