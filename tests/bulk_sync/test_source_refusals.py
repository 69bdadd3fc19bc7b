"""What a source refuses, misstates or does not export: it is reported, and does not stop the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest

from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules import task as sync_task
from bot_layer.bulk_sync.rules.run_state import SyncState
from bot_layer.bulk_sync.rules.time_stamps import instant
from bot_layer.fhir.json import Json
from medplum_sandbox.practice_fusion import Canned, Source, Switches
from tests.bulk_sync.world import World, observation, patient, world

THEN = datetime(2025, 1, 1, tzinfo=UTC)
TYPES = ("Patient", "Observation", "Condition")


def practice() -> Source:
    """One patient with an Observation."""
    source = Source()
    source.add(patient("p1"), at=THEN)
    source.add(observation("o1"), at=THEN)
    source.groups["g1"] = {"p1": THEN}
    return source


def run(both: World, **changes: Any) -> SyncState:
    """A run of three types."""
    settings: dict[str, Any] = {"types": TYPES, "hydrate": False}
    return both.run(None, **(settings | changes))


def stamps(state: SyncState) -> dict[str, str]:
    """The time stamps of the Group."""
    return dict(state.since.get("g1", {}))


def kickoffs(both: World) -> list[dict[str, list[str]]]:
    """The parameters of each kick-off."""
    return [parse_qs(each.query) for each in both.source.requests if each.path.endswith("$export")]


def edit(**changes: Any) -> Callable[[Json], Json]:
    """A manifest with other fields; None takes one away."""
    return lambda body: {name: each for name, each in (body | changes).items() if each is not None}


def errors(both: World, *issues: Json, text: bytes | None = None, times: int | None = None, **entry: Any) -> None:
    """Have the next exports name an error file with these issues, one outcome each."""
    url = f"{both.source.base_url}/errors.ndjson"
    lines = [json.dumps({"resourceType": "OperationOutcome", "issue": [each]}) for each in issues]
    both.source.canned.append(Canned("errors.ndjson", text if text is not None else "\n".join(lines).encode()))
    both.source.edit_manifest = edit(error=[{"type": "OperationOutcome", "url": url} | entry])


def issue(text: str = "", severity: str = "error") -> Json:
    """One issue."""
    return {"severity": severity, "code": "processing", "diagnostics": text}


# -- What was not exported


def test_the_time_stamp_of_a_type_that_was_not_exported_whole_stays() -> None:
    """The run is partial; the other types continue, and the next run requests that type from its old time stamp."""
    with world(practice()) as both:
        errors(both, issue("Observation/o2 of Jane Sample could not be exported"), issue("", "information"))
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "partial"
        assert [(each.type, each.count, each.reason) for each in state.run.not_exported] == [
            ("Observation", 1, "error processing")
        ]
        assert set(stamps(state)) == {"Patient", "Condition"}
        health = sync_task.health(state, enabled=True, interval_ms=86_400_000, now=state.run.ended)
        assert (health["healthy"], health["lastRunSuccess"]) == (False, False)
        assert "not-exported" in str(both.stored("Task"))
        assert "Jane" not in str(both.stored("Task")) + "".join(both.logged)
        both.source.edit_manifest = lambda body: body
        both.source.clear_requests()
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "done"
        assert sorted((each["_type"][0], "_since" in each) for each in kickoffs(both)) == [
            ("Observation", False),
            ("Patient,Condition", True),
        ]


@pytest.mark.parametrize("severity", ["information", "success"])
def test_an_outcome_that_is_no_error_changes_nothing(severity: str) -> None:
    """The run is complete, and every time stamp moves."""
    with world(practice()) as both:
        errors(both, issue("Observation", severity))
        state = run(both)
        assert state.run is not None
        assert (state.run.phase, state.run.not_exported) == ("done", ())
        assert set(stamps(state)) == set(TYPES)


@pytest.mark.parametrize(
    "kind", ["untyped", "page", "not JSON", "missing", "empty", "foreign", "short", "a Patient", "no address"]
)
def test_an_error_file_that_says_nothing_holds_every_type_back(kind: str) -> None:
    """What the source wanted to say may be about each of them."""
    with world(practice()) as both:
        if kind == "untyped":
            errors(both, issue("Some resources could not be exported."))
        elif kind == "foreign":
            errors(both, url="http://169.254.1.1/errors")
        elif kind == "short":
            errors(both, issue("", "information"), count=2)
        elif kind == "no address":
            errors(both, url=None)
        else:
            texts = {"page": b"<html>soon</html>", "not JSON": b"soon", "a Patient": json.dumps(patient("p9")).encode()}
            errors(both, text=texts.get(kind, b""), count=1)
            if kind == "page":
                both.source.canned[0].content_type = "text/html"
            if kind == "missing":
                both.source.canned[0].status = 404
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "partial"
        assert stamps(state) == {}
        assert set(both.by_source_id("Patient")) == {"p1"}


# -- Time stamps


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(hours=1), timedelta(days=300_000)])
def test_a_change_during_the_export_is_imported_by_the_next_run(ahead: timedelta) -> None:
    """Some sources state the end of the job as its transactionTime, or a moment in the future."""
    with world(practice()) as both:

        def ended(body: Json) -> Json:
            both.source.source.change("Patient", "p1", {"gender": "female"}, at=both.source.now())
            both.source.edit_manifest = lambda body: body
            return body | {"transactionTime": (datetime.now(UTC) + ahead).isoformat()}

        both.source.edit_manifest = ended
        state = run(both)
        assert "gender" not in both.stored("Patient")[0]
        assert max(stamps(state).values(), key=instant) < datetime.now(UTC).isoformat()
        run(both)
        assert both.stored("Patient")[0]["gender"] == "female"


@pytest.mark.parametrize("stated", ["soon", "2025-01-01", None, 7, "0000-00-00T00:00:00Z"])
def test_a_transaction_time_that_cannot_be_read_moves_no_stamp(stated: object) -> None:
    """It is a finding; later runs ask as before, and nothing is lost."""
    with world(practice()) as both:
        both.source.edit_manifest = edit(transactionTime=stated)
        state = run(both)
        assert state.run is not None
        assert (state.run.phase, stamps(state)) == ("done", {})
        assert any("transactionTime" in each for each in state.run.notes)
        both.source.edit_manifest = lambda body: body
        state = run(both)
        assert set(stamps(state)) == set(TYPES)


def test_a_stored_time_stamp_in_the_future_is_not_used() -> None:
    """An earlier version stored 2999 from a source: after that, nothing was imported."""
    with world(practice()) as both:
        run(both)
        sync = both.sync(types=TYPES, hydrate=False)
        state = sync.store.acquire()
        sync.store.save(
            SyncState(since={"g1": dict.fromkeys(TYPES, "2999-01-01T00:00:00Z")}, cache_id=state.cache_id), release=True
        )
        sync.map.close()
        both.source.clear_requests()
        run(both)
        assert ["_since" in each for each in kickoffs(both)] == [False]


# -- Refused kick-offs


def test_a_source_that_refuses_the_output_format_is_asked_without_it() -> None:
    """AWS FHIR Works answers 400 to a plus in it."""
    with world(practice()) as both:
        both.source.canned.append(Canned("_outputFormat", {"issue": [{"code": "invalid"}]}, 400))
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "done"
        assert [each.get("_outputFormat") for each in kickoffs(both)] == [["application/fhir+ndjson"], None]
        assert set(both.by_source_id("Patient")) == {"p1"}


@pytest.mark.parametrize("text", ["Condition is not available for export", "Bad request"])
def test_a_type_that_the_source_cannot_export_is_left_out(text: str) -> None:
    """The others are exported; the report names the type, with the source's own text; later runs continue."""
    with world(practice()) as both:
        refusal = {"resourceType": "OperationOutcome", "issue": [{"code": "not-supported", "diagnostics": text}]}
        both.source.canned.append(Canned("Condition", refusal, 400))
        for _ in range(2):
            state = run(both)
            assert state.run is not None
            assert (state.run.phase, state.run.refused_types) == ("done", ("Condition",))
            assert any(text in each for each in state.run.notes)
            assert set(stamps(state)) == {"Patient", "Observation"}
        assert set(both.by_source_id("Observation")) == {"o1"}


