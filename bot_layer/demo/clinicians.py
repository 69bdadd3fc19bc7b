"""The story's first part: clinicians are enrolled in Health Gorilla."""

from __future__ import annotations

from bot_layer.demo.scenario import Teller, action, codes
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


def tell(teller: Teller) -> None:
    """Deploy; enroll by REST, by $execute and by Subscription; add an account number; refuse a mismatch."""
    teller.chapter("Clinicians: $sync-practitioner")
    _deploy(teller)
    _enroll(teller)
    _execute(teller)
    _subscription(teller)
    _account_number(teller)
    _mismatch(teller)


def _deploy(teller: Teller) -> None:
    teller.login()
    # The clinic's people are there before the bots are: only later ones are enrolled by Subscription.
    teller.world.load_sample_people()
    plan = teller.command("deploy", "--all", "--dry-run")
    teller.expect("sync-practitioner" in plan, "deploy_bots.py --dry-run shows the plan")
    steps = [line for line in plan.splitlines() if line.startswith("  + ")]
    teller.console.print("\n".join(steps), style="dim", highlight=False, markup=False)
    teller.command("deploy", "--all")
    teller.step("deploy_bots.py carries it out")
    second = teller.command("deploy")
    teller.expect("no changes" in second.lower(), "deploy_bots.py again: no changes")


def _enroll(teller: Teller) -> None:
    joe = teller.sample("Practitioner", "joe")
    call = f"fhir/R4/Practitioner/{joe['id']}/$sync-practitioner"
    asked = {**_EMPTY, "parameter": [_named(joe), parameters.boolean("preview", True)]}
    preview = teller.rest("POST", "fhir/R4/Practitioner/$sync-practitioner", asked)
    teller.expect(not accounts_of(teller, joe), "POST Practitioner/$sync-practitioner with preview", codes(preview)[0])
    answer = teller.rest("POST", call, _EMPTY)
    teller.expect(action(answer) == "enrolled", "POST Practitioner/{id}/$sync-practitioner", action(answer))
    written = teller.sample("Practitioner", "joe")
    kept = [found["value"] for found in written["identifier"] if found.get("system") == _HEALTH_GORILLA]
    teller.expect(kept == [parameters.one(answer, "healthGorillaId")], "Health Gorilla id written back")
    logins = [extension["valueString"] for extension in written.get("extension", [])]
    teller.expect(logins == [parameters.one(answer, "login")], "login written back", logins[0])
    accounts = accounts_of(teller, joe)
    teller.expect(len(accounts) == 1 and len(_numbers(accounts[0])) == 1, "account number embedded from the start")

    teller.world.medplum.settle(timeout=30)
    writes = _writes(teller)
    again = teller.rest("POST", call, _EMPTY)
    teller.expect(action(again) == "unchanged", "the same call again", action(again))
    teller.expect(_writes(teller) == writes, "no write on either side")


def _execute(teller: Teller) -> None:
    hana = teller.sample("Practitioner", "hana")
    answer = teller.rest("POST", _EXECUTE, {**_EMPTY, "parameter": [_named(hana)]})
    teller.expect(
        action(answer) == "enrolled", "Bot/$execute?identifier=... with a practitioner parameter", action(answer)
    )


def _subscription(teller: Teller) -> None:
    teller.world.gorilla.directory.add(npi=_NEWCOMER, family="Tolliver", given=["Ada"], suffix=["MD"])
    person = {
        "resourceType": "Practitioner",
        "identifier": [{"system": _NPI, "value": _NEWCOMER}],
        "name": [{"family": "Tolliver", "given": ["Ada", "Beatrix"]}],
    }
    created = teller.rest("POST", "fhir/R4/Practitioner", person)
    teller.settled(
        lambda: len(accounts_of(teller, created)) == 1, "a Practitioner created in Medplum is enrolled by Subscription"
    )


def _account_number(teller: Teller) -> None:
    hana = teller.sample("Practitioner", "hana")
    laboratory = teller.sample("Organization", "laboratory")
    number = {
        "type": {"coding": [{"system": "http://hl7.org/fhir/v2/0203", "code": "AN"}]},
        "value": "67890",
        "assigner": {"reference": f"Organization/{laboratory['id']}"},
    }
    teller.rest("PUT", f"fhir/R4/Practitioner/{hana['id']}", {**hana, "identifier": [*hana["identifier"], number]})
    teller.settled(
        lambda: _numbers(accounts_of(teller, hana)[0]) == ["67890"],
        "an account number added in Medplum appears in Health Gorilla",
    )


def _mismatch(teller: Teller) -> None:
    siobhan = teller.sample("Practitioner", "siobhan")
    answer = teller.rest("POST", f"fhir/R4/Practitioner/{siobhan['id']}/$sync-practitioner", _EMPTY)
    teller.expect(action(answer) == "refused", "a name that is not the directory's is refused", codes(answer)[0])
    same = teller.sample("Practitioner", "siobhan")["meta"]["versionId"] == siobhan["meta"]["versionId"]
    teller.expect(same and not accounts_of(teller, siobhan), "and nothing is written")


def _named(practitioner: Json) -> Json:
    return parameters.reference("practitioner", f"Practitioner/{practitioner['id']}")


def _npi(resource: Json) -> list[str]:
    return [found["value"] for found in resource.get("identifier", []) if found.get("system") == _NPI]


def accounts_of(teller: Teller, practitioner: Json) -> list[Json]:
    """The person's accounts in Health Gorilla's tenant."""
    roles = teller.world.gorilla.roles()
    return [role for role in roles if any(_npi(person) == _npi(practitioner) for person in role["contained"])]


def _numbers(role: Json) -> list[str]:
    found = role["contained"][0]["identifier"]
    return [number["value"] for number in found if number.get("type", {}).get("text") == "Account number"]


def _writes(teller: Teller) -> int:
    """How often something was stored so far: token requests and bot calls are no writes."""
    medplum = [seen for seen in teller.world.medplum.requests if seen.method in {"PUT", "PATCH"}]
    gorilla = [
        seen for seen in teller.world.gorilla.requests if seen.method in {"PUT", "POST"} and "oauth" not in seen.path
    ]
    return len(medplum) + len(gorilla)
