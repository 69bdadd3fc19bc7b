"""The end of a run: what is marked instead of deleted, and how few requests a run with nothing new needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot_layer.bulk_sync.options import Options
from bot_layer.bulk_sync.rules.retraction import marked
from medplum_sandbox.practice_fusion import Switches, generate
from tests.bulk_sync.keys import register
from tests.bulk_sync.world import observation, world

pytestmark = pytest.mark.no_cover  # whole runs; other tests here cover their code paths


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("Patient", "active", False),
        ("Observation", "status", "entered-in-error"),
        ("Goal", "lifecycleStatus", "entered-in-error"),
    ],
)
def test_a_type_says_in_its_own_way_that_a_record_is_void(kind: str, field: str, value: object) -> None:
    """active, status, lifecycleStatus."""
    assert marked({"resourceType": kind, "id": "1"}) == {"resourceType": kind, "id": "1", field: value}


@pytest.mark.parametrize("kind", ["Condition", "AllergyIntolerance"])
def test_a_void_condition_has_no_clinical_status(kind: str) -> None:
    """FHIR's invariants con-5 and ait-2."""
    found = marked({"resourceType": kind, "clinicalStatus": {}})
    assert found is not None
    assert found["verificationStatus"]["coding"][0]["code"] == "entered-in-error"
    assert "clinicalStatus" not in found


def test_a_type_that_cannot_say_it_is_deleted() -> None:
    """Provenance has no word for it."""
    assert marked({"resourceType": "Provenance"}) is None


def test_a_marked_resource_is_restored_when_the_source_has_it_again(tmp_path: Path) -> None:
    """What returns at the source is as the source says."""
    with world(generate(1, 1), folder=tmp_path) as both:
        person = next(iter(both.source.source.resources("Patient")))["id"]
        both.source.source.add(observation("o1", f"Patient/{person}"), at=both.source.now())
        both.run(deletion="mark")
        both.source.source.delete("Observation", "o1", at=both.source.now())
        both.run(deletion="mark")
        assert both.by_source_id("Observation")["o1"][0]["status"] == "entered-in-error"
        both.source.source.add(observation("o1", f"Patient/{person}"), at=both.source.now())
        both.run(deletion="mark")
        assert both.by_source_id("Observation")["o1"][0]["status"] == "final"


@pytest.mark.parametrize("how", ["delete", "mark"])
def test_a_document_that_is_deleted_takes_its_content_along(how: str, tmp_path: Path) -> None:
    """The source has withdrawn it; a document that is only marked keeps its content."""
    document = {
        "resourceType": "DocumentReference",
        "id": "d1",
        "status": "current",
        "content": [{"attachment": {"contentType": "text/plain", "url": "Binary/b1"}}],
    }
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": "YQ=="}
    readable = Switches.general(open_types=frozenset({"Group", "Binary"}))
    with world(generate(1, 1), switches=readable, folder=tmp_path) as both:
        both.settings["PF_RESOURCE_TYPES"] = "Patient,DocumentReference"
        for each in (document, binary):
            both.source.source.add(each, at=both.source.now())
        both.run()
        (stored,) = both.by_source_id("DocumentReference")["d1"]
        link = stored["content"][0]["attachment"]["url"]
        assert both.content(link) == b"a"
        both.source.source.delete("DocumentReference", "d1", at=both.source.now())
        both.run(deletion=how)
        assert (both.content(link) == b"a") == (how == "mark")


@pytest.mark.one_login  # the bot is given its token
@pytest.mark.parametrize("shape", ["general", "exact"])
def test_a_run_with_nothing_new_asks_little(shape: str, tmp_path: Path) -> None:
    """Nine requests including both logins: three more at Medplum (lease, job, commit), four at the source.

    The source is asked for the Group's members, for an export, for its status, and to delete it; the status once more
    each time the export is not ready.
    """
    made = {"general": Switches.general, "exact": Switches.exact}[shape](polls=0)
    with world(generate(1, 2), switches=made, folder=tmp_path) as both:
        both.settings |= register(both.source)
        both.source.authorize_app()
        both.run()
        both.source.clear_requests()
        before = len(both.medplum.requests)
        both.run(Options())
        medplum = [(each.method, each.path.rpartition("/")[0]) for each in both.medplum.requests[before:]]
        assert medplum == [("POST", "/oauth2"), *[("PUT", "/fhir/R4/Task")] * 3]
        assert len(medplum) + len(both.source.requests) == 9


def test_a_run_on_another_machine_asks_once_more(tmp_path: Path) -> None:
    """It has no copy of the Task, and reads it."""
    with world(generate(1, 2), switches=Switches.general(polls=0), folder=tmp_path / "one") as both:
        both.run()
        both.run()
        both.folder = tmp_path / "two"
        both.run()
        before = len(both.medplum.requests)
        both.folder = tmp_path / "one"
        both.run()
        assert [each.method for each in both.medplum.requests[before:]].count("GET") > 0
