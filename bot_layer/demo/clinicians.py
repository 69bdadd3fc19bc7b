"""Parts one and two of the demo: clinicians, staff and locations in Health Gorilla."""

from __future__ import annotations

from bot_layer.demo.scenario import Scenario, execute_path, named
from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json

_OPERATION = "Practitioner/$sync-practitioner"
_NPI = "http://hl7.org/fhir/sid/us-npi"
_HEALTH_GORILLA = "https://www.healthgorilla.com"
_NEWCOMER = "1000000236"


def run(scenario: Scenario) -> None:
    """Deploy; enroll clinicians in each way, change them, refuse a mismatch; then staff and locations."""
    scenario.section("Clinicians: $sync-practitioner")
    _deploy(scenario)
    _enroll(scenario)
    _other_ways(scenario)
    _mismatch(scenario)
    scenario.section("The practice: $create-staff-user, $sync-location, $check-health-gorilla")
    _practice(scenario)


def _deploy(scenario: Scenario) -> None:
    scenario.login()
    # The clinic's people exist before the bots are deployed: only later ones are enrolled by Subscription.
    scenario.world.load_sample_people()
    plan = scenario.command("deploy", "--all", "--dry-run")
    scenario.expect("sync-practitioner" in plan, "deploy_bots.py --dry-run shows the plan")
    steps = [line for line in plan.splitlines() if line.startswith("  + ")]
    scenario.console.print("\n".join(steps), style="dim", highlight=False, markup=False)
    deployed = scenario.command("deploy", "--all")
    scenario.expect("Deployed" in deployed, "deploy_bots.py carries it out")
    scenario.expect("No changes" in scenario.command("deploy"), "deploy_bots.py again: no changes")


def _enroll(scenario: Scenario) -> None:
    joe = scenario.sample("Practitioner", "joe")
    preview = scenario.rest(
        "POST", _OPERATION, parameters.build(named("practitioner", joe), parameters.boolean("preview", True))
    )
    scenario.expect(not _accounts(scenario, joe), f"POST {_OPERATION} with preview", _code(preview))
    call = f"Practitioner/{joe['id']}/$sync-practitioner"
    answer = scenario.call(call, action="enrolled", text="POST Practitioner/{id}/$sync-practitioner")
    written = scenario.sample("Practitioner", "joe")
    ids = [found["value"] for found in written["identifier"] if found.get("system") == _HEALTH_GORILLA]
    scenario.expect(ids == [parameters.one(answer, "healthGorillaId")], "Health Gorilla id written back")
    logins = [extension["valueString"] for extension in written.get("extension", [])]
    scenario.expect(logins == [parameters.one(answer, "login")], "login written back", logins[0])
    (account,) = _accounts(scenario, joe)
    scenario.expect(len(_numbers(account)) == 1, "account number embedded from the start")

    scenario.world.medplum.settle(timeout=30)
    writes = _writes(scenario)
    scenario.call(call, action="unchanged", text="the same call again")
    scenario.expect(_writes(scenario) == writes, "no write on either side")


def _other_ways(scenario: Scenario) -> None:
    hana = scenario.sample("Practitioner", "hana")
    scenario.call(
        execute_path("health-gorilla-labs/sync-practitioner"),
        named("practitioner", hana),
        action="enrolled",
        text="Bot/$execute?identifier=... with a practitioner parameter",
    )
    scenario.world.gorilla.directory.add(npi=_NEWCOMER, family="Tolliver", given=["Ada"], suffix=["MD"])
    person = {
        "resourceType": "Practitioner",
        "identifier": [{"system": _NPI, "value": _NEWCOMER}],
        "name": [{"family": "Tolliver", "given": ["Ada", "Beatrix"]}],
    }
    created = scenario.rest("POST", "Practitioner", person)
    text = "a Practitioner created in Medplum is enrolled by Subscription"
    scenario.settled(lambda: len(_accounts(scenario, created)) == 1, text)

    hana, laboratory = scenario.sample("Practitioner", "hana"), scenario.sample("Organization", "laboratory")
    number = {
        "type": {"coding": [{"system": "http://hl7.org/fhir/v2/0203", "code": "AN"}]},
        "value": "67890",
        "assigner": {"reference": f"Organization/{laboratory['id']}"},
    }
    scenario.rest("PUT", f"Practitioner/{hana['id']}", {**hana, "identifier": [*hana["identifier"], number]})
    text = "an account number added in Medplum appears in Health Gorilla"
    scenario.settled(lambda: _numbers(_accounts(scenario, hana)[0]) == ["67890"], text)


