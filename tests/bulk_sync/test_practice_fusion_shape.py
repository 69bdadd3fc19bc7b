"""Practice Fusion's exact shape, and the ways to log in."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.settings import DEFAULT_TYPES
from bot_layer.errors import AuthError, ConfigError, PermanentError, TransientError
from medplum_sandbox.practice_fusion import Switches, generate
from tests.bulk_sync.keys import register
from tests.bulk_sync.world import assert_adds_up, assert_exact, counts, observation, world

pytestmark = pytest.mark.no_cover  # whole runs; how each part answers, tests/clients and tests/core show


@pytest.mark.parametrize("kind", ["ES384", "RS384"])
def test_the_exact_shape_is_synced(kind: str, tmp_path: Path) -> None:
    """Key login, .rs only with an odd refusal, Group level, empty 202, no counts, no Retry-After, pretty files."""
    with world(generate(8, 3), switches=Switches.exact(), folder=tmp_path) as both:
        both.settings |= register(both.source, kind)
        both.source.authorize_app()
        state = both.run()
        assert state.run is not None
        assert set(state.run.refused_types) == {"Medication", "MedicationStatement", "Binary"}
        assert counts(state)["failed"] == 0
        assert_adds_up(state)
        # A resource that others refer to and that can be read is imported, although it can't be exported.
        assert both.by_source_id("Location")
        assert both.by_source_id("Medication")
        again = both.run()
        assert counts(again)["seen"] == 0


def test_documents_are_read_by_rest_where_binary_is_not_exported(tmp_path: Path) -> None:
    """Fetched with the token, checked, stored, linked; the next full run fetches nothing again."""
    with world(generate(8, 3), switches=Switches.exact(), folder=tmp_path) as both:
        both.settings |= register(both.source)
        both.source.authorize_app()
        both.run()
        links = [each["content"][0]["attachment"].get("url", "") for each in both.stored("DocumentReference")]
        stored = [link for link in links if "/storage/" in link]
        assert stored
        assert all(both.content(link) for link in stored)
        fetched = [each for each in both.source.requests if "/Binary/" in each.path and "/export/" not in each.path]
        assert fetched
        both.source.clear_requests()
        state = both.run(Options(full=True))
        assert counts(state)["updated"] == 0
        assert not [each for each in both.source.requests if "/Binary/" in each.path and "/export/" not in each.path]


def test_documents_that_are_too_large_or_unwanted_keep_their_links(tmp_path: Path) -> None:
    """The link stays complete, and the document reference is kept."""
    for changes in ({"max_attachment_bytes": 1}, {"attachments": False}):
        with world(generate(8, 1), switches=Switches.exact(), folder=None) as both:
            both.settings |= register(both.source)
            both.source.authorize_app()
            state = both.run(**changes)
            assert counts(state)["failed"] == 0
            links = [each["content"][0]["attachment"].get("url", "") for each in both.stored("DocumentReference")]
            assert not any("/storage/" in link for link in links)


def test_before_the_practice_authorizes_the_app_the_error_says_so() -> None:
    """The code and the sentence say who must act, and where."""
    with world(generate(8, 1), switches=Switches.exact()) as both:
        both.settings |= register(both.source)
        with pytest.raises(AuthError, match="Authorize App") as caught:
            both.run()
        assert caught.value.code == "practice-must-authorize"


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("discovery", ["smart", "metadata"])
def test_a_secret_is_sent_as_the_source_wants_it(method: str, discovery: str) -> None:
    """Basic, or in the body; the token endpoint from either document."""
    switches = Switches.general(token_methods=frozenset({method}), discovery=discovery)
    with world(generate(8, 1), switches=switches) as both:
        if (method, discovery) == ("client_secret_post", "metadata"):
            with pytest.raises(AuthError):
                both.run()  # nothing says that it must be in the body
        else:
            assert counts(both.run())["failed"] == 0


def test_text_that_is_not_a_key_is_distinguished() -> None:
    """No trace with the key in it."""
    with world(generate(8, 1)) as both:
        both.settings |= {"PF_PRIVATE_KEY": "none", "PF_KEY_ID": "k"}
        with pytest.raises(ConfigError) as caught:
            both.run()
        assert caught.value.code == "unreadable-key"


@pytest.mark.parametrize("algorithm", ["RS384", "ES256", "HS256"])
def test_an_algorithm_that_does_not_fit_the_key_is_reported(algorithm: str) -> None:
    """The setting is named; no trace of the code."""
    with world(generate(8, 1), switches=Switches.exact()) as both:
        both.settings |= register(both.source, "ES384") | {"PF_KEY_ALGORITHM": algorithm}
        both.source.authorize_app()
        with pytest.raises(ConfigError, match="PF_KEY_ALGORITHM") as caught:
            both.run()
        assert caught.value.code == "wrong-settings"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\\n", "\\r\\n"])
def test_a_key_is_read_however_its_lines_end(line_end: str) -> None:
    """A PEM in one line has its line ends spelled out, those of Windows too."""
    with world(generate(8, 1), switches=Switches.exact()) as both:
        keys = register(both.source, "ES384")
        both.settings |= keys | {"PF_PRIVATE_KEY": keys["PF_PRIVATE_KEY"].replace("\n", line_end)}
        both.source.authorize_app()
        state = both.run()
        assert state.run is not None
        assert state.run.phase == "done"


def test_scopes_that_are_set_leave_out_the_types_that_they_do_not_name() -> None:
    """The rest is reported; when the setting is removed, all types are requested again."""
    with world(generate(8, 1), switches=Switches.general(polls=0)) as both:
        both.settings["PF_SCOPES"] = "system/Patient.rs system/Organization.rs"
        run = both.run(hydrate=False).run
        assert run is not None
        assert (sorted(run.counts), len(run.refused_types)) == (["Organization", "Patient"], len(DEFAULT_TYPES) - 2)
        del both.settings["PF_SCOPES"]
        run = both.run().run
        assert run is not None
        assert run.refused_types == ()
        assert_exact(both)


def test_scopes_that_are_set_and_refused_are_named() -> None:
    """It is the setting that is wrong, not what the source granted before."""
    with world(generate(8, 1), switches=Switches.general()) as both:
        both.settings["PF_SCOPES"] = "nonsense"
        with pytest.raises(AuthError, match="PF_SCOPES") as caught:
            both.run()
        assert caught.value.code == "no-scope-granted"


def test_a_source_without_discovery_is_reported() -> None:
    """The base is probably wrong."""
    with (
        world(generate(8, 1), switches=Switches.general(discovery="none")) as both,
        pytest.raises(ConfigError) as caught,
    ):
        both.run()
    assert caught.value.code == "no-token-endpoint"


@pytest.mark.parametrize("level", ["Patient", "system"])
def test_the_other_levels(level: str) -> None:
    """Without a Group: all patients, else the system; the report says which and why."""
    switches = Switches.general(levels=frozenset({level}))
    with world(generate(8, 1), switches=switches) as both:
        state = both.run(group_ids=())
        assert state.run is not None
        assert bool(state.run.notes) == (level == "system")
        assert both.by_source_id("Patient")


def test_a_level_that_is_not_offered_is_an_error_if_it_was_requested() -> None:
    """No other is taken."""
    with world(generate(8, 1), switches=Switches.general(levels=frozenset({"Group"}))) as both:
        with pytest.raises(PermanentError) as caught:
            both.run(level="system")
        assert caught.value.code == "export-refused"


def test_a_source_that_wants_post_gets_it() -> None:
    """A kick-off by GET is refused; Parameters are sent instead."""
    with world(generate(8, 1), switches=Switches.general(methods=frozenset({"POST"}))) as both:
        assert counts(both.run())["failed"] == 0


def test_pages_of_a_manifest_and_transient_answers() -> None:
    """link.next, a 202 with a part, 503 with a transient outcome, errors under either name."""
    switches = Switches.general(
        manifest_files=4, partial_manifests=True, polls=3, transient_polls=2, retry_after="date", outcome_key="outcome"
    )
    with world(generate(8, 2), switches=switches) as both:
        state = both.run()
        assert counts(state)["seen"] >= both.source.source.count("Observation") > 0
        assert len(both.by_source_id("Observation")) == both.source.source.count("Observation")
        assert len(both.by_source_id("Provenance")) == both.source.source.count("Provenance")


def test_a_retry_after_of_hours_is_capped() -> None:
    """Some sources ask for five hours."""
    with world(generate(8, 1), switches=Switches.general(retry_after="hours", polls=2)) as both:
        both.run()
        assert max(both.waited) <= 300


def test_an_export_that_takes_too_long_is_given_up() -> None:
    """After PF_POLL_LIMIT_SECONDS; the export is deleted at the source."""
    with world(generate(8, 1), switches=Switches.general(polls=1000)) as both:
        with pytest.raises(PermanentError, match="timed out after 1 polling attempts") as caught:
            both.run(poll_limit_seconds=0.0)
        assert caught.value.code == "export-timeout"
        assert both.source.jobs == {}


def test_a_manifest_without_an_end_is_given_up() -> None:
    """An endless list of next pages, each at a new address."""
    with world(generate(8, 1), switches=Switches.general(endless_manifest=True)) as both:
        with pytest.raises(PermanentError) as caught:
            both.run()
        assert caught.value.code == "endless-pages"
        assert both.source.jobs == {}


def test_a_type_filter_is_sent_with_the_export_of_its_type() -> None:
    """Where types are exported apart, a filter of another one would be refused."""
    only = ("Observation?status=final",)
    with world(generate(8, 1), switches=Switches.general()) as both:
        both.source.source.add(observation("o1", status="amended"), at=both.source.now())
        both.run(types=("Patient", "Observation"), type_filters=only)
        assert both.by_source_id("Observation")
        assert "o1" not in both.by_source_id("Observation")
        state = both.run(types=("Patient", "Condition", "Observation"), type_filters=only)
        assert state.run is not None
        assert state.run.notes == ()
        assert both.by_source_id("Condition")


@pytest.mark.parametrize("later", ["full", "a week"])
def test_a_type_that_was_refused_is_requested_again(later: str, tmp_path: Path) -> None:
    """The scope may have been granted since: each full run asks again, and other runs once a week."""
    with world(generate(8, 1), switches=Switches.general(types=("Patient",)), folder=tmp_path) as both:
        state = both.run(types=("Patient", "Condition"))
        assert state.refused_types == ("Condition",)
        widened = replace(both.source.switches, types=("Patient", "Condition"))
        both.source.switches = both.source.desk.switches = widened
        if later == "full":
            state = both.run(Options(full=True), types=("Patient", "Condition"))
        else:
            assert both.run(types=("Patient", "Condition")).refused_types == ("Condition",)
            both.moved = 7 * 86_400
            state = both.run(types=("Patient", "Condition"))
        assert state.refused_types == ()
        assert both.by_source_id("Condition")


def test_the_log_uses_the_lines_that_operators_know() -> None:
    """Sentence by sentence, in the order of a run; none of them names a person, an address of a file, or a token."""
    with world(generate(8, 1), switches=Switches.general(polls=2)) as both:
        both.run(types=("Patient",))
        log = "\n".join(both.logged)
        sentences = (
            r"\[PFSyncWorker\] Starting Practice Fusion sync\.\.\.",
            r"\[PFSyncWorker\] Last sync time: never \(initial sync\)",
            r"\[PFSyncWorker\] Discovering SMART endpoints\.\.\.",
            r"\[PFSyncWorker\] Token endpoint: http://127\.0\.0\.1:\d+/\.\.\.",
            r"\[PFSmartClient\] Requesting access token from Practice Fusion\.\.\.",
            r"\[PFSmartClient\] Using client_secret authentication",
            r"\[PFSmartClient\] Successfully obtained access token",
            r"\[PFBulkExport\] Initiating bulk export: http://127\.0\.0\.1:\d+/fhir/r4/v1/Group/[^/?]+/\$export\n",
            r"\[PFBulkExport\] Export initiated, status URL: http://127\.0\.0\.1:\d+/fhir/r4/v1/Export/[^?]+\n",
            r"\[PFBulkExport\] Export in progress \(attempt 1/360\), progress: 0% complete",
            r"\[PFBulkExport\] Export in progress \(attempt 2/360\), progress: 50% complete",
            r"\[PFBulkExport\] Export complete with 1 output files",
            r"\[PFBulkExport\] Downloading NDJSON file: http://127\.0\.0\.1:\d+/\S+/Patient/1\n",
            r"\[PFBulkExport\] Parsed 1 resources from file",
            r"\[PFSyncWorker\] Processing 1 Patient resources\.\.\.",
            r"\[PFSyncWorker\] Patient: 1 created, 0 updated, 0 failed",
            r"\[PFSyncWorker\] Updated sync state: \S+",
            r"\[PFSyncWorker\] Sync complete!",
            r"\[PFSyncWorker\] Stats: {.*\"created\":4,",
        )
        assert re.search(".*".join(sentences), log, re.DOTALL), log
        both.run(types=("Patient",))
        assert re.search(r"Last sync time: \d{4}-.*\(incremental\)", "\n".join(both.logged), re.DOTALL)


@pytest.mark.parametrize("times", [1, None])
def test_an_error_file_whose_link_is_no_good_stops_nothing(times: int | None) -> None:
    """Some sources name a file that no longer exists: it is reported, and the export is not repeated for it."""
    with world(generate(1, 1), switches=Switches.general(outcomes=("error",))) as both:
        both.source.faults.add("server_error", status=404, times=times, method="GET", path="/outcome/")
        state = both.run()
        assert state.run is not None
        (missing,) = state.run.not_exported
        assert missing.reason == ("error file that cannot be read" if times is None else "error processing")
        assert len([each for each in both.source.requests if "$export" in each.path]) == 1
        assert state.run.phase == "partial"
        assert_exact(both)


def test_the_job_is_saved_before_it_is_polled_for_the_first_time() -> None:
    """If the process is killed right after the kick-off, the job's address is already stored."""
    kept: list[str] = []

    def log(_component: str, text: str) -> None:
        if text.startswith("Export in progress (attempt 1/"):
            kept.append(str(both.stored("Task")))

    with world(generate(8, 1), switches=Switches.general(polls=1)) as both:
        sync = both.sync(within=Surroundings(sleep=both.sleep, timer=both.timer, log=log))
        sync.run(Options(types=("Patient",)))
        sync.map.close()
        assert "/Export/" in kept[0]


