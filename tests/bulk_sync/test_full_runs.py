"""A full run sees everything that was changed or deleted in Medplum, and reads only versions where nothing was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from bot_layer.bulk_sync.options import Options
from bot_layer.fhir.json import Json
from medplum_sandbox.medplum.actors import system_actor
from medplum_sandbox.medplum.repository import Repository
from medplum_sandbox.practice_fusion import generate
from tests.bulk_sync.test_named_faults import change, one, small
from tests.bulk_sync.world import World, assert_exact, counts, observation, patient, world

FULL = Options(full=True)


def searches(both: World, since: int, parameter: str) -> int:
    """Later searches by a parameter, but for the Task and the content of a Binary."""
    asked = [each for each in both.medplum.requests[since:] if not each.path.endswith(("/Task", "/Basic"))]
    return sum(f"{parameter}=" in each.query for each in asked)


def delete(both: World, resource: Json) -> None:
    """A user deletes a resource in Medplum."""
    url = f"{both.medplum.base_url}/fhir/R4/{resource['resourceType']}/{resource['id']}"
    assert requests.delete(url, headers=both.headers(), timeout=240).status_code == 200


def create(both: World, resource: Json) -> Json:
    """A user creates a resource in Medplum, under another id."""
    url = f"{both.medplum.base_url}/fhir/R4/{resource['resourceType']}"
    body = {name: value for name, value in resource.items() if name != "id"}
    created: Json = requests.post(url, json=body, headers=both.headers(), timeout=240).json()
    return created


@pytest.mark.parametrize("upsert", ["lookup", "conditional"])
def test_what_has_its_version_is_not_read_again(upsert: str, tmp_path: Path) -> None:
    """Neither after the run that wrote it, nor after one that compared it."""
    with world(generate(21, 3), folder=tmp_path, PF_ATTACHMENTS="false", PF_UPSERT=upsert) as both:
        both.run()
        for _ in range(2):
            before = len(both.medplum.requests)
            state = both.run(FULL)
            assert counts(state)["unchanged"] == counts(state)["seen"] > 0
            assert searches(both, before, "_id") >= 20  # the source has resources of 26 types
            # Of what is repaired after the first run, Medplum has a later version than the one that was written.
            assert searches(both, before, "identifier") <= 3
        assert searches(both, before, "identifier") == 0
        assert_exact(both)


def test_an_edit_is_overwritten_and_an_addition_stays(tmp_path: Path) -> None:
    """Each of them is another version."""
    with small(patient("p1"), observation("o1"), observation("o2"), folder=tmp_path) as both:
        both.run()
        both.put(one(both, "Observation", "o1") | {"status": "amended"})
        theirs = one(both, "Observation", "o2")
        both.put(theirs | {"identifier": [*theirs["identifier"], {"system": "urn:theirs", "value": "1"}]})
        state = both.run(FULL)
        assert (counts(state)["updated"], counts(state)["unchanged"]) == (1, 2)
        assert one(both, "Observation", "o1")["status"] == "final"
        assert one(both, "Observation", "o2")["identifier"][-1]["system"] == "urn:theirs"
        assert counts(both.run(FULL))["unchanged"] == 3


def test_a_deleted_resource_returns(tmp_path: Path) -> None:
    """Under the id that it had, so that references to it stay right."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as both:
        both.run()
        before = one(both, "Observation", "o1")
        delete(both, before)
        state = both.run(FULL)
        assert counts(state)["unchanged"] == 1
        assert one(both, "Observation", "o1")["id"] == before["id"]
        assert_exact(both)


def test_what_refers_to_a_resource_with_a_new_id_is_written_again(tmp_path: Path) -> None:
    """A user deleted the patient and created the record again: the observation's version is still the same."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as both:
        both.run()
        before = one(both, "Patient", "p1")
        delete(both, before)
        again = create(both, before)
        assert again["id"] != before["id"]
        assert counts(both.run(FULL))["updated"] == 1
        assert one(both, "Observation", "o1")["subject"]["reference"] == f"Patient/{again['id']}"
        assert_exact(both)


@pytest.mark.parametrize("changed", [{"status": "amended"}, {"subject": {"reference": "Patient/p2"}}])
def test_a_change_of_the_source_is_written_whatever_the_version(changed: dict[str, Any], tmp_path: Path) -> None:
    """A content, or a reference alone."""
    with small(patient("p1"), patient("p2"), observation("o1"), members=("p1", "p2"), folder=tmp_path) as both:
        both.run()
        change(both, observation("o1") | changed)
        assert counts(both.run(FULL))["updated"] == 1
        assert_exact(both)


def test_what_medplum_refused_is_no_comparison(tmp_path: Path) -> None:
    """The source returns to what it sent before: the failure ends, and the resource counts as unchanged."""
    with small(patient("p1"), observation("o1"), folder=tmp_path) as both:
        both.run()
        change(both, observation("o1", shoeSize=1))
        assert counts(both.run(FULL))["failed"] == 1
        change(both, observation("o1"))
        state = both.run(FULL)
        assert (counts(state)["failed"], counts(state)["unchanged"], state.failures) == (0, 2, "")


def test_an_element_that_a_policy_kept_out_is_written_once_the_policy_allows_it(tmp_path: Path) -> None:
    """Medplum stored less than was sent, without an error."""
    with small(patient("p1", gender="female"), folder=tmp_path) as both:
        both.as_bot, both.bot = True, both.deploy(both.read())
        server = Repository(both.medplum.world, system_actor(both.medplum.project_id))
        (policy,) = [each for each in both.stored("AccessPolicy") if "Patient" in str(each["resource"])]
        is_limited = {"readonlyFields": ["gender"]}
        rules = [each | (is_limited if each["resourceType"] == "Patient" else {}) for each in policy["resource"]]
        server.update({**policy, "resource": rules})
        both.run()
        assert "gender" not in one(both, "Patient", "p1")
        server.update(policy)
        both.run(FULL)
        assert one(both, "Patient", "p1")["gender"] == "female"
        assert counts(both.run(FULL))["unchanged"] == 1
