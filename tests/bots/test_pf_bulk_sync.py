"""$pf-bulk-sync: each call is one step, and the answer gives the status of the sync."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json
from bots.pf_bulk_sync import handler
from medplum_sandbox.practice_fusion import PracticeFusionSandbox, Switches, generate
from medplum_sandbox.practice_fusion.generate import START
from tests.bulk_sync.world import World, assert_exact, observation, world
from tests.cases import FIXTURES, Bindings, Case, cases

pytestmark = pytest.mark.no_cover  # whole runs, whose ways the tests of sync take


def call(both: World, *entries: Json, cron: bool = False, **settings: str) -> Json:
    """The bot's answer."""
    given = both.source.settings() | settings
    return handler(
        {
            "bot": {"reference": f"ClientApplication/{both.medplum.client_id}"},
            "baseUrl": both.medplum.base_url + "/",
            "accessToken": both.medplum.token_for(),
            "contentType": "application/fhir+json",
            "input": {"resourceType": "Bot", "id": "b"} if cron else parameters.build(*entries),
            "secrets": {name: {"name": name, "valueString": value} for name, value in given.items()},
        }
    )


def one(answer: Json, name: str) -> Any:
    """A value of the answer."""
    return parameters.one(answer, name)


FAST = Switches.general(retry_after="epoch", polls=0)


def test_a_start_runs_to_the_end_and_says_so(tmp_path: Path) -> None:
    """A small practice is done in one step: the answer has status, time stamp, counts and health."""
    with world(generate(1, 1), switches=FAST) as both:
        answer = call(both, PF_STATE_DIR=str(tmp_path))
        assert one(answer, "status") == "done", answer
        assert one(answer, "lastSyncTime")
        health = {each["name"]: each for each in one(answer, "health")}
        assert health["healthy"]["valueBoolean"] is True
        assert_exact(both)


def test_a_call_logs_in_the_words_that_operators_know(caplog: pytest.LogCaptureFixture) -> None:
    """As the command line does; a refusal by Medplum is reported with its status and with the place of its text."""
    source = generate(1, 1)
    source.add(observation("bad", status=None), at=START)
    with world(source, switches=FAST) as both, caplog.at_level(logging.INFO, logger="bots"):
        answer = call(both, PF_GROUP_ID="")
        lines = [each.getMessage() for each in caplog.records]
        for sentence in (
            "[PFSyncWorker] Starting Practice Fusion sync...",
            "[PFSmartClient] Successfully obtained access token",
            "[PFSyncWorker] Processing 1 Patient resources...",
            "[PFBulkExport] Parsed 1 resources from file",
            "[PFSyncWorker] Patient: 1 created, 0 updated, 0 failed",
            "[PFSyncWorker] Failed to upsert resource: 400 Bad Request (1 kept for --retry-failed)",
        ):
            assert sentence in lines
        assert both.content(f"{both.medplum.base_url}/fhir/R4/{one(answer, 'failedResources')}")


def test_each_step_resumes_where_the_last_one_stopped() -> None:
    """Without a disk and with a short budget, each call continues the run: the export is kicked off once."""
    with world(generate(1, 6), switches=FAST) as both:
        for _ in range(60):
            answer = call(both, PF_STEP_SECONDS="1")
            if one(answer, "status") == "done":
                break
        assert one(answer, "status") == "done", answer
        assert len([each for each in both.source.requests if "$export" in each.path]) == 1
        assert_exact(both)


def test_status_and_preview_write_nothing() -> None:
    """Asking costs nothing: no resource, no Task."""
    with world(generate(1, 1), switches=FAST) as both:
        assert one(call(both, parameters.code("action", "status")), "status") == "never-run"
        answer = call(both, parameters.boolean("preview", True))
        seen = {each[0]["valueCode"]: each[1]["valueInteger"] for each in parameters.values(answer, "counts")}
        assert seen["Patient"] == 1
        assert both.stored("Task") == []
        assert both.stored("Patient") == []


@pytest.mark.parametrize(
    ("levels", "settings"),
    [
        pytest.param({"system"}, {"PF_GROUP_ID": ""}, id="the system, as all patients are not offered"),
        pytest.param({"Patient"}, {}, id="by search, as the Group's export is not offered"),
        pytest.param({"Group"}, {"PF_EXPORT_LEVEL": "search"}, id="by search, as the settings say"),
    ],
)
def test_a_preview_takes_the_level_that_a_run_would_take(levels: set[str], settings: dict[str, Any]) -> None:
    """And counts there what a run would read."""
    with world(generate(1, 1), switches=Switches.general(polls=0, levels=frozenset(levels))) as both:
        answer = call(both, parameters.boolean("preview", True), **settings)
        seen = {each[0]["valueCode"]: each[1]["valueInteger"] for each in parameters.values(answer, "counts")}
        assert (seen["Patient"], seen["Observation"]) == (1, both.source.source.count("Observation"))
        assert both.stored("Task") == []


