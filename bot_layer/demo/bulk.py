"""Part four of the demo: sync a practice's data from Practice Fusion, with changes, deletions and a killed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from bot_layer.demo.scenario import Scenario, UnexpectedStep
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json

_OPERATION = "Task/$pf-bulk-sync"
_PATIENT_ID = "https://practicefusion.com/fhir/patient-id"
_MOST_STEPS = 60
_KILL_SECONDS = 30.0


def run(scenario: Scenario) -> None:
    """Initial sync, a sync without changes, a change, a deletion, and a run that is killed and resumed."""
    scenario.section("Practice Fusion: $pf-bulk-sync")
    sandbox = scenario.world.practice_fusion
    source = sandbox.source
    preview = scenario.rest("POST", _OPERATION, parameters.build(parameters.boolean("preview", True)))
    scenario.expect(not _patients(scenario), "a preview counts and writes nothing", f"{_total(preview, 'seen')} seen")
    first = _run(scenario)
    wanted = sorted(patient["id"] for patient in source.resources("Patient"))
    created = f"{_total(first, 'created')} resources created"
    scenario.expect(sorted(_patients(scenario)) == wanted, "initial sync: each patient once", created)

    second = _run(scenario)
    written = _total(second, "created") + _total(second, "updated")
    scenario.expect(written == 0, "incremental sync with nothing new", f"{written} written")

    source.change("Patient", wanted[0], {"birthDate": "1971-01-01"}, at=sandbox.now())
    updated = _total(_run(scenario), "updated")
    scenario.expect(updated == 1, "a change arrives", f"{updated} updated")

    source.delete("Patient", wanted[1], at=sandbox.now())
    _run(scenario)
    scenario.expect(wanted[1] not in _patients(scenario), "a deletion arrives")
    _killed(scenario)


def _run(scenario: Scenario) -> Json:
    """Call the bot until the run is done, as the timer would; returns the last answer."""
    for _ in range(_MOST_STEPS):
        answer: Json = scenario.rest("POST", _OPERATION, parameters.build(parameters.code("action", "start")))
        if parameters.one(answer, "status") == "done":
            # The Subscriptions of the other bots react to the imported data: wait for them before the next step.
            scenario.world.medplum.settle(timeout=60)
            return answer
    raise UnexpectedStep(f"the sync was not done after {_MOST_STEPS} steps")


def _killed(scenario: Scenario) -> None:
    """SIGKILL during loading; the next run finishes the interrupted one without duplicates."""
    sandbox = scenario.world.practice_fusion
    for patient in sandbox.source.resources("Patient"):
        sandbox.source.change("Patient", patient["id"], {"language": "en-US"}, at=sandbox.now())
    before = len(sandbox.requests)
    settings = {**scenario.world.settings(), "PF_LEASE_SECONDS": "1"}
    with subprocess.Popen(  # our own command
        [sys.executable, "-m", "bot_layer.cli", "pf-sync", "--full", "--quiet"],
        env={**os.environ, **scenario.world.environment(), **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + _KILL_SECONDS
        while process.poll() is None and time.monotonic() < until:
            if any("/files/" in seen.path or "Binary/export" in seen.path for seen in sandbox.requests[before:]):
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    is_killed = process.returncode == -signal.SIGKILL
    when = "is killed in the middle of its files" if is_killed else "ended before it could be killed"
    scenario.expect(True, f"medplum-bots pf-sync {when}", f"exit {process.returncode}")
    scenario.command("pf-sync", "--quiet", settings=settings)
    left = sorted(patient["id"] for patient in sandbox.source.resources("Patient"))
    scenario.expect(sorted(_patients(scenario)) == left, "started again, it finishes: each patient once")
    languages = {patient.get("language") for patient in _stored(scenario)}
    scenario.expect(languages == {"en-US"}, "and each change is in Medplum")


def _stored(scenario: Scenario) -> list[Json]:
    found = scenario.rest("GET", f"Patient?identifier={_PATIENT_ID}|&_count=100").get("entry", [])
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
