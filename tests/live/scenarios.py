"""The scenarios, in order: each builds on the previous ones, as on an operator's first day."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import FederatedCaller, npi
from tests.contract.replay import CONTRACT
from tests.live.live_bots.live_timer import SYSTEM as TIMER
from tests.live.recorded import Contract
from tests.live.world import CLINIC, COLLECTIONS, FEDERATED_CLIENT, FEDERATED_SECRET, LIVE_BOTS, Live

Scenario = Callable[[Live], str]
_CATCH_UP = 10
_CALLS = 60
_PATIENT_ID = "https://practicefusion.com/fhir/patient-id"
_ECHO_JS = """exports.handler = async (medplum, event) => {
  return {resourceType: "Parameters", parameter: [{name: "action", valueCode: "echoed"}]};
};
"""


def contract(live: Live) -> str:
    """The recorded exchanges, answered as recorded or as this version is known to answer."""
    live.host.stop()
    try:
        replay = Contract(live.target)
        replay.run()
    finally:
        live.host.start()
    if not replay.steps:
        return f"not run: the recordings are not at {CONTRACT}"
    assert not replay.otherwise, f"{len(replay.otherwise)} of {replay.steps} steps: " + "\n".join(replay.otherwise)
    return (
        f"{replay.steps} steps: {replay.as_recorded} as recorded, {replay.as_known} as this version is known to; "
        f"not replayed: {len(replay.left_out)} recordings that need another project"
    )


def deployment(live: Live) -> str:
    """A plan, a deployment, and a second one that changes nothing."""
    assert "+ create     Bot" in live.deploy("--all", "--dry-run")
    live.deploy("--all")
    assert "No changes" in live.deploy("--all")
    return f"{len(live.target.search('Bot'))} bots"


def drift(live: Live) -> str:
    """An edit of a managed field is found, named and undone."""
    bot = live.bot("live/live-echo")
    live.target.rest("PUT", f"fhir/R4/Bot/{bot['id']}", {**bot, "timeout": 5})
    assert "timeout" in live.deploy("--all", "--drift", expect=3)
    live.deploy("--all")
    live.deploy("--all", "--drift")
    return "found and undone"


def doctor(live: Live) -> str:
    """Every finding says what to do; none is a failure here."""
    words = ("doctor", *COLLECTIONS, "--host", live.host.base_url, "--json")
    environment = {**os.environ, **live.target.environment}
    done = subprocess.run(
        [sys.executable, "-m", "bot_layer.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr  # 1: only warnings
    assert '"failed"' not in done.stdout, done.stdout
    return "no failure"


def practitioner_operation(live: Live) -> str:
    """$sync-practitioner on an instance, again, and on the type with a parameter."""
    number = npi(101)
    made = live.clinician(number, "Instancer")
    live.target.eventually(lambda: live.accounts(number) == 1, "enrolled by Subscription")
    path = f"Practitioner/{made['id']}/$sync-practitioner"
    again = _action(live.operation(path, _named("practitioner", made)))
    on_type = _action(live.operation("Practitioner/$sync-practitioner", _named("practitioner", made)))
    assert (again, on_type) == ("unchanged", "unchanged")
    assert live.accounts(number) == 1
    return "Subscription, instance and type"


def practitioner_execute(live: Live) -> str:
    """Bot/ID/$execute and Bot/$execute?identifier."""
    number = npi(102)
    made = live.clinician(number, "Executor")
    body = parameters.build(_named("practitioner", made))
    bot = live.bot("health-gorilla-labs/sync-practitioner")
    by_id = live.target.rest("POST", f"fhir/R4/Bot/{bot['id']}/$execute", body)
    by_identifier = live.execute("health-gorilla-labs/sync-practitioner", body).json()
    assert {_action(by_id), _action(by_identifier)} <= {"enrolled", "unchanged"}
    assert live.accounts(number) == 1
    return "by id and by identifier"


def refusal(live: Live) -> str:
    """A name that is not the directory's is refused with a code, and nothing is written."""
    number = npi(103)
    live.gorilla.directory.add(npi=number, family="Directory", given=["Ada"], suffix=["MD"])
    person = {
        "resourceType": "Practitioner",
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": number}],
        "name": [{"family": "Different", "given": ["Ada"]}],
    }
    made = live.target.rest("POST", "fhir/R4/Practitioner", person)
    body = parameters.build(_named("practitioner", made))
    # Since 5.1.22 a server may pass a refusal on as HTTP 400: both kinds are answers.
    answer = live.execute("health-gorilla-labs/sync-practitioner", body).json()
    assert "family-name-mismatch" in str(answer)
    assert live.accounts(number) == 0
    return "family-name-mismatch"


