"""K0. A message whose name and birth date are another person's is answered AE, but overwrites Medplum's Patient.

Expected: it is refused before anything is stored (docs/patients.md: AE means "not done"; the bot itself calls the
message contradictory).
"""

from __future__ import annotations

from tests.reported_cases.conversation import Checks, adt, family, patients, pid, send, world


def test_k00_overlay() -> None:
    check = Checks()
    with world() as w:
        send(w, adt("A04", pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F", home="7755550142^PRN^PH")))
        said, ack = send(
            w,
            adt(
                "A08",
                pid("M-1^^^CLINIC^MR", "Obando^Rufo", "19330919", "M", "8 Salt Ln^^Reno^NV^89501"),
                at="20260102120000",
            ),
        )
        p = patients(w)[0]
        check("the message is not accepted", said != "AA", ack)
        check(
            "Medplum's Patient is still Quandt, 1961, female",
            (family(p), p["birthDate"], p["gender"]) == ("Quandt", "1961-03-04", "female"),
            (family(p), p["birthDate"], p["gender"], p.get("telecom")),
        )
    check.done()