def test_a_preview_that_takes_longer_than_a_step_says_so() -> None:
    """And its export is deleted at the source."""
    with world(generate(1, 1), switches=Switches.general(polls=1000)) as both:
        answer = call(both, parameters.boolean("preview", True), PF_STEP_SECONDS="1")
        issue = one(answer, "outcome")["issue"][0]
        assert issue["details"]["coding"][0]["code"] == "preview-stopped"
        assert "--preview" in issue["details"]["text"]
        assert both.source.jobs == {}


def test_a_call_whose_time_is_over_before_it_began_says_what_to_do() -> None:
    """Medplum was busy all the time: there is no progress to continue from yet."""
    with world(generate(1, 1), switches=Switches.general(polls=0)) as both:
        both.medplum.faults.add("server_error", status=503, path="/Task")
        answer = call(both, PF_STEP_SECONDS="1")
        assert one(answer, "outcome")["issue"][0]["details"]["coding"][0]["code"] == "step-too-short"
        both.medplum.faults.clear()
        assert both.stored("Task") == []


def test_the_timer_starts_a_run_only_when_it_is_due(tmp_path: Path) -> None:
    """The timer calls often; a new run starts when the interval has passed, or where one was broken off."""
    with world(generate(1, 1), switches=FAST) as both:
        assert one(call(both, cron=True, PF_STATE_DIR=str(tmp_path)), "status") == "done"
        before = len(both.source.requests)
        assert one(call(both, cron=True, PF_STATE_DIR=str(tmp_path)), "action") == "not-due"
        assert len(both.source.requests) == before
        assert one(call(both, cron=True, PF_SYNC_INTERVAL_MS="1000", PF_SYNC_ENABLED="false"), "action") == "not-due"


def test_cancel_ends_the_run_here_and_at_the_source() -> None:
    """After a cancel the job is deleted at the source, and the next start begins a new run."""
    with world(generate(1, 1), switches=Switches.general(polls=1000)) as both:
        call(both, PF_STEP_SECONDS="1")
        assert one(call(both, parameters.code("action", "cancel")), "status") == "cancelled"
        assert [each for each in both.source.requests if each.method == "DELETE"]


def test_the_timer_does_not_undo_a_cancel() -> None:
    """The next run starts when the interval has passed; a start by a person runs at once."""
    with world(generate(1, 1), switches=Switches.general(polls=1000)) as both:
        call(both, cron=True, PF_STEP_SECONDS="1")
        call(both, parameters.code("action", "cancel"))
        both.source.clear_requests()
        assert one(call(both, cron=True, PF_STEP_SECONDS="1"), "action") == "not-due"
        assert both.source.requests == []
        assert one(call(both, PF_STEP_SECONDS="1"), "status") == "export"


def test_the_timer_does_not_ask_a_source_that_gave_up_every_five_minutes() -> None:
    """After a run that failed for good, the next one starts when the interval has passed, as with --watch."""
    with world(generate(1, 1), switches=FAST) as both:
        both.source.faults.add("failed_export")
        assert one(call(both, cron=True), "action") == "refused"
        both.source.clear_requests()
        assert one(call(both, cron=True), "action") == "not-due"
        assert both.source.requests == []
        both.source.faults.clear()
        assert one(call(both), "status") == "done"


def test_to_try_again_what_failed_puts_no_export_off() -> None:
    """A retry exports nothing: done daily, it stopped the timer from starting a sync, and the sync looked healthy."""
    with world(generate(1, 1), switches=FAST) as both:
        both.source.faults.add("failed_export")
        call(both, cron=True)
        both.source.faults.clear()
        answer = call(both, parameters.code("action", "retry-failed"))
        assert one(answer, "status") == "done"
        answer = call(both, cron=True)
        assert one(answer, "action") == "start"
        assert_exact(both)


def test_an_unknown_action_is_refused_before_anything_is_done() -> None:
    """A misspelt action must not start a sync."""
    with world(generate(1, 1), switches=FAST) as both:
        answer = call(both, parameters.code("action", "strat"))
        assert one(answer, "action") == "refused"
        assert both.source.requests == []


