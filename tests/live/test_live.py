"""The live scenarios against the look-alike, so that they are known to work when a real server is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.__main__ import trial
from tests.live.scenarios import SCENARIOS
from tests.live.target import Refused, opened
from tests.live.world import started

# A comparison of speeds tells nothing on a look-alike.
NAMES = [name for name in SCENARIOS if name != "latency"]


def test_every_scenario_holds_on_the_look_alike(tmp_path: Path) -> None:
    """In order, each on what the ones before it left."""
    with opened({}) as target, started(target, tmp_path) as live:
        rows = trial(live, NAMES)
    assert [(name, found) for name, held, found, _ in rows if not held] == []


def test_a_project_of_somebody_is_refused() -> None:
    """Where Patients are, nothing is tried; where the login is half given, it says what to set."""
    with opened({}) as target:
        target.rest("POST", "fhir/R4/Patient", {"resourceType": "Patient"})
        with pytest.raises(Refused, match="thrown away"), opened(target.environment):
            pass
        with pytest.raises(Refused, match="MEDPLUM_CLIENT_ID"), opened({"MEDPLUM_BASE_URL": target.base_url}):
            pass


def test_a_project_is_left_as_it_was() -> None:
    """Whatever was made meanwhile goes, and the project's secrets come back."""
    with opened({}) as look_alike:
        project = look_alike.rest("GET", "auth/me")["project"]["id"]
        kept = look_alike.rest("POST", "fhir/R4/Organization", {"resourceType": "Organization", "name": "kept"})
        secrets = [{"name": "THEIRS", "valueString": "kept"}]
        look_alike.call("POST", f"admin/projects/{project}/secrets", secrets)  # type: ignore[arg-type]
        with opened(look_alike.environment) as target:
            target.rest("POST", "fhir/R4/Patient", {"resourceType": "Patient"})
            bot = {"name": "x", "description": "x", "runtimeVersion": "fission"}
            target.rest("POST", f"admin/projects/{project}/bot", bot)
            target.call("POST", f"admin/projects/{project}/secrets", [])  # type: ignore[arg-type]
        assert look_alike.search("Patient") == look_alike.search("Bot") == []
        assert [each["id"] for each in look_alike.search("Organization")] == [kept["id"]]
        assert look_alike.rest("GET", f"admin/projects/{project}")["project"]["secret"] == secrets
