"""Part four of the demo: sync a practice's data from Practice Fusion, with changes, deletions and a killed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from bot_layer.demo.scenario import Scenario, UnexpectedStep
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json

_OPERATION = "fhir/R4/Task/$pf-bulk-sync"
_PATIENT_ID = "https://practicefusion.com/fhir/patient-id"
_MOST_STEPS = 60
_KILL_SECONDS = 30.0


def run(scenario: Scenario) -> None:
    """Initial sync, a sync without changes, a change, a deletion, and a run that is killed and resumed."""
    scenario.section("Practice Fusion: $pf-bulk-sync")
    source = scenario.world.practice_fusion
    preview = scenario.rest("POST", _OPERATION, _call(parameters.boolean("preview", True)))
    scenario.expect(not _patients(scenario), "a preview counts and writes nothing", f"{_total(preview, 'seen')} seen")
    first = _run(scenario)
    brought = _patients(scenario)
    wanted = sorted(patient["id"] for patient in source.source.resources("Patient"))
    created = _total(first, "created")
    scenario.expect(sorted(brought) == wanted, "initial sync: each patient once", f"{created} resources created")

    second = _run(scenario)
    written = _total(second, "created") + _total(second, "updated")
    scenario.expect(written == 0, "incremental sync with nothing new", f"{written} written")

    source.source.change("Patient", wanted[0], {"birthDate": "1971-01-01"}, at=source.now())
    updated = _total(_run(scenario), "updated")
    scenario.expect(updated == 1, "a change arrives", f"{updated} updated")

    source.source.delete("Patient", wanted[1], at=source.now())
    _run(scenario)
    scenario.expect(wanted[1] not in _patients(scenario), "a deletion arrives")
    _killed(scenario)


def _run(scenario: Scenario) -> Json:
    """Call the bot until the run is done, as the timer would; returns the last answer."""
    for _ in range(_MOST_STEPS):
        answer = scenario.rest("POST", _OPERATION, _call(parameters.code("action", "start")))
        if parameters.one(answer, "status") == "done":
            # The Subscriptions of the other bots react to the imported data: wait for them before the next step.
            scenario.world.medplum.settle(timeout=60)
            return dict(answer)
    raise UnexpectedStep(f"the sync was not done after {_MOST_STEPS} steps")


def _killed(scenario: Scenario) -> None:
    """SIGKILL during loading; the next run finishes the interrupted one without duplicates."""
    source = scenario.world.practice_fusion
    for patient in source.source.resources("Patient"):
        source.source.change("Patient", patient["id"], {"language": "en-US"}, at=source.now())
    before = len(source.requests)
    quick = {"PF_LEASE_SECONDS": "1"}
    environment = {**os.environ, **scenario.world.environment(), **scenario.world.settings(), **quick}
    line = [sys.executable, "-m", "bot_layer.cli", "pf-sync", "--full", "--quiet"]
    with subprocess.Popen(  # noqa: S603  # our own command
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        until = time.monotonic() + _KILL_SECONDS
        while not _downloading(source.requests[before:]) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    scenario.step("medplum-bots pf-sync is killed in the middle of its files", f"exit {process.returncode}")
    scenario.command("pf-sync", "--quiet", settings={**scenario.world.settings(), **quick})
    left = sorted(patient["id"] for patient in source.source.resources("Patient"))
    scenario.expect(sorted(_patients(scenario)) == left, "started again, it finishes: each patient once")
    languages = {patient.get("language") for patient in _stored(scenario)}
    scenario.expect(languages == {"en-US"}, "and each change is there")


def _downloading(requests: list[Any]) -> bool:
    return any("/files/" in seen.path or "Binary/export" in seen.path for seen in requests)


def _stored(scenario: Scenario) -> list[Json]:
    found = scenario.rest("GET", f"fhir/R4/Patient?identifier={_PATIENT_ID}|&_count=100").get("entry", [])
    return [entry["resource"] for entry in found]


def _patients(scenario: Scenario) -> list[str]:
    """The source ids of the patients in Medplum, one for each resource."""
    return [
        identifier["value"]
        for patient in _stored(scenario)
        for identifier in patient["identifier"]
        if identifier.get("system") == _PATIENT_ID
    ]


def _total(answer: Json, name: str) -> int:
    """The sum of a count over all types of the report."""
    parts = [part for counts in parameters.values(answer, "counts") for part in counts]
    return sum(part["valueInteger"] for part in parts if part["name"] == name)


def _call(*entries: Json) -> Json:
    return {"resourceType": "Parameters", "parameter": list(entries)}
