"""A clinic for the tests of registration: the two look-alikes, and the events that reach the bot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bot_layer.fhir import outcomes, parameters
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import Medplum, connect_client
from medplum_sandbox.faults import Faults
from medplum_sandbox.health_gorilla.sandbox import HealthGorillaSandbox
from medplum_sandbox.health_gorilla.switches import Switches
from medplum_sandbox.medplum.sandbox import MedplumSandbox

SYSTEM = "https://clinic.example"
MRN = "https://clinic.example/mrn"
ADDRESS: Json = {"use": "home", "line": ["12 Pine Road"], "city": "Santa Monica", "state": "CA", "postalCode": "90402"}


def person(**changes: Any) -> Json:
    """An invented patient with all that registration needs; a change to None takes an element away."""
    whole: Json = {
        "resourceType": "Patient",
        "active": True,
        "name": [{"use": "official", "family": "Sommer", "given": ["Anna"]}],
        "gender": "female",
        "birthDate": "1980-02-29",
        "address": [ADDRESS],
        "telecom": [{"system": "phone", "value": "(310) 555-0142", "use": "mobile"}],
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


@dataclass
class Clinic:
    """Both servers, and a bot's token."""

    medplum: MedplumSandbox
    gorilla: HealthGorillaSandbox
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def server(self) -> Medplum:
        """Medplum as the clinic's own client."""
        return connect_client(self.medplum.base_url, self.medplum.client_id, self.medplum.client_secret)

    def event(self, given: Any, *, content_type: str = "application/fhir+json", headers: Json | None = None) -> Json:
        """Medplum's envelope around an input."""
        secrets = {**self.gorilla.settings(), "FEDERATED_PATIENT_SYSTEM": SYSTEM, "BOT_BACKOFF_SECONDS": "0"}
        return {
            "bot": {"reference": "Bot/5a9dbc00-0000-4000-8000-00000000000b"},
            "baseUrl": f"{self.medplum.base_url}/",
            "accessToken": self.medplum.token_for(),
            "input": given,
            "contentType": content_type,
            "secrets": {
                name: {"name": name, "valueString": value} for name, value in (secrets | self.settings).items()
            },
            "headers": headers or {},
        }

    def asked(self, patient: Json, **flags: bool) -> Json:
        """A call of the operation for a stored patient."""
        entries = [parameters.boolean(name, value) for name, value in flags.items()]
        return self.event(parameters.build(parameters.reference("patient", f"Patient/{patient['id']}"), *entries))

    def subscribed(self, patient: Json, interaction: str = "update") -> Json:
        """What a Subscription on Patient sends."""
        headers = {"X-Medplum-Subscription": "Subscription/1", "X-Medplum-Interaction": interaction}
        given = {"deletedResource": patient} if interaction == "delete" else patient
        return self.event(given, headers=headers)

    def message(self, text: str) -> Json:
        """An HL7 message as an agent delivers it."""
        return self.event(text, content_type="x-application/hl7-v2+er7")

    def records(self) -> tuple[list[Json], list[Json]]:
        """Every Patient here and in the index with its version: equal before and after, nothing was written."""
        return self.server.search("Patient", [("_count", "100"), ("_sort", "_id")]), self.gorilla.patients()


@contextmanager
def clinic(*, switches: Switches | None = None, faults: Faults | None = None, **settings: str) -> Iterator[Clinic]:
    """A separate clinic for one test."""
    with MedplumSandbox() as medplum, HealthGorillaSandbox(switches=switches, faults=faults) as gorilla:
        yield Clinic(medplum, gorilla, settings)


def action(answer: Json) -> str:
    """What was done."""
    return str(parameters.one(answer, "action"))


def codes(answer: Json) -> list[str]:
    """The machine-readable codes of the answer's outcome."""
    return outcomes.codes(parameters.one(answer, "outcome"))