def practice(live: Live) -> str:
    """$create-staff-user, $sync-location and $check-health-gorilla."""
    staff = live.target.rest(
        "POST",
        "fhir/R4/Practitioner",
        {
            "resourceType": "Practitioner",
            "active": False,
            "name": [{"family": "Office", "given": ["Olive"]}],
            "telecom": [{"system": "email", "value": "olive@clinic.example"}],
        },
    )
    staff = live.target.rest("PUT", f"fhir/R4/Practitioner/{staff['id']}", {**staff, "active": True})
    role = [parameters.code("role", "officeManager"), parameters.code("securityRole", "staff")]
    created = live.operation("Practitioner/$create-staff-user", _named("practitioner", staff), *role)
    office = live.target.rest(
        "POST",
        "fhir/R4/Organization",
        {
            "resourceType": "Organization",
            "active": True,
            "name": "Live Office",
            "telecom": [{"system": "phone", "value": "409-555-0100"}],
            "address": [{"line": ["1572 Jungle"], "city": "Lumberton", "state": "TX", "postalCode": "77706"}],
        },
    )
    located = live.operation("Organization/$sync-location", _named("location", office))
    checked = live.operation("Practitioner/$check-health-gorilla", _named("practitioner", staff))
    assert (_action(created), _action(located)) == ("enrolled", "created")
    assert parameters.one(checked, "ok") is not None
    return "staff account, location, check"


def patients(live: Live) -> str:
    """A Patient is registered by Subscription, again by operation, and changed by an ADT message."""
    patient: Json = {
        "resourceType": "Patient",
        "identifier": [{"system": CLINIC, "value": "MRN-7"}],
        "name": [{"use": "official", "family": "Sommer", "given": ["Anna"]}],
        "gender": "female",
        "birthDate": "1980-02-29",
        "address": [{"line": ["12 Pine Road"], "city": "Santa Monica", "state": "CA", "postalCode": "90402"}],
    }
    made = live.target.rest("POST", "fhir/R4/Patient", patient)
    live.target.eventually(lambda: len(live.gorilla.patients()) == 1, "registered by Subscription")
    again = live.operation("Patient/$register-patient", _named("patient", made))
    assert _action(again) == "unchanged"
    message = "\r".join(
        [
            r"MSH|^~\&|EHR|NORTH|BOTS|SOUTH|20261122120000||ADT^A08^ADT_A01|C-1|P|2.5.1",
            "EVN||20261122120000",
            "PID|1||MRN-7^^^CLINIC^MR||Sommer^Anna||19800229|F|||99 Oak Street^^Santa Monica^CA^90402",
        ]
    )
    kind = "x-application/hl7-v2+er7"
    said = live.execute("health-gorilla-labs/register-patient", message, content_type=kind).text
    assert "MSA|AA|C-1" in said, said
    live.target.eventually(
        lambda: [each["address"][0]["line"] for each in live.gorilla.patients()] == [["99 Oak Street"]],
        "the new address is in the index",
    )
    live.notes["patient"] = made["id"]
    return "Subscription, operation, ADT"


def federated(live: Live) -> str:
    """The network's query through the route, and the same question to the bot."""
    patient = live.notes["patient"]
    binary = live.target.call("POST", "fhir/R4/Binary", "<ClinicalDocument/>", content_type="application/xml").json()
    document = {
        "resourceType": "DocumentReference",
        "status": "current",
        "subject": {"reference": f"Patient/{patient}"},
        "date": "2026-11-22T12:00:00Z",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34133-9"}]},
        "content": [{"attachment": {"contentType": "application/xml", "url": f"Binary/{binary['id']}"}}],
    }
    live.target.rest("POST", "fhir/R4/DocumentReference", document)
    base = f"{live.host.base_url}/federated"
    caller = FederatedCaller(
        f"{base}/oauth2/token", f"{base}/fhir/R4", FEDERATED_CLIENT, FEDERATED_SECRET, aud=f"{base}/fhir/R4"
    )
    (found,) = caller.query(patient)
    assert caller.fetch(found) == b"<ClinicalDocument/>"
    assert caller.query("nobody") == []
    return "token, query, document"


def bulk_sync(live: Live) -> str:
    """$pf-bulk-sync until it is done, a run that is killed in the middle, and the next that finishes it."""
    for _ in range(120):
        answer = live.operation("Task/$pf-bulk-sync", parameters.code("action", "start"))
        if parameters.one(answer, "status") == "done":
            break
    else:
        raise AssertionError(f"not done: {outcomes.codes(parameters.one(answer, 'outcome'))}")
    wanted = sorted(each["id"] for each in live.practice_fusion.source.resources("Patient"))
    assert _imported(live) == wanted
    source = live.practice_fusion
    for each in wanted:
        source.source.change("Patient", each, {"language": "en-US"}, at=source.now())
    seen = len(source.requests)
    environment = {**os.environ, **live.target.environment, **live.settings, "PF_LEASE_SECONDS": "1"}
    command = [sys.executable, "-m", "bot_layer.cli", "pf-sync", "--full", "--quiet"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=live.folder
    ) as process:
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if any("/files/" in each.path or "Binary/export" in each.path for each in source.requests[seen:]):
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    live.command("pf-sync", "--quiet", settings={**live.settings, "PF_LEASE_SECONDS": "1"})
    assert _imported(live) == wanted
    assert {each.get("language") for each in live.target.search(f"Patient?identifier={_PATIENT_ID}|")} == {"en-US"}
    return f"{len(wanted)} patients, each once after a kill"


