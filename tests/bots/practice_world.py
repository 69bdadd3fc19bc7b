"""Both look-alikes and a bot: a test stores resources, calls the bot, and checks both sides."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bot_layer.bot.handler import Handler
from bot_layer.fhir import outcomes
from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one, values
from medplum_sandbox.faults import Faults
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, Switches, npi
from medplum_sandbox.health_gorilla.wire import Answer, Ask
from medplum_sandbox.medplum import MedplumSandbox
from tests import loopback
from tests.cases import Bindings, Case, partner_bindings

HG = "https://www.healthgorilla.com"
NPI = "http://hl7.org/fhir/sid/us-npi"
LOGIN = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/hg-practitioner-login"
PASSWORD = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/hg-practitioner-password"
SECURITY_ROLE = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/practitionerrole-security-role"
OLD_SECURITY_ROLE = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/practitionalrole-security-role"
LOCATION = "https://medplum.com/integrations/health-gorilla/practitioner-location"
LAB_ACCOUNT = "https://medplum.com/integrations/health-gorilla/lab-org-account"
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"


class ListeningGorilla(HealthGorillaSandbox):
    """The look-alike, which also records the bodies that it receives, so that a test can compare them."""

    def __init__(self, **options: Any) -> None:
        self.heard: list[tuple[str, str, Json]] = []
        self.instead: dict[tuple[str, str], Answer] = {}
        super().__init__(**options)

    def _answer(self, ask: Ask, url: str) -> Answer:
        if ask.method in {"POST", "PUT"} and "/fhir/" in ask.path:
            self.heard.append((ask.method, ask.path, json.loads(ask.body)))
        # Answers in place of the look-alike's own, by method and the end of the path.
        odd = (
            answer for (method, end), answer in self.instead.items() if ask.method == method and ask.path.endswith(end)
        )
        return next(odd, None) or super()._answer(ask, url)

    def sent(self, method: str, resource_type: str = "PractitionerRole") -> list[Json]:
        """The bodies of this method for this type, in order."""
        return [body for kind, path, body in self.heard if kind == method and f"/{resource_type}" in path]


class World:
    """Medplum and Health Gorilla on loopback, and the way to call a bot as Medplum does."""

    def __init__(self, medplum: MedplumSandbox, gorilla: ListeningGorilla) -> None:
        self.medplum = medplum
        self.gorilla = gorilla
        self.token = medplum.token_for()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/fhir+json"}
        self._http = loopback.client(base_url=medplum.base_url, headers=headers)

    def close(self) -> None:
        """Closes the test's own connection."""
        self._http.close()

    def store(self, resource: Json) -> Json:
        """The resource as Medplum stored it."""
        answer = self._http.post(f"fhir/R4/{resource['resourceType']}", json=resource)
        assert answer.status_code == 201, answer.text
        stored: Json = answer.json()
        return stored

    def read(self, resource: Json) -> Json:
        """The stored resource as it is now."""
        answer = self._http.get(f"fhir/R4/{resource['resourceType']}/{resource['id']}")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def put(self, resource: Json) -> Json:
        """The resource after a user's edit."""
        answer = self._http.put(f"fhir/R4/{resource['resourceType']}/{resource['id']}", json=resource)
        assert answer.status_code == 200, answer.text
        changed: Json = answer.json()
        return changed

    def everything(self, resource_type: str) -> str:
        """All versions of Medplum's resources of a type, as text."""
        found = self._http.get(f"fhir/R4/{resource_type}", params={"_count": "100"}).json()
        texts = [json.dumps(found)]
        for entry in found.get("entry", []):
            texts.append(self._http.get(f"fhir/R4/{resource_type}/{entry['resource']['id']}/_history").text)
        return "\n".join(texts)

    def event(self, given: Any, **secrets: str) -> Json:
        """Medplum's envelope with the settings of the look-alike and fast retries."""
        settings = {**self.gorilla.settings(), "BOT_BACKOFF_SECONDS": "0", "BOT_LONGEST_WAIT_SECONDS": "0", **secrets}
        settings = {name: value for name, value in settings.items() if value}
        return {
            "bot": {"reference": "Bot/00000000-0000-4000-8000-000000000001"},
            "baseUrl": f"{self.medplum.base_url}/",
            "accessToken": self.token,
            "input": given,
            "contentType": "application/fhir+json",
            "secrets": {name: {"name": name, "valueString": value} for name, value in settings.items()},
        }

    def call(self, handler: Handler, *entries: Json, secrets: Mapping[str, str] | None = None) -> Json:
        """The answer to Parameters with these entries."""
        given = {"resourceType": "Parameters", "parameter": list(entries)}
        return handler(self.event(given, **(secrets or {})))

    def play(self, handler: Handler, case: Case) -> tuple[Json, Bindings]:
        """The answer to a case's event, its resources stored before, and the values of the placeholders."""
        bound = self.bound(case)
        event = bound.bind(case.read("event.json"))
        answer = handler({**self.event(None), **event, "secrets": {**self.event(None)["secrets"], **event["secrets"]}})
        return answer, bound

    def bound(self, case: Case) -> Bindings:
        """What the placeholders stand for, once the case's resources are stored."""
        bound = Bindings({"<medplum>": self.medplum.base_url, "<token>": self.token, **partner_bindings(self.gorilla)})
        for resource in case.stored:
            named = resource.pop("id")
            bound.values[named] = self.store(bound.bind(resource))["id"]
        return bound

    def account(self) -> Json:
        """The one account that Health Gorilla has, whole."""
        (role,) = self.gorilla.roles()
        return role


