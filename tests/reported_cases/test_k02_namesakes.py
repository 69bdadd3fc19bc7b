"""K2. Two real persons with one name and birth date (here twins without a first name).

The second can never be registered. Expected: after a person has checked, there is a way to register (a flag, or
Medplum's own doNotMatch list). A different sex, address, phone, record number or multiple birth is a reason not to
treat both as the same person; the advice "merge the two" is dangerous.
"""

from __future__ import annotations

from bots.register_patient import handler
from tests.bots.patient_world import MRN, action, clinic, codes, person
from tests.reported_cases.conversation import Checks


def test_k02_namesakes() -> None:
    check = Checks()
    with clinic() as w:
        one = w.server.create(
            person(
                name=[{"family": "Achterberg", "given": ["BabyBoy"]}],
                birthDate="2025-12-01",
                gender="male",
                multipleBirthInteger=1,
                identifier=[{"system": MRN, "value": "T-1"}],
            )
        )
        two = w.server.create(
            person(
                name=[{"family": "Achterberg", "given": ["BabyBoy"]}],
                birthDate="2025-12-01",
                gender="male",
                multipleBirthInteger=2,
                identifier=[{"system": MRN, "value": "T-2"}],
            )
        )
        handler(w.asked(one))
        first, forced = handler(w.asked(two)), handler(w.asked(two, force=True))
        check(
            "some call registers the second twin",
            "registered" in (action(first), action(forced)),
            (codes(first), "force:", codes(forced)),
        )
    check.done()