def test_a_new_type_that_is_refused_does_not_block_the_others() -> None:
    """It is requested first, as it has no time stamp yet."""
    with world(practice()) as both:
        run(both, types=("Patient", "Observation"))
        both.source.canned.append(Canned("Condition", {"issue": [{"code": "invalid"}]}, 400))
        both.source.source.change("Patient", "p1", {"gender": "female"}, at=both.source.now())
        state = run(both)
        assert state.run is not None
        assert (state.run.phase, state.run.refused_types) == ("done", ("Condition",))
        assert both.stored("Patient")[0].get("gender") == "female"


def test_a_source_that_refuses_since_exports_everything() -> None:
    """Each time that the source refuses; the report says so."""
    with world(practice()) as both:
        run(both)
        both.source.canned.append(Canned("_since", {"issue": [{"code": "not-supported"}]}, 400))
        both.source.source.change("Patient", "p1", {"gender": "female"}, at=both.source.now())
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "done"
        assert any("refuses _since" in each for each in state.run.notes)
        assert both.stored("Patient")[0].get("gender") == "female"


def test_if_every_kickoff_is_refused_the_run_fails_soon() -> None:
    """With the source's words, and not after a request for each type."""
    with world(practice()) as both:
        refusal = {"resourceType": "OperationOutcome", "issue": [{"code": "invalid", "diagnostics": "Not on Sundays"}]}
        both.source.canned.append(Canned("$export", refusal, 400))
        both.source.canned.append(Canned("/Group/", b"", 403, unless="$export"))
        with pytest.raises(Exception, match="Group can't be exported"):
            run(both)
        assert len(kickoffs(both)) < 8


