"""A client of the Health Gorilla look-alike over HTTP, and the bodies of its tests."""

from __future__ import annotations

import copy
import time
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests

from bot_layer.fhir.json import Json
from medplum_sandbox.health_gorilla import HealthGorillaSandbox, npi

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
NPI_SYSTEM = "http://hl7.org/fhir/sid/us-npi"
LOGIN = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/hg-practitioner-login"
PASSWORD = "https://www.healthgorilla.com/fhir/R4/StructureDefinition/hg-practitioner-password"
V2_0203 = "http://terminology.hl7.org/CodeSystem/v2-0203"


def claims(hg: HealthGorillaSandbox, **changes: Any) -> Json:
    """The claims of a valid assertion, with changes; None removes one."""
    now = int(time.time())
    good = {"iss": hg.client_uri, "sub": hg.user_login, "aud": hg.audience, "iat": now, "nbf": now, "exp": now + 300}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def bearer_form(hg: HealthGorillaSandbox, assertion: str | None = None, **changes: str) -> dict[str, str]:
    """A good jwt-bearer request, with changes."""
    signed = assertion or jwt.encode(claims(hg), hg.client_secret, "HS256")
    return {"grant_type": JWT_BEARER, "client_id": hg.client_id, "assertion": signed, **changes}


class Caller:
    """A client with a token."""

    def __init__(self, hg: HealthGorillaSandbox, *, scope: str = "user/*.* create_users") -> None:
        self.hg = hg
        self.session = requests.Session()
        answer = self.session.post(hg.token_url, data=bearer_form(hg, scope=scope), timeout=240)
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        self.session.headers["Content-Type"] = "application/fhir+json"

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        """The answer to one request; underscores in header names become hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.request(method, f"{self.hg.base_url}/{path}", json=body, headers=sent, timeout=240)

    def get(self, path: str, **params: str) -> Json:
        """The body of a good GET."""
        answer = self.session.get(f"{self.hg.base_url}/{path}", params=params, timeout=240)
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body

    def enroll(self, body: Json) -> str:
        """The id of a PractitionerRole that is created without a complaint."""
        answer = self.send("POST", "PractitionerRole", body)
        assert answer.status_code == 201, answer.text
        return location_id(answer)


def location_id(answer: requests.Response) -> str:
    """The id in a Location header of any shape."""
    parts = urlsplit(answer.headers["Location"]).path.split("/")
    return parts[parts.index("R4") + 2]


def clinical(hg: HealthGorillaSandbox, seed: int = 1, **changes: Any) -> Json:
    """A PractitionerRole for one of the invented clinicians; changes are made to the contained Practitioner."""
    record = hg.directory.by_npi(npi(seed))[0]
    contained = {
        "resourceType": "Practitioner",
        "id": "pr",
        "meta": {
            "profile": [
                "http://hl7.org/fhir/us/core/StructureDefinition/us-core-practitioner",
                "https://healthgorilla.com/fhir/StructureDefinition/hg-practitioner",
            ]
        },
        "identifier": [copy.deepcopy(record["identifier"][1])],
        "name": copy.deepcopy(record["name"]),
        "extension": [{"url": LOGIN, "valueString": f"login.{seed}"}],
        **changes,
    }
    return {
        "resourceType": "PractitionerRole",
        "meta": {"profile": ["https://healthgorilla.com/fhir/StructureDefinition/hg-user"]},
        "active": True,
        "practitioner": {"reference": "#pr"},
        "code": [
            {
                "coding": [
                    {"system": "https://www.healthgorilla.com/administrative-role", "code": "provider"},
                    {"system": "http://hl7.org/fhir/practitioner-role", "code": "doctor"},
                ]
            }
        ],
        "contained": [contained],
    }


def staff(login: str = "front.desk", **changes: Any) -> Json:
    """A PractitionerRole for a person without NPI; changes are made to the role."""
    contained = {
        "resourceType": "Practitioner",
        "id": "nc1",
        "meta": {"profile": ["https://healthgorilla.com/fhir/StructureDefinition/hg-practitioner"]},
        "name": [{"family": "Deskwright", "given": ["Flora"]}],
        "extension": [{"url": LOGIN, "valueString": login}],
    }
    return {
        "resourceType": "PractitionerRole",
        "meta": {"profile": ["https://healthgorilla.com/fhir/StructureDefinition/hg-user"]},
        "active": True,
        "practitioner": {"reference": "#nc1"},
        "code": [{"coding": [{"system": "https://www.healthgorilla.com/administrative-role", "code": "staff"}]}],
        "contained": [contained],
        **changes,
    }


def account_number(lab: str, value: str) -> Json:
    """An account number at a lab, typed by coding and text."""
    kind = {"coding": [{"system": V2_0203, "code": "AN", "display": "Account number"}], "text": "Account number"}
    return {"type": kind, "assigner": {"reference": f"Organization/{lab}"}, "value": value}


def numbers(practitioner: Json) -> list[str]:
    """The values of the account numbers."""
    return [i["value"] for i in practitioner["identifier"] if i.get("type", {}).get("text") == "Account number"]


def patient(value: str = "p-1", **changes: Any) -> Json:
    """A Patient that can be registered, with changes; None removes an element."""
    kind = {"coding": [{"system": V2_0203, "code": "PT", "display": "Patient external identifier"}]}
    good: Json = {
        "resourceType": "Patient",
        "identifier": [{"type": kind, "system": "https://clinic.example", "value": value}],
        "name": [{"use": "usual", "family": "Fernwood", "given": ["Opal", "Rue"]}],
        "gender": "female",
        "birthDate": "1990-06-08",
        "address": [{"line": ["123 Fake Street"], "city": "Monica", "state": "CA", "postalCode": "90402"}],
        **changes,
    }
    return {name: element for name, element in good.items() if element is not None}
