"""Edits that users made in Medplum: kept, listed for a decision, or overwritten by the source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot_layer.bot.event import Event
from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules import answer as sync_answer
from bot_layer.bulk_sync.rules import task as sync_task
from bot_layer.bulk_sync.rules.run_state import LocalEdit, SyncState
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import connect
from medplum_sandbox.practice_fusion import Source
from tests.bulk_sync.world import World, observation, patient, world

THEN = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[World]:
    """Two Observations in Medplum, one of them edited; then the source changes both."""
    source = Source()
    source.add(patient("p1"), at=THEN)
    for name in ("o1", "o2"):
        source.add(observation(name), at=THEN)
    source.groups["g1"] = {"p1": THEN}
    with world(source, folder=tmp_path) as made:
        made.run()
        made.put(one(made, "o1") | {"status": "corrected", "note": [{"text": "Ms Sample called"}]})
        for name in ("o1", "o2"):
            made.source.source.add(observation(name, status="amended"), at=made.source.now())
        yield made


def one(both: World, name: str) -> Json:
    """The Observation of this id at the source."""
    (found,) = both.by_source_id("Observation")[name]
    return found


def kept(state: SyncState) -> tuple[int, int]:
    """How many edits were kept, and how many of them are listed."""
    assert state.run is not None
    return state.run.kept, len(state.run.edits.listed)


def test_keep_leaves_an_edited_resource_and_says_no_more_than_how_many(both: World) -> None:
    """The others change."""
    state = both.run(local_edits="keep")
    assert kept(state) == (1, 0)
    assert (one(both, "o1")["status"], one(both, "o2")["status"]) == ("corrected", "amended")


def test_report_lists_what_it_left_without_any_value(both: World) -> None:
    """Type, Medplum's id and the names of fields: in the Task, the answer of the operation and the state."""
    state = both.run(local_edits="report")
    assert one(both, "o1")["status"] == "corrected"
    assert state.run is not None
    (edit,) = state.run.edits.listed
    assert edit == LocalEdit("Observation", one(both, "o1")["id"], ("note", "status"))
    (task,) = both.stored("Task")
    lines = [each["valueString"] for each in task["output"] if each["type"]["text"] == "edited"]
    assert lines == [f"{edit.reference}: note, status"]
    assert sync_task.from_task(task) == state
    answer = sync_answer.of_state(state, both.read(), now=0.0, action="start")
    (part,) = [each["part"] for each in answer["parameter"] if each["name"] == "edited"]
    assert [next(v for n, v in each.items() if n != "name") for each in part] == [
        "Observation",
        edit.id,
        "note",
        "status",
    ]
    for result in (json.dumps(answer), json.dumps(task["output"]), "\n".join(both.logged)):
        assert "called" not in result
        assert "corrected" not in result


def test_a_listed_edit_stays_listed_until_it_equals_the_source(both: World) -> None:
    """The source does not send it again; a full run meets it once more and lists it once."""
    assert kept(both.run(local_edits="report")) == (1, 1)
    assert kept(both.run(local_edits="report")) == (0, 1)
    assert kept(both.run(Options(full=True), local_edits="report")) == (1, 1)
    both.put(one(both, "o1") | {"status": "amended", "note": []})
    assert kept(both.run(Options(full=True), local_edits="report")) == (0, 0)


def test_somebody_can_decide_for_the_source_once(both: World) -> None:
    """Listed edits are overwritten; a later edit is kept and listed again."""
    both.run(local_edits="report")
    state = both.run(Options(overwrite_reported=True), local_edits="report")
    assert state.run is not None
    assert (state.run.phase, state.run.overwritten, kept(state)) == ("done", 1, (0, 0))
    assert one(both, "o1")["status"] == "amended"
    assert "note" not in one(both, "o1")
    both.put(one(both, "o1") | {"status": "corrected"})
    both.source.source.add(observation("o1", status="cancelled"), at=both.source.now())
    assert kept(both.run(local_edits="report")) == (1, 1)
    assert one(both, "o1")["status"] == "corrected"


def test_without_a_report_nothing_is_overwritten() -> None:
    """Not even an earlier run."""
    with world(Source()) as both:
        state = both.run(Options(overwrite_reported=True), local_edits="report")
        assert kept(state) == (0, 0)


def test_a_binary_that_was_edited_can_be_given_up_too(both: World) -> None:
    """A Basic represents it."""
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": "YQ=="}
    both.source.source.add(binary, at=both.source.now())
    both.run()
    (basic,) = both.by_source_id("Binary")["b1"]
    both.put(basic | {"author": {"display": "somebody"}})
    both.source.source.add(binary | {"data": "Yg=="}, at=both.source.now())
    assert kept(both.run(local_edits="report")) == (1, 1)
    both.run(Options(overwrite_reported=True), local_edits="report")
    (basic,) = both.by_source_id("Binary")["b1"]
    reference = next(each["valueReference"]["reference"] for each in basic["extension"] if "valueReference" in each)
    assert both.content(f"{both.medplum.base_url}/fhir/R4/{reference}") == b"b"


def test_a_repair_does_not_put_our_name_on_an_edit(both: World) -> None:
    """With our mark, the edit would no longer be detected, and the next run would overwrite it."""
    waiting = observation("o3", performer=[{"reference": "Practitioner/d1"}])
    both.source.source.add(waiting, at=both.source.now())
    both.run()
    both.put(one(both, "o3") | {"status": "corrected"})
    both.source.source.add({"resourceType": "Practitioner", "id": "d1"}, at=both.source.now())
    both.run(local_edits="keep")
    assert both.by_source_id("Practitioner")
    assert "reference" not in one(both, "o3")["performer"][0]
    both.source.source.add(waiting | {"status": "amended"}, at=both.source.now())
    assert kept(both.run(local_edits="keep")) == (1, 0)
    assert one(both, "o3")["status"] == "corrected"


def test_the_bot_does_not_mistake_the_command_line_for_an_editor(both: World) -> None:
    """Both write for the same sync; the Task remembers who did."""
    token = both.medplum.token_for(f"Practitioner/{both.medplum.owner_profile_id}")
    login = connect(Event(both.medplum.base_url, token, None))
    within = Surroundings(place=str(both.folder or ""), sleep=both.sleep, timer=both.timer)
    # The one who edited writes for the sync now: what the command line wrote is no edit to it.
    sync = Sync(both.read(local_edits="keep"), login, within=within)
    state = sync.run(Options())
    sync.map.close()
    assert kept(state) == (0, 0)
    assert len(state.writers) == 2
    assert (one(both, "o1")["status"], one(both, "o2")["status"]) == ("amended", "amended")
