"""K6. PID-3 without an assigning authority (12345^^^^MR, or only 12345), as many senders write it.

The message is refused, and no setting can say whose numbers they are. Expected: a setting (here tried: a mapping of "")
or ADT_PATIENT_SYSTEM as the default.
"""

from __future__ import annotations

import json

from tests.bots.patient_world import MRN, clinic
from tests.reported_cases.conversation import Checks, adt, pid, send


def test_k06_no_authority() -> None:
    check = Checks()
    with clinic(ADT_ASSIGNING_AUTHORITIES=json.dumps({"": MRN}), ADT_PATIENT_SYSTEM=MRN) as w:
        said, ack = send(w, adt("A04", pid("12345^^^^MR", "Quandt^Ilse", "19610304", "F")))
        check("taken by the mapping of the empty authority, or by ADT_PATIENT_SYSTEM", said == "AA", ack)
    check.done()