# -- Groups


def group(*members: str) -> Json:
    """A Group of these."""
    return {"resourceType": "Group", "member": [{"entity": {"reference": each}} for each in members]}


def test_groups_inside_a_group_are_followed() -> None:
    """Even in a circle; each is exported once, and its patients come with all their data."""
    source = practice()
    source.add(patient("p2"), at=THEN)
    source.groups = {"g1": {}, "g2": {"p1": THEN}, "g3": {"p2": THEN}}
    with world(source) as both:
        both.source.canned = [
            Canned("/Group/g1", group("Group/g2", f"{both.source.base_url}/Group/g3"), unless="$export"),
            Canned("/Group/g3", group("Patient/p2", "Group/g1", "Device/d1"), unless="$export"),
        ]
        state = run(both, group_ids=("g1",))
        assert state.run is not None
        assert (state.run.phase, state.run.notes) == ("done", ())
        assert set(both.by_source_id("Patient")) == {"p1", "p2"}
        assert [each.path.split("/")[-2] for each in both.source.requests if "$export" in each.path] == ["g2", "g3"]
        assert set(state.since) == {"g2", "g3"}
        assert state.last_sync_time


def test_a_group_without_patients_is_a_finding() -> None:
    """The run is done, and the report says what to check."""
    source = Source()
    source.groups["g1"] = {}
    with world(source) as both:
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "done"
        assert sum("check PF_GROUP_ID" in each for each in state.run.notes) == 2


@pytest.mark.parametrize("status", [403, 400, 501])
def test_a_newcomer_is_imported_with_older_data_even_if_no_search_is_allowed(status: int) -> None:
    """With a full export of the Group, once."""
    source = practice()
    source.add(patient("p2"), at=THEN)
    source.add(observation("o2", "Patient/p2"), at=THEN)
    with world(source) as both:
        run(both)
        source.add_member("p2", at=both.source.now())
        both.source.canned = [Canned("_count=100", {"issue": [{"code": "forbidden"}]}, status)]
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "done"
        assert set(both.by_source_id("Observation")) == {"o1", "o2"}
        both.source.clear_requests()
        run(both)
        assert ["_since" in each for each in kickoffs(both)] == [True]


# -- Manifests and jobs


@pytest.mark.parametrize("address", ["https://10.0.0.1/secret", "http://files.example/x", "ftp://files.example/x"])
def test_a_file_at_an_address_that_is_refused_counts_as_not_exported(address: str) -> None:
    """The other files are loaded, and the time stamp of that type stays."""
    with world(practice()) as both:

        def moved(body: Json) -> Json:
            return body | {
                "output": [
                    each | ({"url": address} if each["type"] == "Observation" else {}) for each in body["output"]
                ]
            }

        both.source.edit_manifest = moved
        state = run(both)
        assert state.run is not None
        assert (state.run.phase, set(stamps(state))) == ("partial", {"Patient", "Condition"})
        assert set(both.by_source_id("Patient")) == {"p1"}


def test_a_manifest_without_output_is_an_export_of_nothing() -> None:
    """A source with nothing new omits the list."""
    with world(practice()) as both:
        run(both)
        both.source.edit_manifest = edit(output=None, error=None)
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "done"


def test_an_export_that_dies_is_kicked_off_once_more() -> None:
    """In the same run; if it fails again, the run fails."""
    with world(practice()) as both:
        both.source.faults.add("failed_export", times=1)
        state = run(both)
        assert state.run is not None
        assert (state.run.phase, len(kickoffs(both))) == ("done", 2)
        assert both.source.jobs == {}


def test_a_gateways_page_is_no_status() -> None:
    """It is asked again; three times in a row it is an error."""
    with world(practice()) as both:
        page = Canned("/Export/", b"<html>We will be back soon.</html>", content_type="text/html", times=2)
        both.source.canned.append(page)
        state = run(both)
        assert state.run is not None
        assert state.run.phase == "done"


def test_options_narrow_the_export() -> None:
    """A run since a given time requests nothing older."""
    with world(practice(), switches=Switches.general()) as both:
        both.run(Options(since="2025-06-01T00:00:00Z"), types=TYPES, hydrate=False)
        assert kickoffs(both)[0]["_since"] == ["2025-06-01T00:00:00Z"]
