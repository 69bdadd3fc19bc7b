"""Part one of the demo: enroll clinicians in Health Gorilla."""

from __future__ import annotations

from bot_layer.demo.scenario import Scenario, action, codes
from bot_layer.fhir import parameters
from bot_layer.fhir.json import Json

_EXECUTE = (
    "fhir/R4/Bot/$execute?identifier=https://www.medplum.com/integrations/bot-identifier"
    "|health-gorilla-labs/sync-practitioner"
)
_EMPTY: Json = {"resourceType": "Parameters", "parameter": []}
_NPI = "http://hl7.org/fhir/sid/us-npi"
_HEALTH_GORILLA = "https://www.healthgorilla.com"
_NEWCOMER = "1000000236"


def run(scenario: Scenario) -> None:
    """Deploy; enroll by REST, by $execute and by Subscription; add an account number; refuse a mismatch."""
    scenario.section("Clinicians: $sync-practitioner")
    _deploy(scenario)
    _enroll(scenario)
    _execute(scenario)
    _subscription(scenario)
    _account_number(scenario)
    _mismatch(scenario)


def _deploy(scenario: Scenario) -> None:
    scenario.login()
    # The clinic's people exist before the bots are deployed: only later ones are enrolled by Subscription.
    scenario.world.load_sample_people()
    plan = scenario.command("deploy", "--all", "--dry-run")
    scenario.expect("sync-practitioner" in plan, "deploy_bots.py --dry-run shows the plan")
    steps = [line for line in plan.splitlines() if line.startswith("  + ")]
    scenario.console.print("\n".join(steps), style="dim", highlight=False, markup=False)
    scenario.command("deploy", "--all")
    scenario.step("deploy_bots.py carries it out")
    second = scenario.command("deploy")
    scenario.expect("no changes" in second.lower(), "deploy_bots.py again: no changes")


def _enroll(scenario: Scenario) -> None:
    joe = scenario.sample("Practitioner", "joe")
    call = f"fhir/R4/Practitioner/{joe['id']}/$sync-practitioner"
    asked = {**_EMPTY, "parameter": [_named(joe), parameters.boolean("preview", True)]}
    preview = scenario.rest("POST", "fhir/R4/Practitioner/$sync-practitioner", asked)
    scenario.expect(
        not accounts_of(scenario, joe), "POST Practitioner/$sync-practitioner with preview", codes(preview)[0]
    )
    answer = scenario.rest("POST", call, _EMPTY)
    scenario.expect(action(answer) == "enrolled", "POST Practitioner/{id}/$sync-practitioner", action(answer))
    written = scenario.sample("Practitioner", "joe")
    kept = [found["value"] for found in written["identifier"] if found.get("system") == _HEALTH_GORILLA]
    scenario.expect(kept == [parameters.one(answer, "healthGorillaId")], "Health Gorilla id written back")
    logins = [extension["valueString"] for extension in written.get("extension", [])]
    scenario.expect(logins == [parameters.one(answer, "login")], "login written back", logins[0])
    accounts = accounts_of(scenario, joe)
    scenario.expect(len(accounts) == 1 and len(_numbers(accounts[0])) == 1, "account number embedded from the start")

    scenario.world.medplum.settle(timeout=30)
    writes = _writes(scenario)
    again = scenario.rest("POST", call, _EMPTY)
    scenario.expect(action(again) == "unchanged", "the same call again", action(again))
    scenario.expect(_writes(scenario) == writes, "no write on either side")


def _execute(scenario: Scenario) -> None:
    hana = scenario.sample("Practitioner", "hana")
    answer = scenario.rest("POST", _EXECUTE, {**_EMPTY, "parameter": [_named(hana)]})
    scenario.expect(
        action(answer) == "enrolled", "Bot/$execute?identifier=... with a practitioner parameter", action(answer)
    )


def _subscription(scenario: Scenario) -> None:
    scenario.world.gorilla.directory.add(npi=_NEWCOMER, family="Tolliver", given=["Ada"], suffix=["MD"])
    person = {
        "resourceType": "Practitioner",
        "identifier": [{"system": _NPI, "value": _NEWCOMER}],
        "name": [{"family": "Tolliver", "given": ["Ada", "Beatrix"]}],
    }
    created = scenario.rest("POST", "fhir/R4/Practitioner", person)
    scenario.settled(
        lambda: len(accounts_of(scenario, created)) == 1,
        "a Practitioner created in Medplum is enrolled by Subscription",
    )


def _account_number(scenario: Scenario) -> None:
    hana = scenario.sample("Practitioner", "hana")
    laboratory = scenario.sample("Organization", "laboratory")
    number = {
        "type": {"coding": [{"system": "http://hl7.org/fhir/v2/0203", "code": "AN"}]},
        "value": "67890",
        "assigner": {"reference": f"Organization/{laboratory['id']}"},
    }
    scenario.rest("PUT", f"fhir/R4/Practitioner/{hana['id']}", {**hana, "identifier": [*hana["identifier"], number]})
    scenario.settled(
        lambda: _numbers(accounts_of(scenario, hana)[0]) == ["67890"],
        "an account number added in Medplum appears in Health Gorilla",
    )


def _mismatch(scenario: Scenario) -> None:
    siobhan = scenario.sample("Practitioner", "siobhan")
    answer = scenario.rest("POST", f"fhir/R4/Practitioner/{siobhan['id']}/$sync-practitioner", _EMPTY)
    scenario.expect(action(answer) == "refused", "a name that is not the directory's is refused", codes(answer)[0])
    same = scenario.sample("Practitioner", "siobhan")["meta"]["versionId"] == siobhan["meta"]["versionId"]
    scenario.expect(same and not accounts_of(scenario, siobhan), "and nothing is written")


def _named(practitioner: Json) -> Json:
    return parameters.reference("practitioner", f"Practitioner/{practitioner['id']}")


def _npi(resource: Json) -> list[str]:
    return [found["value"] for found in resource.get("identifier", []) if found.get("system") == _NPI]


def accounts_of(scenario: Scenario, practitioner: Json) -> list[Json]:
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