@pytest.mark.parametrize("since", ["yesterday", "2026-01-31", "2026-01-31T00:00:00", "2026-13-31T00:00:00Z"])
@pytest.mark.parametrize("preview", [False, True])
def test_a_moment_that_is_none_is_refused_before_anything_is_done(since: str, preview: bool) -> None:
    """The source would answer 400, which the sync would read as a missing export level."""
    with world(generate(1, 1), switches=FAST) as both:
        answer = call(both, {"name": "since", "valueInstant": since}, parameters.boolean("preview", preview))
        assert one(answer, "action") == "refused"
        assert "since-unreadable" in str(one(answer, "outcome"))
        assert both.source.requests == []
        assert both.stored("Task") == []


def test_missing_settings_are_named_all_at_once() -> None:
    """The operator learns everything that is missing from one answer."""
    with world(generate(1, 1), switches=FAST) as both:
        answer = handler({"baseUrl": both.medplum.base_url, "accessToken": "none", "input": {}, "secrets": {}})
        text = str(one(answer, "outcome"))
        assert "PF_FHIR_BASE_URL" in text
        assert "PF_CLIENT_ID" in text


@pytest.mark.parametrize("case", cases("pf_bulk_sync"), ids=str)
def test_the_samples_are_answered_as_they_say(case: Case) -> None:
    """Each folder of fixtures is an event and its whole answer."""
    with world(generate(1, 1), switches=FAST) as both:
        bound = Bindings({"<medplum>": both.medplum.base_url, "<token>": both.medplum.token_for()})
        assert handler(bound.bind(case.read("event.json"))) == case.read("expected.json")


def test_the_sample_of_a_whole_run_is_what_a_run_answers(tmp_path: Path) -> None:
    """The folder has no event, because only a source that answers can complete a run."""
    sample = Case(FIXTURES / "pf_bulk_sync" / "a-whole-run")
    with world(generate(1, 1), switches=FAST) as both:
        answer = call(both, *sample.read("input.json")["parameter"], PF_STATE_DIR=str(tmp_path))
        bound = Bindings()
        bound.learn(sample.read("answer.json"), answer)
        assert answer == bound.bind(sample.read("answer.json"))


def test_every_practice_has_its_turn_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    """Each practice has its own answer and Task; a call with a name syncs only that one."""
    with world(generate(1, 1), switches=FAST) as both, PracticeFusionSandbox(generate(2, 1), switches=FAST) as other:
        tables = {"north": both.source.settings(), "south": other.settings(), "gone": both.source.settings()}
        tables["gone"]["PF_FHIR_BASE_URL"] += "/gone"
        text = "\n".join(
            f"[practices.{name}]\n" + "\n".join(f'{key} = "{value}"' for key, value in table.items())
            for name, table in tables.items()
        )

        def answer(*entries: Json | None) -> Json:
            given = [each for each in entries if each is not None]
            return call(both, *given, PF_PRACTICES=text, PF_STATE_DIR=str(tmp_path), PF_STEP_SECONDS="60")

        parts = [each["part"] for each in answer()["parameter"] if each["name"] == "practice"]
        found = {part[0]["valueString"]: part[1] for part in parts}
        assert one(found["north"]["resource"], "status") == one(found["south"]["resource"], "status") == "done"
        assert one(found["north"]["resource"], "success") is True
        assert found["gone"]["valueString"].startswith("no-token-endpoint")
        assert len(both.by_source_id("Patient")) == 2
        named = answer(parameters.code("action", "status"), parameters.string("practice", "south"))
        assert one(named, "status") == "done"
        assert one(answer(parameters.string("practice", "west")), "outcome")


def test_the_answer_to_a_manual_trigger_says_whether_it_succeeded() -> None:
    """success, and error with the code, even if the call fails, and for several practices together."""
    with world(generate(1, 1), switches=FAST) as both:
        both.source.faults.add("failed_export")
        answer = call(both)
        assert one(answer, "success") is False
        assert one(answer, "error").startswith("export-failed: ")
        assert one(answer, "outcome")["issue"][0]["details"]["coding"][0]["code"] == "export-failed"
        both.source.faults.clear()
        answer = call(both)
        assert (one(answer, "success"), one(answer, "error")) == (True, None)
        wrong = call(both, PF_PRACTICES='[practices.north]\nPF_EXPORT_LEVEL = "x"\n')
        assert one(wrong, "success") is False
        assert "north" in one(wrong, "error")
