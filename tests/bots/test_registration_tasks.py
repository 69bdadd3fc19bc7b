"""Each state of the patient gives the state of its Task."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot_layer.fhir.json import Json
from bots.register_patient import handler
from tests.bots.patient_world import ADDRESS, Clinic, action, clinic, person
from tests.reported_cases.conversation import tasks

HTEST = {"tag": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "HTEST"}]}


def failing(w: Clinic) -> Json:
    """A Patient whose registration failed."""
    stored = w.server.create(person(address=None))
    handler(w.subscribed(stored, "create"))
    assert tasks(w) == [("requested", "missing-demographics")]
    return stored


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (lambda now: {**now, "active": False}, "cancelled", "patient-inactive"),
        (lambda now: {**now, "meta": now["meta"] | HTEST}, "cancelled", "test-patient"),
        (lambda now: {**now, "address": [ADDRESS], "deceasedBoolean": True}, "cancelled", "patient-deceased"),
        (
            lambda now: {**now, "address": [ADDRESS], "deceasedDateTime": "2026-01-01"},
            "cancelled",
            "patient-deceased",
        ),
        (lambda now: {**now, "deceasedBoolean": True}, "cancelled", "patient-deceased"),
        (lambda now: {**now, "address": [ADDRESS]}, "completed", "missing-demographics"),
        (lambda now: {**now, "birthDate": "1980"}, "requested", "missing-demographics"),
    ],
)
def test_the_task_follows_the_patient(change: Callable[[Json], Json], status: str, reason: str) -> None:
    with clinic() as w:
        stored = failing(w)
        handler(w.subscribed(w.server.change(f"Patient/{stored['id']}", change)))
        assert tasks(w) == [(status, reason)]


def test_the_task_of_a_namesake_ends_when_the_patient_dies() -> None:
    """A deceased patient is not registered again, so no one has to distinguish the two."""
    with clinic() as w:
        handler(w.asked(w.server.create(person())))
        second = w.server.create(person())
        handler(w.subscribed(second, "create"))
        assert tasks(w) == [("requested", "registered-as-another")]
        died = w.server.change(f"Patient/{second['id']}", lambda now: {**now, "deceasedBoolean": True})
        handler(w.subscribed(died))
        assert tasks(w) == [("cancelled", "patient-deceased")]


def test_a_deleted_patient_has_no_open_task() -> None:
    with clinic() as w:
        stored = failing(w)
        w.server.delete(f"Patient/{stored['id']}")
        handler(w.subscribed(stored, "delete"))
        assert tasks(w) == [("cancelled", "patient-deleted")]


def test_an_event_that_arrives_after_the_deletion_opens_no_task() -> None:
    """Medplum may deliver an update late: a deleted Patient needs no action."""
    with clinic() as w:
        stored = failing(w)
        w.server.delete(f"Patient/{stored['id']}")
        handler(w.subscribed(stored, "update"))
        assert [status for status, _ in tasks(w)] == ["cancelled"]


@pytest.mark.parametrize("status", ["accepted", "in-progress", "on-hold"])
def test_a_task_that_somebody_took_up_stays_the_only_one(status: str) -> None:
    with clinic() as w:
        stored = failing(w)
        (task,) = w.server.search("Task", [("_count", "5")])
        w.server.change(f"Task/{task['id']}", lambda now: {**now, "status": status})
        handler(w.subscribed(stored))
        assert tasks(w) == [(status, "missing-demographics")]
        w.server.change(f"Patient/{stored['id']}", lambda now: {**now, "address": [ADDRESS]})
        handler(w.subscribed(stored))
        assert tasks(w) == [("completed", "missing-demographics")]


def test_a_direct_call_that_succeeds_completes_the_task() -> None:
    with clinic() as w:
        stored = failing(w)
        w.server.change(f"Patient/{stored['id']}", lambda now: {**now, "address": [ADDRESS]})
        assert action(handler(w.asked(stored, preview=True))) == "registered"
        assert [status for status, _ in tasks(w)] == ["requested"]
        assert action(handler(w.asked(stored))) == "registered"
        assert [status for status, _ in tasks(w)] == ["completed"]


def test_a_failure_of_the_survivor_moves_the_task_to_the_survivor() -> None:
    """The Task leads to the surviving record."""
    with clinic() as w:
        stored = failing(w)
        kept = w.server.create(person(gender="other"))
        link = [{"type": "replaced-by", "other": {"reference": f"Patient/{kept['id']}"}}]
        merged = w.server.change(f"Patient/{stored['id']}", lambda now: {**now, "active": False, "link": link})
        handler(w.subscribed(merged))
        found = w.server.search("Task", [("_count", "5"), ("_sort", "_lastUpdated")])
        assert sorted((task["status"], task["for"]["reference"].rpartition("/")[2]) for task in found) == sorted(
            [("cancelled", stored["id"]), ("requested", kept["id"])]
        )