def _mismatch(scenario: Scenario) -> None:
    siobhan = scenario.sample("Practitioner", "siobhan")
    answer = scenario.rest("POST", f"Practitioner/{siobhan['id']}/$sync-practitioner", parameters.build())
    is_refused = parameters.one(answer, "action") == "refused"
    scenario.expect(is_refused, "a name that is not the directory's is refused", _code(answer))
    same = scenario.sample("Practitioner", "siobhan")["meta"]["versionId"] == siobhan["meta"]["versionId"]
    scenario.expect(same and not _accounts(scenario, siobhan), "and nothing is written")


def _practice(scenario: Scenario) -> None:
    """Check the connection, create a staff account and two locations, and move a clinician between them."""
    joe = named("practitioner", scenario.sample("Practitioner", "joe"))
    checked = scenario.rest("POST", "Practitioner/$check-health-gorilla", parameters.build(joe))
    scenario.expect(parameters.one(checked, "ok") is True, "$check-health-gorilla finds all in order")
    staff = (
        named("practitioner", scenario.sample("Practitioner", "staff")),
        parameters.code("role", "officeManager"),
        parameters.code("securityRole", "staff"),
    )
    text = "$create-staff-user for somebody without NPI"
    scenario.call("Practitioner/$create-staff-user", *staff, action="enrolled", text=text)
    scenario.call("Practitioner/$create-staff-user", *staff, action="unchanged", text="the same call again")
    offices = []
    for name in ("Lumberton Office", "Rain Forest Office"):
        office = {
            "resourceType": "Organization",
            "active": True,
            "name": name,
            "telecom": [{"system": "phone", "value": "409-555-0100"}],
            "address": [{"line": ["1572 Jungle"], "city": "Lumberton", "state": "TX", "postalCode": "77706"}],
        }
        offices.append(named("location", scenario.rest("POST", "Organization", office)))
        scenario.call("Organization/$sync-location", offices[-1], action="created", text=f"$sync-location: {name}")
    for location in offices:
        scenario.call(_OPERATION, joe, location, action="updated", text="the clinician works at that office")
    (account,) = _accounts(scenario, scenario.sample("Practitioner", "joe"))
    scenario.expect(len(account["location"]) == 1, "the list given replaces the list there")


def _code(answer: Json) -> str:
    return outcomes.codes(parameters.one(answer, "outcome") or {})[0]


def _npi(resource: Json) -> list[str]:
    return [found["value"] for found in resource.get("identifier", []) if found.get("system") == _NPI]


def _accounts(scenario: Scenario, practitioner: Json) -> list[Json]:
    """The person's accounts in Health Gorilla's tenant."""
    roles = scenario.world.gorilla.roles()
    return [role for role in roles if any(_npi(person) == _npi(practitioner) for person in role["contained"])]


def _numbers(role: Json) -> list[str]:
    found = role["contained"][0]["identifier"]
    return [number["value"] for number in found if number.get("type", {}).get("text") == "Account number"]


def _writes(scenario: Scenario) -> int:
    """The number of writes so far: token requests and bot calls do not count."""
    medplum = [seen for seen in scenario.world.medplum.requests if seen.method in {"PUT", "PATCH"}]
    gorilla = [
        seen for seen in scenario.world.gorilla.requests if seen.method in {"PUT", "POST"} and "oauth" not in seen.path
    ]
    return len(medplum) + len(gorilla)
