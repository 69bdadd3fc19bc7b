"""K22. PID-11.1 in parts (number in SAD.1, street in SAD.2).

The street is dropped, and the index gets the line "1000". Expected: no part of the street is lost (number and name, or
all three subcomponents if the first does not contain the second).
"""

from __future__ import annotations

import json

from tests.reported_cases.conversation import Checks, adt, pid, send, world


def test_k22_street_parts() -> None:
    check = Checks()
    with world() as w:
        send(
            w,
            adt(
                "A04",
                pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F", "1000&Larkspur Lane^Ste. 3^Ely^NV^89301^^H"),
            ),
        )
        check(
            "the street is in the line",
            "Larkspur" in json.dumps(w.gorilla.patients()),
            [a["line"] for g in w.gorilla.patients() for a in g["address"]],
        )
    check.done()
