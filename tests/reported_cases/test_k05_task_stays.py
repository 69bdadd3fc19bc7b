"""K5. The Task of a failed registration stays open forever if its patient no longer needs a registration.

The patient was set inactive (the usual way to settle a duplicate), deleted or tagged HTEST, or a merge's `replaces` was
written before `replaced-by`. Expected: the Task is closed (docs/patients.md: the Task says what a person must do).
"""

from __future__ import annotations

from bot_layer.fhir.json import Json
from bots.register_patient import handler
from tests.bots.patient_world import Clinic, clinic, person
from tests.reported_cases.conversation import Checks, tasks


def test_k05_task_stays() -> None:
    check = Checks()

    def duplicate(w: Clinic) -> tuple[Json, Json]:
        who: Json = {"name": [{"family": "Quandt", "given": ["Ilse"]}], "birthDate": "1961-03-04"}
        one = w.server.create(person(**who))
        handler(w.subscribed(one, "create"))
        two = w.server.create(person(**who))
        handler(w.subscribed(two, "create"))
        return w.server.read(f"Patient/{one['id']}"), two

    with clinic() as w:
        one, two = duplicate(w)
        handler(w.subscribed(w.server.change(f"Patient/{two['id']}", lambda p: {**p, "active": False})))
        check("set inactive: no Task is open", not [t for t in tasks(w) if t[0] == "requested"], tasks(w))
    with clinic() as w:
        one, two = duplicate(w)
        handler(w.subscribed(two, "delete"))
        check("deleted: no Task is open", not [t for t in tasks(w) if t[0] == "requested"], tasks(w))
    with clinic() as w:
        one, two = duplicate(w)
        handler(
            w.subscribed(
                w.server.change(
                    f"Patient/{two['id']}",
                    lambda p: {**p, "link": [{"other": {"reference": f"Patient/{one['id']}"}, "type": "replaces"}]},
                )
            )
        )
        handler(
            w.subscribed(
                w.server.change(
                    f"Patient/{one['id']}",
                    lambda p: {
                        **p,
                        "active": False,
                        "link": [{"other": {"reference": f"Patient/{two['id']}"}, "type": "replaced-by"}],
                    },
                )
            )
        )
        check("merged, `replaces` first: no Task is open", not [t for t in tasks(w) if t[0] == "requested"], tasks(w))
    check.done()
