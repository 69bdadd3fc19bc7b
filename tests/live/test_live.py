"""The live scenarios against the look-alike, to show that they work when a real server is available."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum import MedplumSandbox
from tests.contract.replay import CONTRACT
from tests.live import recorded
from tests.live.__main__ import nothing_left, trial
from tests.live.scenarios import SCENARIOS
from tests.live.target import Refused, Target, left_as_found, opened
from tests.live.world import started

# A comparison of speeds means nothing on a sandbox; the recordings have a test of their own (tests/contract).
NAMES = [name for name in SCENARIOS if name not in {"latency", "recorded contract"}]
QUICK = ("12-crud-if-match", "46-body-size", "60-fission-execute", "85-async-execute")


@pytest.fixture
def target() -> Iterator[Target]:
    """A project of a look-alike."""
    with MedplumSandbox(quota=1_000_000_000, auth_rate_limit=1_000_000_000) as running:
        yield Target(running.base_url, running.client_id, running.client_secret, 0, running)


def test_every_scenario_holds_and_nothing_is_left(target: Target, tmp_path: Path) -> None:
    """In order, each building on the previous ones; afterwards every type has as many resources as before."""
    with left_as_found(target), started(target, tmp_path) as live:
        rows = trial(live, NAMES)
    assert [(name, found) for name, held, found, _ in rows if not held] == []
    assert nothing_left(target)[1], target.left


def test_leftover_resources_are_reported(target: Target) -> None:
    """A resource that the trial could not delete is named, and the trial failed."""
    with left_as_found(target):
        made = target.rest("POST", "fhir/R4/Basic", {"resourceType": "Basic", "code": {"text": "x"}})
        target.before |= {f"Basic/{made['id']}"}
    assert nothing_left(target)[1:3] == (False, "+1 Basic")


def test_a_project_with_patients_is_refused(target: Target) -> None:
    """If there are Patients, nothing is tried; if the login is incomplete, the message says what to set."""
    target.login()
    target.rest("POST", "fhir/R4/Patient", {"resourceType": "Patient"})
    with pytest.raises(Refused, match="thrown away"), opened(target.environment):
        pass
    with pytest.raises(Refused, match="MEDPLUM_CLIENT_ID"), opened({"MEDPLUM_BASE_URL": target.base_url}):
        pass
    assert len(target.search("Patient")) == 1


def test_a_project_is_left_as_it_was(target: Target) -> None:
    """Everything that was created is deleted, and the project's secrets are restored."""
    target.login()
    kept = target.rest("POST", "fhir/R4/Organization", {"resourceType": "Organization", "name": "kept"})
    secrets: list[Json] = [{"name": "THEIRS", "valueString": "kept"}]
    target.set_secrets(secrets)
    with opened(target.environment) as trial_target:
        trial_target.rest("POST", "fhir/R4/Patient", {"resourceType": "Patient"})
        bot = {"name": "x", "description": "x", "runtimeVersion": "fission"}
        trial_target.rest("POST", f"admin/projects/{target.project_id}/bot", bot)
        trial_target.set_secrets([])
    assert trial_target.left == {}
    assert target.search("Patient") == target.search("Bot") == []
    assert [each["id"] for each in target.search("Organization")] == [kept["id"]]
    assert target.rest("GET", f"admin/projects/{target.project_id}")["project"]["secret"] == secrets


@pytest.mark.skipif(not CONTRACT.exists(), reason="the recordings are not beside this checkout")
def test_the_recordings_are_replayed_on_any_server(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What differs from the recording as the server's version does is known; what differs otherwise is named."""
    for name in QUICK:
        shutil.copy(CONTRACT / f"{name}.json", tmp_path)
    monkeypatch.setattr(recorded, "CONTRACT", tmp_path)
    with left_as_found(target):
        here = recorded.Contract(target)
        here.run()
        target.version = "5.0.10"
        pretends = recorded.Contract(target)
        pretends.run()
    assert here.otherwise == []
    assert here.as_known > 0, "a body that is too large is 413 since 5.1"
    assert here.as_recorded + here.as_known == here.steps > 30
    assert any("46-body-size" in each for each in pretends.otherwise)
    assert target.left.keys() <= {"AuditEvent"}
