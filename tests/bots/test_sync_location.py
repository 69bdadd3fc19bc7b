"""sync-location, rule by rule, between both look-alikes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bot_layer.fhir.json import Json
from bot_layer.fhir.parameters import one
from bots.sync_location import handler
from bots.sync_practitioner import handler as sync_practitioner
from medplum_sandbox.health_gorilla import Switches
from tests.bots.practice_world import (
    HG,
    World,
    account_number,
    action,
    clinician,
    codes,
    differences,
    differing,
    named,
    organization,
    world,
)

PREVIEW = {"name": "preview", "valueBoolean": True}
ADDRESS = {"line": ["7 Canopy Road"], "city": "Lumberton", "state": "TX", "postalCode": "77657"}


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def office(place: World, **changes: Any) -> Json:
    return place.store(organization(**{"address": [ADDRESS], **changes}))


def sync(place: World, location: Json, *entries: Json) -> Json:
    return place.call(handler, named("location", location), *entries)


def kept(location: Json) -> list[str]:
    return [found["value"] for found in location.get("identifier", []) if found.get("system") == HG]


def there(place: World) -> list[Json]:
    return [found for found in place.gorilla.organizations() if found["id"].startswith("tl-")]


def test_a_location_is_created_once_and_written_to_medplum(here: World) -> None:
    """The first call makes it, with the default country, and writes its id back; the second writes nothing."""
    location = office(here, telecom=[{"system": "phone", "value": "+1 555 0102"}])
    answer = sync(here, location)
    assert action(answer) == "created"
    (made,) = there(here)
    assert made["address"][0]["country"] == "US"
    assert made["partOf"] == {"reference": f"Organization/{here.gorilla.tenant_id}"}
    now = here.read(location)
    assert kept(now) == [made["id"]] == [one(answer, "healthGorillaId")]

    here.gorilla.heard.clear()
    assert action(sync(here, now)) == "unchanged"
    assert here.gorilla.heard == []
    assert here.read(location)["meta"]["versionId"] == now["meta"]["versionId"]


def test_a_change_in_medplum_arrives_and_nothing_else_is_lost(here: World) -> None:
    """Only the differences are changed with PUT; Health Gorilla's other data stay."""
    location = office(here)
    sync(here, location)
    (made,) = there(here)
    here.gorilla.state.organizations[made["id"]]["alias"] = ["The old mill"]
    here.put({**here.read(location), "name": "Canopy Office", "address": [{**ADDRESS, "country": "USA"}]})
    assert action(sync(here, location)) == "updated"
    (changed,) = there(here)
    assert (changed["name"], changed["address"][0]["country"]) == ("Canopy Office", "USA")
    assert changed["alias"] == ["The old mill"]
    assert action(sync(here, location)) == "unchanged"


def test_a_line_that_is_taken_away_or_moved_in_medplum_is_so_there(here: World) -> None:
    """The lines are one text: mail to a suite that the office has left would be lost."""
    location = office(here, address=[{**ADDRESS, "line": ["7 Canopy Road", "Suite 5"]}])
    sync(here, location)
    for lines in (["Suite 5", "7 Canopy Road"], ["7 Canopy Road"]):
        here.put({**here.read(location), "address": [{**ADDRESS, "line": lines}]})
        assert action(sync(here, location)) == "updated"
        assert there(here)[0]["address"][0]["line"] == lines
    assert action(sync(here, location)) == "unchanged"


def test_an_existing_location_is_linked(here: World) -> None:
    """One of the same name and address in the tenant is taken instead of making a second; two are for a person."""
    location = office(here)
    first = sync(here, location)
    twin = office(here, name="  lumberton OFFICE ")
    assert one(sync(here, twin), "healthGorillaId") == one(first, "healthGorillaId")
    assert len(there(here)) == 1

    (made,) = there(here)
    here.gorilla.state.organizations["tl-" + "b" * 24] = {**made, "id": "tl-" + "b" * 24}
    assert codes(sync(here, office(here))) == ["location-ambiguous"]


def test_a_page_with_status_200_is_no_location(here: World) -> None:
    """A gateway's page in place of an answer is a lost answer: it is looked up, and sent again."""
    location = office(here)
    here.gorilla.faults.add("html", method="POST", path="/Organization", status=200, times=1)
    assert (action(sync(here, location)), len(there(here))) == ("created", 1)
    here.put({**here.read(location), "name": "Canopy Office"})
    here.gorilla.faults.add("html", method="PUT", path="/Organization", status=200, times=1)
    assert (action(sync(here, location)), there(here)[0]["name"]) == ("updated", "Canopy Office")


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_lost_answer_makes_no_second_location(keys: bool, method: str) -> None:
    """After a lost answer the location is looked up before anything is sent again."""
    with world(Switches(idempotency_keys=keys)) as here:
        location = office(here)
        if method == "PUT":
            sync(here, location)
            location = here.put({**here.read(location), "name": "Canopy Office"})
        here.gorilla.faults.add("reset_after_write", times=1, path="Organization")
        answer = sync(here, location)
        assert action(answer) == ("created" if method == "POST" else "updated")
        assert [found["id"] for found in there(here)] == kept(here.read(location))
        assert there(here)[0]["name"] == here.read(location)["name"]