@contextmanager
def world(switches: Switches | None = None, *, faults: Faults | None = None, quota: int = 1_000_000) -> Iterator[World]:
    """Both look-alikes, started."""
    with MedplumSandbox(quota=quota) as medplum, ListeningGorilla(switches=switches, faults=faults) as gorilla:
        made = World(medplum, gorilla)
        try:
            yield made
        finally:
            made.close()


def clinician(seed: int = 1, **changes: Any) -> Json:
    """A Practitioner of Medplum who is in the NPI directory of the look-alike (people.py has their names)."""
    base: Json = {
        "resourceType": "Practitioner",
        "identifier": [{"system": NPI, "value": npi(seed)}],
        "name": [{"family": "Gorilla", "given": ["Joe"]}],
    }
    return {**base, **copy.deepcopy(changes)}


def staff(**changes: Any) -> Json:
    """A Practitioner of Medplum without NPI."""
    return {
        "resourceType": "Practitioner",
        "name": [{"family": "Deskwright", "given": ["Flora"]}],
        **copy.deepcopy(changes),
    }


def organization(health_gorilla_id: str | None = None, **changes: Any) -> Json:
    """An Organization of Medplum with a Health Gorilla id."""
    identifiers = [{"system": HG, "value": health_gorilla_id}] if health_gorilla_id else []
    base: Json = {"resourceType": "Organization", "name": "Lumberton Office"}
    return {**base, **({"identifier": identifiers} if identifiers else {}), **copy.deepcopy(changes)}


def account_number(laboratory: Json, value: str) -> Json:
    """An account number as Medplum stores it."""
    return {
        "type": {"coding": [{"system": V2_0203, "code": "AN"}]},
        "value": value,
        "assigner": {"reference": f"Organization/{laboratory['id']}"},
    }


def named(name: str, resource: Json) -> Json:
    """A parameter that refers to a stored resource."""
    return {"name": name, "valueReference": {"reference": f"{resource['resourceType']}/{resource['id']}"}}


def text(name: str, value: str) -> Json:
    """A parameter of text."""
    return {"name": name, "valueString": value}


def action(answer: Json) -> str:
    """What was done."""
    return str(one(answer, "action"))


def codes(answer: Json) -> list[str]:
    """The codes of the answer's outcome."""
    return outcomes.codes(one(answer, "outcome"))


def differences(answer: Json) -> list[str]:
    """What a preview says would change."""
    return [str(found) for found in values(answer, "difference")]


def differing(switches: Switches) -> str:
    """The name of a combination in a test's id: what differs from the defaults, the same in every process."""
    plain = Switches()
    changed = {name: value for name, value in vars(switches).items() if value != getattr(plain, name)}
    shown = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in changed.items()}
    return ",".join(f"{name}={value}" for name, value in shown.items()) or "defaults"
