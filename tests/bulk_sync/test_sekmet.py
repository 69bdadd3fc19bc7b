"""The sync works with a third-party server: sekmet-fhir, with its SMART login and its $export at three levels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import sekmet.config
import sekmet.main
from starlette.types import Receive, Scope, Send

from bot_layer.bulk_sync.engine import Sync
from bot_layer.bulk_sync.options import Options, Surroundings
from bot_layer.bulk_sync.rules.settings import read_settings
from bot_layer.fhir.json import Json
from bot_layer.medplum.client import connect_client
from medplum_sandbox.medplum import MedplumSandbox
from medplum_sandbox.server import Server
from tests.bulk_sync.world import assert_adds_up, counts, observation, patient

pytestmark = pytest.mark.no_cover  # the ways of a run, with another source

PRACTITIONER: Json = {"resourceType": "Practitioner", "id": "d1", "name": [{"family": "Sample"}]}
GROUP: Json = {
    "resourceType": "Group",
    "id": "g1",
    "type": "person",
    "actual": True,
    "member": [{"entity": {"reference": "Patient/p1"}}],
}
CLIENT, SECRET = "sync", "a-secret-for-one-test"


@dataclass
class Later:
    """An app whose settings need the address that it gets."""

    app: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        await self.app(scope, receive, send)  # type: ignore[operator] # set before the first request


@contextmanager
def hospital(folder: Path) -> Iterator[str]:
    """sekmet's base address, with a few resources."""
    later = Later()
    server = Server(later)
    base = server.base_url + "/fhir"
    clients = [sekmet.config.SmartClient(client_id=CLIENT, client_secret=SECRET, scopes="system/*.*")]
    auth = sekmet.config.ServerAuth(types=["smart"], smart_clients=clients)
    simulator = sekmet.config.SimulatorSettings(enabled=False)
    later.app = sekmet.main.create_app(
        sekmet.config.Settings(base_url=base, data_dir=str(folder), server_auth=auth, simulator=simulator)
    )
    with server:
        for each in (PRACTITIONER, patient("p1"), patient("p2"), GROUP, *(observation(f"o{n}") for n in range(5))):
            put(base, each)
        yield base


def put(base: str, resource: Json) -> None:
    """Write to sekmet past the client under test."""
    form = {"grant_type": "client_credentials", "scope": "system/*.*"}
    root = base.removesuffix("/fhir")
    token = requests.post(f"{root}/auth/token", data=form, auth=(CLIENT, SECRET), timeout=240).json()["access_token"]
    answer = requests.put(
        f"{base}/{resource['resourceType']}/{resource['id']}",
        json=resource,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"},
        timeout=240,
    )
    assert answer.status_code in (200, 201), answer.text


@pytest.mark.parametrize(("level", "people"), [("group", {"p1"}), ("patient", {"p1", "p2"}), ("system", {"p1", "p2"})])
def test_a_foreign_server_is_synced_at_each_level(level: str, people: set[str], tmp_path: Path) -> None:
    """First run, nothing new, then one change: as with our own sandbox."""
    with hospital(tmp_path / "hospital") as base, MedplumSandbox() as medplum:
        settings = read_settings(
            {
                "PF_FHIR_BASE_URL": base,
                "PF_CLIENT_ID": CLIENT,
                "PF_CLIENT_SECRET": SECRET,
                "PF_EXPORT_LEVEL": level,
                "PF_SCOPES": "system/*.rs",  # it also requires a permission for the status address, which no type has
                "PF_RESOURCE_TYPES": "Patient,Practitioner,Observation",
            }
            | ({"PF_GROUP_ID": "g1"} if level == "group" else {})
        )

        def run() -> dict[str, int]:
            login = connect_client(medplum.base_url, medplum.client_id, medplum.client_secret)
            within = Surroundings(place=str(tmp_path / "map"), sleep=lambda _: None)
            sync = Sync(settings, login, within=within)
            state = sync.run(Options())
            sync.map.close()
            assert_adds_up(state)
            return counts(state)

        def stored(kind: str) -> dict[str, Json]:
            headers = {"Authorization": f"Bearer {medplum.token_for()}"}
            url = f"{medplum.base_url}/fhir/R4/{kind}?identifier=https://practicefusion.com/fhir/{kind.lower()}-id|"
            found = requests.get(url, headers=headers, timeout=240).json().get("entry", [])
            return {each["resource"]["identifier"][-1]["value"]: each["resource"] for each in found}

        assert run()["failed"] == 0
        assert set(stored("Patient")) == people
        assert set(stored("Observation")) == {f"o{n}" for n in range(5)}
        person = f"Patient/{stored('Patient')['p1']['id']}"
        assert {each["subject"]["reference"] for each in stored("Observation").values()} == {person}
        put(base, observation("o1", status="amended"))
        assert run()["updated"] == 1
        assert stored("Observation")["o1"]["status"] == "amended"