def test_a_conflict_is_settled_by_a_second_look(here: World) -> None:
    """If the location changes at the same moment, it is read again, and the change is made."""
    location = office(here)
    sync(here, location)
    here.put({**here.read(location), "name": "Canopy Office"})
    here.gorilla.faults.add("conflict", times=1, path="Organization")
    assert action(sync(here, location)) == "updated"
    here.put({**here.read(location), "name": "Bark Office"})
    here.gorilla.faults.add("conflict", path="Organization")
    answer = sync(here, location)
    assert (action(answer), codes(answer)) == ("failed", ["location-in-flight"])


@pytest.mark.parametrize("switches", Switches.combinations()[::3], ids=differing)
def test_it_works_under_every_switch_of_health_gorilla(switches: Switches) -> None:
    """Created, left, changed and left again, under many combinations of undocumented behavior."""
    with world(switches) as here:
        location = office(here)
        assert [action(sync(here, location)) for _ in range(2)] == ["created", "unchanged"]
        here.put({**here.read(location), "name": "Canopy Office"})
        assert [action(sync(here, location)) for _ in range(2)] == ["updated", "unchanged"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"active": False}, "organization-inactive"),
        ({"name": None, "alias": ["No name"]}, "location-name-missing"),
        ({"address": [{**ADDRESS, "use": "old"}]}, "location-address-missing"),
        ({"address": [{"line": ["7 Canopy Road"], "city": "Lumberton"}]}, "location-address-missing"),
        ({"identifier": [{"system": HG, "value": "f-" + "a" * 24}]}, "not-a-location"),
        ({"identifier": [{"system": HG, "value": "tl-" + "a" * 24}]}, "location-vanished"),
        (
            {"identifier": [{"system": HG, "value": f"tl-{letter * 24}"} for letter in "ab"]},
            "health-gorilla-id-ambiguous",
        ),
    ],
)
def test_what_is_refused(here: World, changes: Json, code: str) -> None:
    """Each thing that an Organization can lack, or have too much of, has its code; nothing is written."""
    given = {key: value for key, value in {"address": [ADDRESS], **organization(), **changes}.items() if value}
    if "active" in changes:
        given["active"] = False
    if code == "location-name-missing":
        given["identifier"] = [{"system": "https://clinic.example", "value": "1"}]
    answer = sync(here, here.store(given))
    assert (action(answer), codes(answer)) == ("refused", [code])
    assert there(here) == []


def test_preview_writes_nothing(here: World) -> None:
    """A preview reports what would be created or changed, and writes nothing."""
    location = office(here)
    answer = sync(here, location, PREVIEW)
    assert (action(answer), differences(answer)) == ("created", ["Organization: create"])
    assert one(answer, "payload")["name"] == "Lumberton Office"
    assert there(here) == []
    sync(here, location)
    here.put({**here.read(location), "name": "Canopy Office"})
    answer = sync(here, location, PREVIEW)
    assert (action(answer), differences(answer)) == ("updated", ["Organization.name: replaced"])
    assert there(here)[0]["name"] == "Lumberton Office"


def test_a_location_does_not_move_to_another_tenant(here: World) -> None:
    """The tenant is the parameter's, else the parent's in Medplum; a location that is another's is not touched."""
    parent = here.store(organization(here.gorilla.subtenant_id, name="Rain Forest Practice"))
    location = office(here, partOf={"reference": f"Organization/{parent['id']}"})
    assert action(sync(here, location)) == "created"
    (made,) = there(here)
    assert made["partOf"]["reference"] == f"Organization/{here.gorilla.subtenant_id}"
    home = {"name": "organization", "valueReference": {"reference": f"Organization/{here.gorilla.tenant_id}"}}
    assert codes(sync(here, location, home)) == ["location-of-other-tenant"]


def test_clinicians_can_be_assigned_to_it_at_once(here: World) -> None:
    """sync-practitioner accepts a synced location; account numbers on it reach the clinicians there."""
    laboratory = here.store(organization(here.gorilla.labs[0]))
    location = office(here, identifier=[account_number(laboratory, "OFFICE")])
    sync(here, location)
    person = here.store(clinician())
    assert (
        action(here.call(sync_practitioner, named("practitioner", person), named("location", location))) == "enrolled"
    )
    assert "OFFICE" in str(here.account())


def test_an_unknown_refusal_is_reported_by_status(here: World) -> None:
    """A refusal of Health Gorilla's is passed on as a failure of the service, without its words."""
    location = office(here)
    sync(here, location)
    here.gorilla.faults.add("server_error", status=404, path="Organization", times=1)
    assert codes(sync(here, location)) == ["location-vanished"]
    here.gorilla.faults.add("server_error", status=418, path="Organization", times=1)
    assert codes(sync(here, location)) == ["refused-by-service"]
    here.put({**here.read(location), "name": "Canopy Office"})
    here.gorilla.faults.add("server_error", status=422, path="Organization", method="PUT", times=1)
    assert codes(sync(here, location)) == ["refused-by-service"]
