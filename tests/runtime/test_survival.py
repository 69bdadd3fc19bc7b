"""Runs that survive: hosts that are killed in the middle, with real processes and an inbox on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot_layer.collection import load
from bot_layer.core.json import Json
from bot_layer.deploy.run import Request, carry_out, survey
from bot_layer.stage.world import Options, World
from tests.runtime.process import HostProcess, until

NPI = "http://hl7.org/fhir/sid/us-npi"
HEALTH_GORILLA = "https://www.healthgorilla.com"


@pytest.fixture
def world() -> Iterator[World]:
    with World(Options(with_bots=False)) as running:
        running.put_secrets(running.settings())
        request = Request(load())
        assert carry_out(running.client(), request, survey(running.client(), request)).error is None
        yield running


def _npi(number: int) -> str:
    """An invented NPI with a right check digit (ISO 7812 with the prefix 80840)."""
    stem = f"1{77000000 + number:08d}"
    digits = [int(digit) for digit in f"80840{stem}"]
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 == 0 else digit for place, digit in enumerate(reversed(digits))]
    return f"{stem}{-sum(doubled) % 10}"


def _newcomer(world: World, number: int) -> Json:
    """A clinician whom the directory knows, created in Medplum: the Subscription enrols them."""
    world.gorilla.directory.add(npi=_npi(number), family="Example", given=["Ann"], suffix=["MD"])
    person = {
        "resourceType": "Practitioner",
        "identifier": [{"system": NPI, "value": _npi(number)}],
        "name": [{"family": "Example", "given": ["Ann"]}],
    }
    return world.client().create(person)


def _accounts(world: World, number: int) -> int:
    """How many accounts Health Gorilla has for an NPI."""
    accounts = world.gorilla.state.accounts_in(world.gorilla.tenant_id)
    return sum(_npi(number) in str(account) for account in accounts)


def _written_back(world: World, person: Json) -> list[str]:
    found = world.client().read(f"Practitioner/{person['id']}")
    return [each["value"] for each in found["identifier"] if each.get("system") == HEALTH_GORILLA]


class _Killer:
    """Kills the host when a look-alike gets the n-th request of a run; the look-alike still carries it out."""

    def __init__(self, world: World, host: HostProcess) -> None:
        self.host = host
        self.left: int | None = None
        self.armed = False
        for faults in (world.medplum.faults, world.gorilla.faults):
            faults.add("slow", when=self._strike, seconds=0)

    def _strike(self, _method: str, path: str) -> bool:
        if path.endswith("/auth/me"):
            self.armed = True  # the host asks this before it takes an event in; a run begins after it
        elif self.left is not None and self.armed:
            self.left -= 1
            if self.left == 0:
                self.host.kill()
                self.left = None
        return False


@pytest.mark.parametrize("key", ["", "a-key-for-this-test"], ids=["references", "encrypted"])
def test_a_host_killed_at_every_step_of_an_enrolment_enrols_once(world: World, tmp_path: Path, key: str) -> None:
    """Killed at each request of a run and started again, the host ends the run: one account, one id written back."""
    with HostProcess(
        world.medplum.base_url, tmp_path / "inbox.sqlite", BOT_HOST_INBOX_KEY=key, **world.environment()
    ) as host:
        world.medplum.bot_host = host.address
        killer = _Killer(world, host)
        step, killed = 0, True
        while killed:
            step += 1
            killer.left, killer.armed = step, False
            person = _newcomer(world, step)
            world.medplum.settle(timeout=60)
            until(lambda: not host.alive or host.idle())
            killed = not host.alive
            killer.left = None
            if killed:
                host.wait()
                host.start()
                until(host.idle)
            assert (_accounts(world, step), len(_written_back(world, person))) == (1, 1), (
                f"killed at step {step}: {host.lines}"
            )
        assert step > 5