def timer(live: Live) -> str:
    """The server's timer reaches the host."""
    live.target.next_minute()
    live.target.eventually(lambda: bool(live.target.search(f"Basic?identifier={TIMER}|ran")), "the timer", seconds=240)
    return "a bot ran by cron"


def catch_up(live: Live) -> str:
    """Changes made while the host was down are found when it is back, each exactly once."""
    live.host.stop(signal.SIGKILL)
    numbers = [npi(200 + each) for each in range(_CATCH_UP)]
    for each, number in enumerate(numbers):
        live.clinician(number, f"Missed{'abcdefghij'[each]}")
    live.host.start()
    live.target.eventually(lambda: all(live.accounts(number) for number in numbers), "all caught up", seconds=300)
    assert [live.accounts(number) for number in numbers] == [1] * _CATCH_UP
    return f"{_CATCH_UP} of {_CATCH_UP}, none twice"


def relay(live: Live) -> str:
    """The same bot through a relay of a few lines of JavaScript, signed and answered."""
    secrets = live.folder / "relay.env"
    secrets.write_text(f"BOT_RELAY_URL={live.host.base_url}\nBOT_RELAY_KEY={'0123456789abcdef' * 4}\n")
    words = ("deploy", "--bots", str(LIVE_BOTS), "--only", "live-echo", "--runtime", "relay", "--secrets", str(secrets))
    live.command(*words)
    body = parameters.build(parameters.string("text", "through the relay"))
    answer = live.execute("live/live-echo", body)
    assert answer.ok, answer.text
    assert parameters.one(answer.json(), "text") == "through the relay"
    live.command("deploy", "--bots", str(LIVE_BOTS), "--only", "live-echo", "--runtime", "fission")
    return "the answer comes back"


def latency(live: Live) -> str:
    """A call through the host compared with a JavaScript bot of the server, in turns; reported, not judged."""
    made = live.target.rest(
        "POST",
        f"admin/projects/{live.target.project_id}/bot",
        {"name": "live-js", "description": "a JavaScript bot to compare with", "runtimeVersion": "vmcontext"},
    )
    code = {"code": _ECHO_JS, "filename": "index.js"}
    live.target.rest("POST", f"fhir/R4/Bot/{made['id']}/$deploy", code)
    ids = {"python": live.bot("live/live-echo")["id"], "javascript": made["id"]}
    times: dict[str, list[float]] = {name: [] for name in ids}
    for _ in range(_CALLS):
        for name, bot in ids.items():
            began = time.perf_counter()
            live.target.rest("POST", f"fhir/R4/Bot/{bot}/$execute", parameters.build())
            times[name].append((time.perf_counter() - began) * 1000)
    python, javascript = (statistics.median(times[name][5:]) for name in ("python", "javascript"))
    return f"p50 {python:.1f} ms, JavaScript {javascript:.1f} ms: {python / javascript:.2f} times"


def rollback_and_prune(live: Live) -> str:
    """The last deployment is undone; pruning one collection does not touch the other."""
    ours_alone = ("deploy", "--bots", str(LIVE_BOTS))
    live.command(*ours_alone, "--only", "live-echo", "--runtime", "lambda")
    assert live.bot("live/live-echo")["runtimeVersion"] == "awslambda"
    live.command(*ours_alone, "--rollback")
    assert live.bot("live/live-echo")["runtimeVersion"] == "fission", "as before the last deployment"
    ours = {"live-echo", "live-timer", "live-js"}
    bundled = {bot["id"] for bot in live.target.search("Bot") if bot["name"] not in ours}
    fewer = live.folder / "live_bots"
    fewer.mkdir()
    (fewer / "live_timer.py").write_text((LIVE_BOTS / "live_timer.py").read_text())
    live.command("deploy", "--bots", str(fewer), "--prune")
    left = {bot["id"] for bot in live.target.search("Bot") if bot["name"] not in {"live-timer", "live-js"}}
    assert left == bundled, "live-echo is deleted, and the bundled bots are as they were"
    return "one collection alone"


SCENARIOS: dict[str, Scenario] = {
    "recorded contract": contract,
    "deploy, and again": deployment,
    "drift": drift,
    "sync-practitioner: Subscription, $operation": practitioner_operation,
    "sync-practitioner: $execute": practitioner_execute,
    "sync-practitioner: refusal": refusal,
    "staff, location, check": practice,
    "register-patient: Subscription, $operation, ADT": patients,
    "federated documents": federated,
    "pf-bulk-sync, with a kill": bulk_sync,
    "timer": timer,
    "doctor": doctor,
    "catch-up after a kill of the host": catch_up,
    "relay": relay,
    "latency": latency,
    "rollback, prune": rollback_and_prune,
}


def _named(name: str, resource: Json) -> Json:
    return parameters.reference(name, f"{resource['resourceType']}/{resource['id']}")


def _action(answer: Json) -> str:
    return str(parameters.one(answer, "action"))


def _imported(live: Live) -> list[str]:
    return sorted(
        identifier["value"]
        for patient in live.target.search(f"Patient?identifier={_PATIENT_ID}|")
        for identifier in patient["identifier"]
        if identifier.get("system") == _PATIENT_ID
    )
