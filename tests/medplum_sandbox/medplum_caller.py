"""A Medplum sandbox and an HTTP client that is logged in to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from bot_layer.fhir.json import Json
from medplum_sandbox.medplum import MedplumSandbox

SYSTEM = "https://example.org/id"


class Caller(httpx.Client):
    """A client whose paths start at the FHIR API."""

    def created(self, resource: Json) -> Json:
        """The resource as it was created."""
        answer = self.post(resource["resourceType"], json=resource)
        assert answer.status_code == 201, answer.text
        made: Json = answer.json()
        return made

    def found(self, path: str) -> list[Json]:
        """The resources that a search finds."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return [entry["resource"] for entry in answer.json().get("entry", ())]

    def batch(self, *entries: Json, type: str = "batch") -> list[Json]:
        """The entries of the answer to a batch."""
        answer = self.post("", json={"resourceType": "Bundle", "type": type, "entry": list(entries)})
        assert answer.status_code == 200, answer.text
        answered: list[Json] = answer.json()["entry"]
        return answered


@contextmanager
def medplum(**settings: Any) -> Iterator[tuple[MedplumSandbox, Caller]]:
    """The sandbox and its administrator."""
    with MedplumSandbox(**settings) as sandbox, caller(sandbox) as client:
        yield sandbox, client


def caller(sandbox: MedplumSandbox, token: str | None = None) -> Caller:
    """A client with the project client's token, or another."""
    bearer = token or sandbox.token_for()
    return Caller(base_url=f"{sandbox.base_url}/fhir/R4", headers={"Authorization": f"Bearer {bearer}"}, timeout=240)


def patient(value: str, **fields: Any) -> Json:
    """An invented patient with an identifier."""
    identifier = [{"system": SYSTEM, "value": value}]
    return {"resourceType": "Patient", "identifier": identifier, "name": [{"family": "Sample"}], **fields}


def entry(method: str, url: str, resource: Json | None = None, **request: Any) -> Json:
    """An entry of a batch."""
    made: Json = {"request": {"method": method, "url": url, **request}}
    return {**made, "resource": resource} if resource is not None else made


def text_of(answer: httpx.Response) -> str:
    """The text of the outcome's first issue."""
    found: str = answer.json()["issue"][0]["details"]["text"]
    return found
