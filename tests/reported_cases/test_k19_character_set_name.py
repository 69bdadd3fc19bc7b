"""K19. A message whose text arrives decoded, without \\X..\\.

An unusual name in MSH-18 (UTF8, windows-1252) still refuses every message. Expected: the message is accepted; the name
matters only for bytes and for \\X..\\.
"""

from __future__ import annotations

from tests.reported_cases.conversation import Checks, adt, pid, send, world


def test_k19_character_set_name() -> None:
    check = Checks()
    with world() as w:
        for name in ("UTF8", "windows-1252"):
            m = adt(
                "A04",
                pid("M-1^^^CLINIC^MR", "Quandt^Ilse", "19610304", "F"),
                header="MSH|^~\\&|PMS|CLINIC|M|H|{at}||ADT^{event}|{cid}|P|2.5.1||||||" + name,
            )
            check(f"{name}: taken", send(w, m)[0] == "AA", send(w, m)[1])
    check.done()
