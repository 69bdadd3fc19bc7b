"""A Medplum with the bots deployed but without a host, and clinicians whom its Subscription enrolls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bot_layer.bot.collection import load
from bot_layer.demo.world import Options, World
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.fhir.json import Json

NPI = "http://hl7.org/fhir/sid/us-npi"
HEALTH_GORILLA = "https://www.healthgorilla.com"


@contextmanager
def deployed() -> Iterator[World]:
    """The world with every bot deployed, and its secrets set; a test starts the hosts."""
    with World(Options(with_bots=False)) as running:
        running.put_secrets(running.settings())
        request = Request(load())
        assert carry_out(running.client(), request, survey(running.client(), request)).error is None
        yield running


def npi(number: int) -> str:
    """An invented NPI with a right check digit (ISO 7812 with the prefix 80840)."""
    stem = f"1{77000000 + number:08d}"
    digits = [int(digit) for digit in f"80840{stem}"]
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 == 0 else digit for place, digit in enumerate(reversed(digits))]
    return f"{stem}{-sum(doubled) % 10}"


def newcomer(world: World, number: int) -> Json:
    """A clinician from the directory, created in Medplum: the Subscription enrolls them."""
    world.gorilla.directory.add(npi=npi(number), family="Example", given=["Ann"], suffix=["MD"])
    return world.client().create(
        {
            "resourceType": "Practitioner",
            "identifier": [{"system": NPI, "value": npi(number)}],
            "name": [{"family": "Example", "given": ["Ann"]}],
        }
    )


def accounts(world: World, number: int) -> int:
    """How many accounts Health Gorilla has for an NPI."""
    found = world.gorilla.state.accounts_in(world.gorilla.tenant_id)
    return sum(npi(number) in str(account) for account in found)


def written_back(world: World, subject: Json, kind: str = "Practitioner") -> list[str]:
    """The ids of Health Gorilla that Medplum has for someone."""
    found = world.client().read(f"{kind}/{subject['id']}")
    return [each["value"] for each in found.get("identifier", []) if each.get("system") == HEALTH_GORILLA]
