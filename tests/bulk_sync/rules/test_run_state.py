"""The state of a sync, written to a Task and read from it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from bot_layer.bulk_sync.rules import answer as sync_answer
from bot_layer.bulk_sync.rules import run_state as sync_state
from bot_layer.bulk_sync.rules import task as sync_task
from bot_layer.bulk_sync.rules.bulk_export import ExportFile
from bot_layer.bulk_sync.rules.export_errors import NotExported
from bot_layer.bulk_sync.rules.plan import files_of, member_digests, plan_jobs, still_missing
from bot_layer.bulk_sync.rules.run_state import EditList, FileState, Job, LocalEdit, Run, SyncState
from bot_layer.bulk_sync.rules.settings import SyncSettings
from bot_layer.errors import PermanentError
from bot_layer.fhir.json import Json

RUN = Run(
    "r",
    1000.0,
    jobs=(Job("group", ("A",), "g", files=(FileState("output", "A", 0, count=7),), patients=("p",)),),
    members={"g": member_digests(["p"])},
    counts={"A": {"seen": 3, "created": 1, "updated": 1, "unchanged": 1, "failed": 0}},
    deleted=2,
    refused_types=("B",),
    notes=("n",),
    bad_lines=("b",),
    edits=EditList((LocalEdit("A", "m", ("x", "y")),), 3),
    problem="why",
    ended=1010.0,
)
STATE = SyncState(
    since={"g": {"A": "2024-01-01T00:00:00Z", "B": "2023-01-01T00:00:00Z"}},
    members={"g": member_digests(["p"])},
    scopes=("s",),
    failures="Binary/1",
    writers=("Bot/1",),
    run=RUN,
    owner="me",
    until=2000.0,
)


def test_a_task_holds_the_whole_state() -> None:
    """The written state is read back; other fields of the stored Task stay."""
    task = sync_task.to_task(STATE, "https://s.example", task={"resourceType": "Task", "id": "t", "note": []})
    assert sync_task.from_task(task) == STATE
    assert task["id"] == "t"
    values = [each["value"] for each in task["identifier"]]
    assert values == ["https://s.example", "https://s.example/Group/g"]
    assert task["executionPeriod"]["end"] == "1970-01-01T00:16:50.000Z"
    assert {"type": {"text": "failed-resources"}, "valueReference": {"reference": "Binary/1"}} in task["output"]


@pytest.mark.parametrize(
    "change",
    [
        {"run": {**asdict(RUN), "phase": "of a newer release"}},
        {"run": {**asdict(RUN), "problem": None}},
        {"members": None},
        {"run": []},
        {"since": "2024-01-01"},
    ],
)
def test_a_state_that_cannot_be_read_has_a_code(change: Json) -> None:
    """A host reports it for this practice, and syncs the others."""
    text = json.dumps(asdict(STATE) | change)
    for each in (text, text[:-9], "[]", 7):
        task = {"contained": [{"parameter": [{"name": "state", "valueString": each}]}]}
        with pytest.raises(PermanentError) as caught:
            sync_task.from_task(task)
        assert caught.value.code == "sync-state-unreadable"


def test_a_task_of_an_earlier_version_is_read() -> None:
    """A missing field is read as if it had never been set."""
    task = sync_task.to_task(STATE, "https://s.example")
    existing = task["contained"][0]["parameter"][-1]
    document = json.loads(existing["valueString"])
    for name in ("writers", "cache_id"):
        del document[name]
    for name in ("edits", "seen_in", "not_exported"):
        document["run"].pop(name, None)
    document["run"]["source_errors"] = False  # fields of that version
    document["run"]["jobs"][0]["files"][0]["lines"] = 5
    document["members"] = document["run"]["members"] = {"g": ["p"]}
    existing["valueString"] = json.dumps(document)
    run = replace(RUN, edits=EditList())
    assert sync_task.from_task(task) == replace(STATE, writers=(), run=run)


def test_a_practice_of_many_groups_fits_into_a_task() -> None:
    """Medplum accepts a Task of 1 MB: a Group has a thousand patients, and a run may be new to all of them."""
    groups = {
        f"{number:036}": member_digests(f"{number:018}{each:018}" for each in range(1000)) for number in range(40)
    }
    state = replace(STATE, members=groups, run=replace(RUN, members=groups))
    assert len(json.dumps(sync_task.to_task(state, "https://s.example"))) < 1_000_000


def test_before_the_first_sync_there_is_an_empty_state() -> None:
    """No Task, a Task without ours, and an empty one."""
    assert sync_task.from_task(None) == SyncState()
    assert sync_task.from_task({"contained": [{"parameter": [{"name": "x"}]}, {}]}) == SyncState()
    empty = sync_task.to_task(SyncState(), "s")
    assert empty["status"] == "requested"
    assert "output" not in empty
    assert sync_task.from_task(empty) == SyncState()
    assert sync_task.describe(None) == "No sync yet."


def test_the_last_sync_time_is_the_oldest() -> None:
    """Up to there everything is in Medplum; a type or a Group that was taken out of the settings counts no more."""
    assert STATE.last_sync_time == "2023-01-01T00:00:00Z"
    assert SyncState().last_sync_time == ""
    old = {"g": {"A": "2023-01-01T00:00:00Z", "B": "2024-01-01T00:00:00Z"}, "h": {"B": "2022-01-01T00:00:00Z"}}
    assert SyncState(since=old, groups=("g",), types=("B",)).last_sync_time == "2024-01-01T00:00:00Z"


def test_a_lease_holds_until_it_ends() -> None:
    """For others; not for its owner."""
    assert STATE.held_by_other("you", 1999)
    assert not STATE.held_by_other("you", 2000)
    assert not STATE.held_by_other("me", 0)
    assert not SyncState().held_by_other("me", 0)


def test_the_status_of_the_task_follows_the_run() -> None:
    """completed, failed, cancelled, in-progress."""
    phases: tuple[tuple[sync_state.Phase, str], ...] = (
        ("done", "completed"),
        ("failed", "failed"),
        ("cancelled", "cancelled"),
        ("export", "in-progress"),
    )
    for phase, status in phases:
        run = replace(RUN, phase=phase, ended=0.0)
        task = sync_task.to_task(replace(STATE, run=run, failures=""), "s")
        assert task["status"] == status
        assert "end" not in task["executionPeriod"]
        assert run.over == (status != "in-progress")


def test_the_report_says_what_a_person_must_know() -> None:
    """Counts, and everything that is not as it should be."""
    texts = {each["type"]["text"]: each.get("valueString", each.get("valueInteger")) for each in sync_task.report(RUN)}
    assert texts == {
        "A": "3 seen, 1 created, 1 updated, 1 unchanged, 0 failed",
        "deleted": 2,
        "refused-type": "B",
        "note": "n",
        "bad-line": "b",
        "edited": "A/m: x, y",
        "edited-more": 3,
        "problem": "why",
    }
    assert "problem" not in {each["type"]["text"] for each in sync_task.report(replace(RUN, problem=""))}
    assert sync_task.describe(RUN).endswith("why")


def test_health_is_what_monitoring_asks() -> None:
    """Healthy: off, or the last run succeeded recently, or a run is active or between two steps."""
    done = replace(STATE, run=replace(RUN, phase="done"), last_success=1010.0, until=0.0)
    good = sync_task.health(done, enabled=True, interval_ms=60_000, now=1020.0)
    assert good == {
        "enabled": True,
        "healthy": True,
        "lastRun": "1970-01-01T00:16:40.000Z",
        "lastRunSuccess": True,
        "isRunning": False,
        "intervalMs": 60_000,
    }
    assert not sync_task.health(done, enabled=True, interval_ms=60_000, now=2000.0)["healthy"]
    assert sync_task.health(STATE, enabled=True, interval_ms=60_000, now=1020.0)["isRunning"]
    never = sync_task.health(SyncState(), enabled=True, interval_ms=1, now=0.0)
    assert (never["healthy"], never["lastRun"], never["lastRunSuccess"]) == (False, None, None)
    assert sync_task.health(SyncState(), enabled=False, interval_ms=1, now=0.0)["healthy"]


def test_a_run_between_two_steps_of_the_bot_is_healthy() -> None:
    """No process holds it for minutes; with a problem, or after two intervals, the run is not healthy."""
    paused = replace(STATE, run=replace(RUN, problem=""), until=0.0)
    for state, now, healthy in (
        (paused, 1020.0, True),
        (replace(paused, run=RUN), 1020.0, False),
        (paused, 2000.0, False),
    ):
        record = sync_task.health(state, enabled=True, interval_ms=60_000, now=now)
        assert (record["healthy"], record["isRunning"]) == (healthy, False)


def test_counts_add_up() -> None:
    """Type by type, and all together."""
    total = sync_state.add_counts(RUN.counts, {"A": {"seen": 1, "failed": 1}, "B": {"seen": 2, "created": 2}})
    assert total["A"]["seen"] == 4
    assert sync_state.totals(total) == {"seen": 6, "created": 3, "updated": 1, "unchanged": 1, "failed": 1}


def test_files_are_loaded_in_the_order_of_their_types() -> None:
    """Deletions after outputs; a file that was handled before a break stays handled, even at a new address."""
    files = [
        ExportFile("deleted", "Bundle", "u1"),
        ExportFile("output", "Observation", "u2"),
        ExportFile("output", "Patient", "u3", 3),
        ExportFile("output", "Patient", "u4"),
    ]
    states = files_of(files, [FileState("output", "Patient", 1, done=True)])
    assert [(each.kind, each.type, each.turn, each.done) for each in states] == [
        ("output", "Patient", 0, False),
        ("output", "Patient", 1, True),
        ("output", "Observation", 0, False),
        ("deleted", "Bundle", 0, False),
    ]


def test_new_types_are_exported_in_full_and_others_since_the_last_run() -> None:
    """A new type, a newcomer, too many newcomers, a time stamp of the caller's, a full run."""
    old = SyncState(since={"g": {"A": "2026-01-01T00:00:00Z"}}, members={"g": member_digests(["p1"])})
    jobs = plan_jobs("group", "g", ["A", "B"], old, members=("p1",))
    assert [(job.types, job.since) for job in jobs] == [(("B",), ""), (("A",), "2026-01-01T00:00:00Z")]
    jobs = plan_jobs("group", "g", ["A"], old, members=("p1", "p2"))
    assert [(job.level, job.since, job.patients) for job in jobs] == [
        ("group", "2026-01-01T00:00:00Z", ()),
        ("search", "", ("p2",)),
    ]
    jobs = plan_jobs("group", "g", ["A"], old, members=("p1", "p2"), few=0)
    assert [(job.level, job.since) for job in jobs] == [("group", "")]
    assert [job.since for job in plan_jobs("group", "g", ["A"], old, members=("p2",), since="x")] == ["x"]
    assert [job.since for job in plan_jobs("group", "g", ["A"], old, full=True)] == [""]
    (job,) = plan_jobs("search", "g", ["A"], SyncState(), members=("p1",))
    assert job.patients == ("p1",)
    assert plan_jobs("system", "", ["A"], SyncState())[0].group == ""