def test_a_source_without_retry_after_is_polled_less_and_less_often() -> None:
    """Practice Fusion sends no Retry-After: the guide wants exponential backoff."""
    with world(generate(8, 1), switches=Switches.general(polls=4, retry_after="none")) as both:
        both.run(types=("Patient",), hydrate=False)
        assert both.waited == [1.0, 1.5, 2.25, 3.375]


def test_a_source_that_is_busy_with_another_export_is_waited_for() -> None:
    """At least as long as it asks; if it stays busy, the next call tries again."""
    with world(generate(8, 1), switches=Switches.general(polls=0)) as both:
        both.source.faults.add("too_many", times=2, path="$export")
        both.run(types=("Patient",), hydrate=False)
        assert both.waited == [1.0, 2.0]
        both.source.faults.add("too_many", path="$export")
        with pytest.raises(TransientError) as caught:
            both.run(types=("Patient",))
        assert caught.value.code == "export-busy"
        both.source.faults.clear()
        state = both.run(types=("Patient",))
        assert state.run is not None
        assert state.run.phase == "done"


@pytest.mark.parametrize("times", [2, 3, 6])
def test_a_bad_moment_of_the_status_is_no_failed_export(times: int) -> None:
    """A plain 500 counts when it is answered three times; then the export is kicked off once more."""
    with world(generate(8, 1), switches=Switches.general(polls=0)) as both:
        both.source.faults.add("server_error", times=times, status=500, path="/Export/", method="GET")
        if times < 6:
            both.run(types=("Patient",))
            assert both.by_source_id("Patient")
        else:
            with pytest.raises(PermanentError) as caught:
                both.run(types=("Patient",))
            assert caught.value.code == "export-failed"


def test_a_group_that_is_not_exported_is_searched_and_that_is_said() -> None:
    """Each of its own patients is searched for; no other patient's records are requested."""
    switches = Switches.general(levels=frozenset({"Patient", "system"}))
    with world(generate(8, 2, outside=1), switches=switches) as both:
        state = both.run()
        assert state.run is not None
        (note,) = state.run.notes
        assert note.startswith("group level: ")
        assert note.endswith("taking search level")
        members = set(both.source.source.groups[both.source.group_id])
        asked = re.findall(r"patient=([^&]+)", " ".join(each.query for each in both.source.requests))
        assert set(asked) == members
        assert members <= set(both.by_source_id("Patient"))
        assert both.by_source_id("Observation")