def test_a_type_that_was_not_exported_stays_in_the_report_until_it_is() -> None:
    """A retry and a run of a part take it over; a run of everything does not, nor one of that type."""
    stamp, later = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
    missing = (NotExported("A", 1, "x"), NotExported("*", 2, "y"))
    state = SyncState(since={"g": {"A": stamp}}, run=replace(RUN, not_exported=missing))
    assert still_missing(SyncState(), Run("r", 0.0)) == ()
    assert still_missing(state, Run("r", 0.0)) == missing
    assert still_missing(state, Run("r", 0.0, jobs=(Job("group", ("B",), "g"),))) == ()
    for job, left in (
        (Job("group", ("B",), "g"), missing),
        (Job("group", ("A",), "g", stamp), missing[1:]),
        (Job("group", ("A",), "g", later), missing),
        (Job("group", ("A",), "g", only=("p",), newcomers=True), missing),
    ):
        assert still_missing(state, Run("r", 0.0, jobs=(job,), narrow=True)) == left


def test_the_turn_of_jobs() -> None:
    """One after another."""
    run = replace(RUN, jobs=(Job("group", ("A",), done=True), Job("group", ("B",))))
    assert run.job is not None
    assert run.job.types == ("B",)
    assert run.with_job(replace(run.job, done=True)).job is None


def test_the_answer_of_the_operation() -> None:
    """The whole report, and health; nothing if nothing ran."""
    settings = SyncSettings("https://s", "c")
    answer = sync_answer.of_state(STATE, settings, now=0.0, action="start")
    names = [each["name"] for each in answer["parameter"]]
    assert {"action", "status", "lastSyncTime", "summary", "health", "counts", "deleted", "edited", "problem"} <= set(
        names
    )
    never = sync_answer.of_state(SyncState(), settings, now=0.0, action="status")
    assert "lastSyncTime" not in [each["name"] for each in never["parameter"]]
    assert sync_answer.of_preview({"A": 2})["parameter"][1]["part"][1]["valueInteger"] == 2
